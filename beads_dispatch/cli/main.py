"""The command beads-dispatch: the table of commands, the parser, and the exit status for each way to fail.

A command is the module of its name: `add_arguments(parser)` and `run(context)`, which returns the exit status.
"""

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Mapping, Sequence

from beads_dispatch.cli import terminal, version
from beads_dispatch.cli.context import CommandError, Context
from beads_dispatch.settings import SettingsError
from beads_dispatch.store import StoreError

_DESCRIPTION = """\
Shows and steers what beads-dispatch does. A bead that is assigned to `agent` is dispatched to the agent's backend by
itself; these commands show what is in progress and what is in the queue, why a bead is not dispatched, and what
happened when.

They need the Dolt server and nothing else, and find it as bd does: by DOLT_HOST, DOLT_PORT, DOLT_USER, DOLT_PASSWORD
and DOLT_DATABASE, by BEADS_DIR, or by the nearest .beads folder upwards from here. DOLT_TLS_CA_FILE names the CA of the
server's certificate; FEED_NAME the deployment, where two share the database.
"""

_EPILOG = """\
Is everything in order?     beads-dispatch doctor
A bead does not start?      beads-dispatch explain <id>
And at that time?           beads-dispatch explain <id> --as-of '2026-07-15 09:30'
What is going on?           beads-dispatch status
Stop and start it:          beads-dispatch suspend, beads-dispatch resume

Exit status: 0 done, 1 not done (one line on stderr gives the reason), 2 wrong command line, 130 interrupted.
"""


_COMMANDS = {
    "doctor": "whether everything is as it has to be, and how to get it so",
    "status": "what is suspended, held, in progress, queued, delayed or inactive",
    "agents": "which agents there are, and how each is",
    "explain": "why a bead is or is not dispatched, and what happened to it",
    "replay": "what would have been dispatched, beside what was",
    "watch": "each step of each bead, as it happens",
    "suspend": "suspend dispatch, reap or both",
    "resume": "resume dispatch, reap or both",
    "dispatch": "dispatch a bead now, by hand",
    "release": "release the claim on a bead: it is open again",
    "reap": "what reap would do now, and when it would reap the others",
    "verify": "whether each claim was dispatched at most once, by Dolt's history",
}
_COMPLETION = "--print-completion"


def main() -> int:
    """The console script beads-dispatch."""
    return run(sys.argv[1:], os.environ)


def run(words: Sequence[str], env: Mapping[str, str]) -> int:
    """One command line; returns the exit status."""
    every = any(word.startswith(_COMPLETION) for word in words)
    parser = _parser([name for name in _COMMANDS if every or name in words])
    arguments = parser.parse_args(words)
    if arguments.shell:
        import shtab  # here: it would take as long as all the rest of the start

        print(shtab.complete(parser, arguments.shell))
        return 0
    if arguments.run is None:
        parser.print_help()
        return 0
    try:
        with contextlib.closing(Context(arguments, env)) as context:
            status: int = arguments.run(context)
            return status
    except (CommandError, SettingsError, StoreError) as exc:
        terminal.warn(f"beads-dispatch: {exc}")
        return exc.status if isinstance(exc, CommandError) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has gone; what is still buffered must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser(loaded: Sequence[str]) -> argparse.ArgumentParser:
    """The parser; only the commands in `loaded` have their arguments."""
    parser = argparse.ArgumentParser(
        prog="beads-dispatch",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=None, json=False)
    parser.add_argument(
        "--version", action="store_const", const=version.run, dest="run", help="show the versions of all parts"
    )
    parser.add_argument(
        _COMPLETION, dest="shell", choices=("bash", "zsh", "tcsh"), help="print the shell's completion script"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, summary in _COMMANDS.items():
        added = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name in loaded:
            # Only what is used is loaded: all of it would take half as long again.
            command = importlib.import_module(f"beads_dispatch.cli.{name}")
            added.add_argument("--json", action="store_true", help="print JSON")
            added.add_argument("--database", metavar="NAME", help="which database, where several are served")
            added.set_defaults(run=command.run)
            command.add_arguments(added)
    return parser


if __name__ == "__main__":
    sys.exit(main())
