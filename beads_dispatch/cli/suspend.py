"""beads-dispatch suspend: a person's pause, written into bd's config as `bd kv set` does it, and committed."""

import argparse
from collections.abc import Sequence

from beads_dispatch.cli import connection, terminal
from beads_dispatch.cli.context import Context
from beads_dispatch.store import StoreError
from beads_dispatch.suspension import Suspension

_BOTH = ("dispatch", "reap")

_DESCRIPTION = """\
Does what `bd kv set auto-dispatch.suspend true` does, for dispatch and reap or the one that is named, and makes a Dolt
commit of it. It counts within a second, before the next claim. `beads-dispatch dispatch` works all the same. (A
PingSource can suspend as well: `status` shows it, and `kn source ping resume` ends it.)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what suspend and resume take."""
    parser.description = _DESCRIPTION
    parser.add_argument("name", nargs="?", choices=_BOTH, help="only this one")


def run(context: Context) -> int:
    """Suspend. Raises SettingsError, StoreError."""
    return change(context, suspend=True)


def change(context: Context, *, suspend: bool) -> int:
    """Suspend or resume what the command line names, leave the other as it is, and print what is suspended then."""
    control = context.store.control
    names = [context.arguments.name] if context.arguments.name else _BOTH
    configured = control.configured()
    control.set_configured(
        dispatch=suspend if "dispatch" in names else configured.dispatch is not None,
        reap=suspend if "reap" in names else configured.reap is not None,
    )
    try:
        control.commit_configured(connection.actor(context.given, None))
    except StoreError as exc:
        terminal.warn(f"done, but bd's config is not committed: {exc}. `bd dolt commit` commits it.")
    context.show(control.suspension(), lambda found: lines(found, names, suspend=suspend))
    return 0


def lines(found: Suspension, names: Sequence[str], *, suspend: bool) -> list[str]:
    """What became of each, and what else still suspends it."""
    written = []
    for name in names:
        reason = found.dispatch if name == "dispatch" else found.reap
        if suspend:
            written.append(f"{name} is suspended; `beads-dispatch resume {name}` resumes it")
        elif reason is None:
            written.append(f"{name} is on")
        else:
            written.append(f"{name} is still suspended: {reason}; `kn source ping resume {name}` ends that")
    return written
