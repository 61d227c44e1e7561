"""The command beads-dispatch: arguments in, one function per subcommand, text or JSON out."""

import argparse
import contextlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from beads_dispatch import settings, store
from beads_dispatch.agents import beadboard
from beads_dispatch.cli import connection, terminal

_DESCRIPTION = """\
What beads-dispatch does and why, asked and steered from a shell. A bead that is assigned to `agent` is handed to an
agent service; these commands show what runs and what waits, why a bead does not start, and what happened when.

They need the Dolt server and nothing else, and find it as bd does: from DOLT_HOST, DOLT_PORT, DOLT_USER, DOLT_PASSWORD
and DOLT_DATABASE, from BEADS_DIR, or from the nearest .beads folder upwards from here.
"""

_EPILOG = """\
A bead does not start?      beads-dispatch explain <id>
And at that time?           beads-dispatch explain <id> --as-of '2026-07-15 09:30'
What is going on?           beads-dispatch status
Stop it, start it again:    beads-dispatch suspend, beads-dispatch resume

Exit status: 0 done, 1 it could not be done (one line on stderr says why), 2 the command line is wrong.
"""

_RULES_HELP = "what the functions run with, where it is not the default; else from the environment (AGENT_ASSIGNEE, …)"


class CommandError(Exception):
    """It cannot be done; the text is the line for the user."""


@dataclass(frozen=True)
class Context:
    """What a subcommand works with."""

    arguments: argparse.Namespace
    env: Mapping[str, str]
    dolt: settings.DoltSettings
    beads: store.Store

    @property
    def limits(self) -> settings.DispatchLimits:
        """Raises SettingsError."""
        given = {
            name: str(value)
            for name, value in vars(self.arguments).items()
            if name in _RULES.values() and value is not None
        }
        return settings.limits({**self.env, **given})

    def show(self, result: object, lines: Callable[[], Sequence[str]]) -> None:
        """Print a result: as JSON where that is asked for, else its lines."""
        print(terminal.as_json(result) if self.arguments.json else "\n".join(lines()))


# The options that say what the functions run with, and the variables they stand for.
_RULES = {
    "--assignee": "AGENT_ASSIGNEE",
    "--max-in-flight": "MAX_IN_FLIGHT",
    "--slot-silence-minutes": "SLOT_SILENCE_MINUTES",
    "--claim-timeout-seconds": "CLAIM_TIMEOUT_SECONDS",
    "--reap-after-minutes": "REAP_AFTER_MINUTES",
}


def main() -> int:
    """The console script beads-dispatch."""
    return run(sys.argv[1:], os.environ)


def run(words: Sequence[str], env: Mapping[str, str]) -> int:
    """One command line; returns the exit status."""
    try:
        arguments = _parser().parse_args(words)
        with _context(arguments, env) as context:
            status: int = arguments.command(context)
            sys.stdout.flush()
            return status
    except (CommandError, settings.SettingsError, store.StoreError) as exc:
        print(f"beads-dispatch: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Who read us has had enough; what is still buffered must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


@contextlib.contextmanager
def _context(arguments: argparse.Namespace, env: Mapping[str, str]) -> Iterator[Context]:
    found = connection.environment(env, pathlib.Path.cwd())
    dolt = settings.dolt(found)
    beads = store.Store(dolt)
    try:
        yield Context(arguments, found, dolt, beads)
    finally:
        beads.close()


# --- subcommands: each loads what it needs when it is called -------------------------------------------------


def _status(context: Context) -> int:
    from beads_dispatch.cli import status

    found = status.look(context.beads, context.limits, _now())
    context.show(found, lambda: status.lines(found, terminal.paint()))
    return 0


def _explain(context: Context) -> int:
    from beads_dispatch.cli import explain

    bead_id, asked = context.arguments.id, context.arguments.as_of
    try:
        if asked is None:
            service = _agent(context) if context.env.get("BEADBOARD_URL") else None
            found = explain.now(context.beads, context.limits, bead_id, _now(), service)
        else:
            commit, moment = _moment(context, asked)
            past = store.Snapshot(context.dolt, commit.hash, moment)
            with contextlib.closing(past):
                found = explain.then(past, context.beads, context.limits, bead_id, moment, commit.hash)
    except explain.NoSuchBead as exc:
        raise CommandError(str(exc)) from None
    context.show(found, lambda: explain.lines(found, terminal.paint()))
    return 0


def _replay(context: Context) -> int:
    from beads_dispatch.cli import replay

    first, start = _moment(context, context.arguments.start)
    last, end = _moment(context, context.arguments.end)
    if end < start:
        raise CommandError(f"--to ({terminal.moment(end)}) is before --from ({terminal.moment(start)})")
    say = _say if sys.stderr.isatty() else lambda message: None
    found = replay.run(context.dolt, context.beads, context.limits, (first, start), (last, end), say)
    context.show(found, lambda: replay.lines(found, terminal.paint()))
    return 0


def _suspend(context: Context) -> int:
    return _move(context, suspend=True)


def _resume(context: Context) -> int:
    return _move(context, suspend=False)


def _move(context: Context, *, suspend: bool) -> int:
    from beads_dispatch.cli import suspend as suspension

    names = [context.arguments.name] if context.arguments.name else suspension.BOTH
    found = suspension.move(context.beads, names, suspend=suspend)
    context.show(found, lambda: suspension.lines(found, names, suspend=suspend))
    return 0


def _reap(context: Context) -> int:
    from beads_dispatch.cli import reap

    found = reap.look(context.beads, context.limits, _now())
    context.show(found, lambda: reap.lines(found))
    return 0


def _dispatch(context: Context) -> int:
    from beads_dispatch.cli import explain, manual

    try:
        done = manual.dispatch(context.beads, _agent(context), context.limits, context.arguments.id, _now, _say)
    except (manual.NotDone, explain.NoSuchBead) as exc:
        raise CommandError(str(exc)) from None
    context.show(done, lambda: [done.message])
    return 0


def _release(context: Context) -> int:
    from beads_dispatch.cli import explain, manual

    actor = connection.actor(context.env, context.arguments.actor)
    try:
        done = manual.release(context.beads, context.arguments.id, actor, _now())
    except (manual.NotDone, explain.NoSuchBead) as exc:
        raise CommandError(str(exc)) from None
    context.show(done, lambda: [done.message])
    return 0


def _watch(context: Context) -> int:
    from beads_dispatch.cli import watch
    from beads_dispatch.cli.timeline import Entry

    def show(entry: Entry) -> None:
        print(terminal.as_json(entry, indent=None) if context.arguments.json else entry.line(), flush=True)

    _say("watching; Ctrl-C ends it")
    with contextlib.suppress(KeyboardInterrupt):
        watch.run(context.beads, context.limits.assignee, show)
    return 0


# --- what several of them need ------------------------------------------------------------------------------


def _now() -> datetime:
    return datetime.now(UTC)


def _say(message: str) -> None:
    """A line beside the result."""
    print(message, file=sys.stderr, flush=True)


def _agent(context: Context) -> beadboard.BeadBoard:
    return beadboard.BeadBoard(settings.agent(context.env))


def _moment(context: Context, written: str) -> tuple[store.Commit, datetime]:
    """The commit and the moment that a person means."""
    from beads_dispatch.cli import time_arguments

    moment = time_arguments.parse(written, _now())
    if moment is None:
        commit = context.beads.history.commit(written)
        if commit is None:
            raise CommandError(
                f"{terminal.text(written)!r} is no single commit of this database, and no moment such as"
                " '2026-07-15 09:30' (UTC) or 90m (ago)"
            )
        return commit, commit.at
    commit = context.beads.history.commit_at(moment)
    if commit is None:
        first = context.beads.history.first_commit()
        raise CommandError(
            f"{terminal.moment(moment)} is before Dolt's history: it begins with commit {first.hash}"
            f" at {terminal.moment(first.at)}"
        )
    return commit, moment


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="beads-dispatch",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(
        name: str, command: Callable[[Context], int], summary: str, description: str = "", rules: Sequence[str] = ()
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=summary,
            description=description or f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        added.set_defaults(command=command)
        added.add_argument("--json", action="store_true", help="print JSON")
        group = added.add_argument_group("rules", _RULES_HELP) if rules else added
        for option in rules:
            group.add_argument(option, dest=_RULES[option], metavar="NAME" if option == "--assignee" else "N")
        return added

    reaping = ("--assignee", "--claim-timeout-seconds", "--reap-after-minutes")
    slots = ("--assignee", "--max-in-flight", "--slot-silence-minutes")
    add(
        "status",
        _status,
        "what is switched off, held, at work, waiting, cooling down, stuck",
        rules=(*reaping, "--max-in-flight"),
    )
    explain = add(
        "explain",
        _explain,
        "why a bead is or is not dispatched, and what happened to it",
        _EXPLAIN,
        slots,
    )
    explain.add_argument("id", help="the bead")
    explain.add_argument("--as-of", metavar="WHEN", help="a Dolt commit, or a moment (see below)")
    replay = add(
        "replay", _replay, "what would have been dispatched, beside what was", _REPLAY, (*slots, "--reap-after-minutes")
    )
    replay.add_argument("--from", dest="start", metavar="WHEN", required=True, help="where to begin")
    replay.add_argument("--to", dest="end", metavar="WHEN", default="now", help="where to end (now)")
    for name, command, summary in (
        ("suspend", _suspend, "stop dispatch, reap or both"),
        ("resume", _resume, "start them again"),
    ):
        moved = add(name, command, summary, _SWITCH)
        moved.add_argument("name", nargs="?", choices=("dispatch", "reap"), help="only this one")
    reap = add("reap", _reap, "what reap would take now, and when it would take the others", rules=reaping)
    reap.add_argument("--dry-run", action="store_true", required=True, help="only look: reap itself runs by its tick")
    dispatch = add("dispatch", _dispatch, "dispatch a bead now, by hand", _DISPATCH, slots)
    dispatch.add_argument("id", help="the bead")
    release = add("release", _release, "give back the claim on a bead: it is open again", _RELEASE)
    release.add_argument("id", help="the bead")
    release.add_argument("--actor", help="who does it (BEADS_ACTOR, git's user.name, USER)")
    add("watch", _watch, "each step of each bead, as it happens", rules=("--assignee",))
    return parser


_WHEN = """
WHEN is a commit (its hash, the beginning of one, HEAD~3), a moment ('2026-07-15 09:30', '2026-07-15T09:30:00.123Z';
UTC unless it says otherwise), or how long ago (90s, 15m, 2h, 3d).
"""

_EXPLAIN = f"""\
Names the first condition that keeps a bead from being dispatched and the command that mends it, then all conditions,
then what happened to the bead. With --as-of it answers for a moment of the past; what has no history is called
unknown: the hold, the PingSources' switches, and since bd 1.3.0 the signs of life.
{_WHEN}"""

_REPLAY = f"""\
Walks Dolt's commits and runs the predicate and the order of dispatch on each state. The options under `rules` ask what
would have happened with other settings. It writes nothing.
{_WHEN}"""

_SWITCH = """\
Sets bd's custom.auto-dispatch.suspend, as `bd config set` does. It counts within a second, before the next claim.
Without a name: dispatch and reap. Dispatching by hand goes on. (A PingSource may say stop as well: `status` shows it,
and `kn source ping resume` takes it away.)
"""

_DISPATCH = """\
Claims the bead, hands it to the agent service and records the job, as the dispatch function does; BEADBOARD_URL says
where that service is. By hand neither the suspend, a hold nor the retry time is waited for. A slot has to be free, and
the bead has to be assigned, open and ready, with acceptance criteria.
"""

_RELEASE = """\
Ends the claim of beads-dispatch on a bead in progress and opens it again, with a note that says who did it. A bead that
is closed or blocked stays so. The agent's job, if it runs, is not stopped.
"""


if __name__ == "__main__":
    sys.exit(main())
