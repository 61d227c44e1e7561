"""Can this server's binlog be read, and what on the server will give trouble? Each finding names what was found, what
is needed and the command that sets it. Pure, `log_warnings` aside.

A finding of `findings` makes the feeder wait: it would publish nothing, or break others. One of `warnings` is logged
once, at the start. A wrong clock is among those: claims do not depend on clocks, and no dispatch at all would be worse
than delays that are off by as much.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from beads_dispatch import log, store, suspension
from beads_dispatch.log import Action

logger = log.get("feeder")

OLDEST = (1, 87, 0)
_INDEXES_FIXED = (2, 2, 4)

CLOCK_TOLERANCE = timedelta(seconds=60)  # a person's delays are minutes; NTP keeps milliseconds

# Server variables that are read at its start only, and the values that will do.
_NEEDED = {
    "log_bin": ("1", "ON"),
    "gtid_mode": ("ON",),
    "enforce_gtid_consistency": ("ON",),
    "binlog_row_metadata": ("FULL",),  # column names in the events
}


class Unfit(Exception):
    """The server's binlog cannot be read. The text names what to set."""


def require(variables: Mapping[str, str]) -> None:
    """Raises Unfit when there are findings."""
    found = findings(variables)
    if found:
        raise Unfit(" ".join(found))


def findings(variables: Mapping[str, str]) -> list[str]:
    """What is wrong with a server whose variables (and `dolt_version`, and the database's `branch`) these are; empty
    when nothing is."""
    found = []
    version = variables["dolt_version"]
    if _version(version) < OLDEST:
        found.append(
            f"dolt_version() is {version}, needed 1.87.0 or newer: before it, the binlog breaks the server's own"
            " writers. Install a newer Dolt."
        )
    needed = {**_NEEDED, "log_bin_branch": (variables["branch"],)}  # on another branch it holds no change of ours
    for name, fit in needed.items():
        value = variables[name]
        if value.upper() not in fit and value not in fit:
            setting = "1" if name == "log_bin" else f'"{fit[-1]}"'
            found.append(
                f"{name} is {value}, needed {fit[-1]}. Run `dolt sql -q 'SET PERSIST {name} = {setting}'` (or put"
                f" `{name}: {setting}` under system_variables in the server's config.yaml) and restart the server."
            )
    return found


def log_warnings(beads: store.Store) -> None:
    """Log what on the server will give trouble. Where that cannot be read, that is one of the lines."""
    try:
        state = beads.server.state()
        lines = warnings(state, datetime.now(UTC))
        if state.remotes and beads.control.dispatching_replica() is None:
            found = beads.feeders.find()
            lines.append(_clone(state.remotes, found.beat.replica if found else "<id>"))
    except store.StoreError as exc:
        lines = [f"the server's settings cannot be checked: {exc}"]
    for line in lines:
        logger.warning(line, extra=log.context(action=Action.PREFLIGHT))


def warnings(state: store.ServerState, now: datetime) -> list[str]:
    """What on the server will give trouble; `now` is this process's clock."""
    found = [*_clocks(state, now), *_tables(state)]
    if not state.file_folder:
        found.append(
            "secure_file_priv is not set: any user of this Dolt server, also without a privilege, can write files on"
            ' its host (SELECT … INTO OUTFILE). Put `secure_file_priv: "<an empty folder>"` under system_variables in'
            " the server's config.yaml and restart it."
        )
    return found


def _clocks(state: store.ServerState, now: datetime) -> list[str]:
    found = []
    offset, ahead = state.local - state.utc, state.utc - now.replace(tzinfo=None)
    if abs(offset) > CLOCK_TOLERANCE:
        found.append(
            f"Dolt's NOW() is {_span(offset)} UTC, and bd's times are UTC: what plain SQL writes is dated wrong, so"
            " that activity counts too long or not at all. Run `dolt sql -q \"SET PERSIST time_zone = '+00:00'\"`."
        )
    if abs(ahead) > CLOCK_TOLERANCE:
        found.append(
            f"Dolt's clock is {_span(ahead)} this process's: deferred beads, retry delays and the reaper are off by as"
            " much. Set the clock of the host that is wrong, by NTP; `date -u` on both shows which."
        )
    return found


def _span(offset: timedelta) -> str:
    return f"{abs(int(offset.total_seconds()))} s {'ahead of' if offset > timedelta() else 'behind'}"


def _tables(state: store.ServerState) -> list[str]:
    found = []
    if state.virtual_columns:
        found.append(
            f"with the binlog on, Dolt fails every INSERT into a table with a VIRTUAL generated column; this server has"
            f" {', '.join(state.virtual_columns)}. Make it STORED (drop the column and add it again), or move the table"
            " to another server."
        )
    if state.functional_indexes and _version(state.version) < _INDEXES_FIXED:
        found.append(
            f"with the binlog on, Dolt {state.version} fails every INSERT into a table with a functional index"
            f" (dolthub/dolt#11475); this server has {', '.join(state.functional_indexes)}. Install Dolt 2.2.4 or"
            " newer, or drop the index."
        )
    return found


def _clone(remotes: tuple[str, ...], replica: str) -> str:
    return (
        f"this database has a remote ({', '.join(remotes)}): where a clone of it has a deployment too, both dispatch"
        f" the same beads. Name the one that dispatches, in one clone: `bd kv set {suspension.REPLICA} {replica}` names"
        ' this one (docs/runbook.md, "Clones").'
    )


def _version(text: str) -> tuple[int, ...]:
    numbers = text.split("-")[0].split(".")
    return tuple(int(number) if number.isdigit() else 0 for number in numbers)
