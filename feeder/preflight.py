"""The feeder's look at the server, by store.server_check: at its start, and at each connect.

What makes the binlog unreadable makes the feeder wait. All else is logged once, at the start.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

from beads_dispatch import log, store
from beads_dispatch.log import Action
from beads_dispatch.store import server_check

logger = log.get("feeder")


class Unfit(Exception):
    """The server's binlog cannot be read, or the feed's state not be used. The text names what to do."""


def require(variables: Mapping[str, str]) -> None:
    """Raises Unfit when there are findings."""
    found = findings(variables)
    if found:
        raise Unfit(" ".join(found))


def findings(variables: Mapping[str, str]) -> list[str]:
    """What is wrong with a server that has these variables (see store.server_check.binlog): what was found, what is
    needed, and the command that sets it. Empty when nothing is."""
    return [check.text for check in server_check.binlog(variables) if not check.ok]


def warnings(state: store.ServerState, now: datetime) -> list[str]:
    """What on the server will give trouble; `now` is this process's clock."""
    return [check.text for check in server_check.surroundings(state, now) if not check.ok]


def log_warnings(beads: store.Store) -> None:
    """Log what on the server will give trouble. Where that cannot be read, that is one of the lines."""
    try:
        state = beads.server.state()
        lines = warnings(state, datetime.now(UTC))
        found = beads.feeders.find()
        replica = beads.control.dispatching_replica()
        clones = server_check.clones(state.remotes, replica, found.beat.replica if found else "<id>")
        lines += [] if clones.ok else [clones.text]
    except store.StoreError as exc:
        lines = [f"the server's settings cannot be checked: {exc}"]
    for line in lines:
        logger.warning(line, extra=log.context(action=Action.PREFLIGHT))
