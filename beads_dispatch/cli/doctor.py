"""beads-dispatch doctor: whether everything that beads-dispatch rests on is as it has to be, and how to get it so."""

import argparse
import importlib.metadata
import ipaddress
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from beads_dispatch import settings
from beads_dispatch.cli import agents, conditions, grants, terminal
from beads_dispatch.cli.context import CommandError, Context, now
from beads_dispatch.cli.terminal import Styled
from beads_dispatch.store import STATE_DATABASE, Store, StoreError, layout, server_check
from beads_dispatch.store.server_check import Finding

_SCHEMAS = (32, 66)  # the newest migration of bd 1.0.2 and of bd 1.3.0, the versions that this one is tested with
# Two ticks and the feeder's report may be missing; by default they come every 2 and every 10 minutes.
_TICKS = {"dispatch": timedelta(minutes=6), "reap": timedelta(minutes=22)}

_DESCRIPTION = """\
Checks what beads-dispatch rests on: the Dolt server, its binlog, versions, clocks, the rights of this database user,
the feeder, its ticks, and the agents. Each line is ok, or shows what was found, what is needed, and how to get it.
Exit status 0: nothing is wrong; 1: something is.
"""


@dataclass(frozen=True)
class Examination:
    """Every check, and what --fix did."""

    at: datetime
    ok: bool
    checks: Sequence[Finding]
    changed: Sequence[str] = field(default_factory=list)  # the statements that --fix ran
    restart: str = ""  # what to do so that they count; empty where nothing is


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = _DESCRIPTION
    parser.add_argument(
        "--fix",
        action="store_true",
        help="run what is safe, on a server of this machine only; shows it, and asks first",
    )
    parser.add_argument("--yes", action="store_true", help="with --fix: do not ask")


def run(context: Context) -> int:
    """Print the checks; 1 where one fails. Raises CommandError, StoreError."""
    checks = examine(context)
    changed = _fix(context, checks) if context.arguments.fix else []
    if changed:
        context.store.close()  # a connection keeps the settings that it began with
        checks = examine(context)
    found = Examination(
        now(),
        all(one.ok is not False for one in checks),
        [replace(one, needed="", fix="", statement="", restart=False) if one.ok else one for one in checks],
        [one.statement for one in changed],
        _restart(context, [one.name for one in changed if one.restart]),
    )
    context.show(found, _lines)
    return 0 if found.ok else 1


def examine(context: Context) -> list[Finding]:
    """All checks; only the first one where there is no server."""
    try:
        dolt = context.dolt
        dolt_version, migration = context.store.versions()
        server = f"Dolt {dolt_version} at {dolt.host}:{dolt.current_port()}, database {dolt.database}, user {dolt.user}"
    except (settings.SettingsError, StoreError) as exc:
        needed = "a Dolt SQL server that this command finds and that answers"
        fix = "Start it, or name it by BEADS_DIR or DOLT_HOST, … (docs/cli.md); docs/local.md has embedded workspaces."
        return [Finding("server", False, str(exc), needed, fix)]
    checks = [Finding("server", True, server)]
    for name, look in _LOOKS.items():
        try:
            checks += look(context, context.store)
        except (settings.SettingsError, StoreError) as exc:
            checks.append(Finding(name, None, f"not checked: {exc}"))
    return [*checks, _schema(migration)]


def _binlog(context: Context, beads: Store) -> Iterator[Finding]:
    yield from server_check.binlog(beads.server.variables())


def _surroundings(context: Context, beads: Store) -> Iterator[Finding]:
    state = beads.server.state()
    yield from server_check.surroundings(state, now())
    feeder = beads.feeders.find()
    yield server_check.clones(
        state.remotes, beads.control.dispatching_replica(), feeder.beat.replica if feeder else "…"
    )


def _grants(context: Context, beads: Store) -> Iterator[Finding]:
    yield grants.check(beads.server, context.dolt.database)


def _state(context: Context, beads: Store) -> Iterator[Finding]:
    found = beads.server.tables(STATE_DATABASE)
    missing, stored = sorted(layout.STATE_TABLES - found), beads.feed_state.layout()
    version = stored.version if stored else 1
    if stored and not stored.is_usable:
        yield Finding(
            STATE_DATABASE,
            False,
            f"{STATE_DATABASE} has layout {version}, made by a newer version",
            f"a version that knows layout {stored.oldest}; this one knows {layout.VERSION}",
            'Run the newer version again, here too; to go back see docs/runbook.md, "Roll back".',
        )
        return
    yield Finding(
        STATE_DATABASE,
        not missing and version >= layout.VERSION,
        f"{STATE_DATABASE} has no table {', '.join(missing)}" if missing else f"{STATE_DATABASE} has layout {version}",
        f"the tables of this version, layout {layout.VERSION}",
        "Start the feeder again, which makes them"
        + ("." if found else f"; as an administrator run `CREATE DATABASE {STATE_DATABASE}` where its user may not."),
    )


def _schema(migration: int) -> Finding:
    oldest, newest = _SCHEMAS
    found = f"bd's schema {migration}"
    if migration > newest:
        return Finding("bd's schema", None, f"{found}, newer than {newest}, which this version is tested with")
    return Finding(
        "bd's schema",
        migration >= oldest,
        found,
        f"{oldest} (bd 1.0.2) or newer",
        "Install bd 1.0.2 or newer, and run `bd migrate schema`.",
    )


def _feeder(context: Context, beads: Store) -> Iterator[Finding]:
    report = beads.feeders.find()
    problem = conditions.feeder_problem(report)
    ours = importlib.metadata.version("beads-dispatch")
    well = f"reported {int(report.age.total_seconds())} s ago, {report.owner}" if report else ""
    yield Finding(
        "feeder",
        not problem,
        problem or well,
        "a report each minute, and a sink that accepts events",
        'See docs/runbook.md, "The feeder does not start"; `make up` starts one on this machine.',
    )
    if report is not None:
        yield Finding(
            "version",
            report.beat.version == ours,
            f"this command is version {ours}, the feeder {report.beat.version}",
            "the same version",
            'Upgrade the older of the two (docs/runbook.md, "Upgrade").',
        )
    yield from _ticks(beads, away=report is None or report.away)


def _ticks(beads: Store, *, away: bool) -> Iterator[Finding]:
    found = beads.feeders.ticks()
    for name, most in _TICKS.items():
        age, title = found.get(name), f"{name} ticks"
        words = (
            f"the last tick of {name} came {terminal.span(age)} ago" if age is not None else f"no tick of {name} yet"
        )
        if away:
            yield Finding(title, None, f"not checked, because the feeder reports them; {words}")
            continue
        yield Finding(
            title,
            age is not None and age <= most,
            words,
            f"one in the last {terminal.span(most)}",
            "Check that all are Ready: `kubectl get pingsource,broker,trigger`. In the first minutes of an installation"
            " wait for the next tick.",
        )


def _agents(context: Context, beads: Store) -> Iterator[Finding]:
    for agent in context.agents.values():
        title = f"agent {agent.name}"
        if agent.backend is None:
            yield Finding(title, None, "not asked: this environment has no BEADBOARD_URL or AGENTS_FILE")
            continue
        _, problem = agents.load(agent)
        yield Finding(
            title,
            not problem,
            f"{agent.backend.backend} does not answer: {problem}" if problem else f"{agent.backend.backend} answers",
            "an answer to its status request",
            "Start it, or correct its address (docs/agents.md). Until then dispatch is held, and no bead is lost.",
        )


_LOOKS: dict[str, Callable[[Context, Store], Iterator[Finding]]] = {
    "binlog": _binlog,
    "surroundings": _surroundings,
    "grants": _grants,
    STATE_DATABASE: _state,
    "feeder": _feeder,
    "agents": _agents,
}


def _fix(context: Context, checks: Sequence[Finding]) -> list[Finding]:
    """Run the statements of the checks that failed, those that have one; returns them. Raises CommandError."""
    fixable = [one for one in checks if one.ok is False and one.statement]
    if not fixable:
        return []
    host = context.dolt.host
    if not _is_loopback(host):
        raise CommandError(
            f"--fix is for a server on this machine, and this one is at {host}: run the commands that"
            " `beads-dispatch doctor` shows as its administrator"
        )
    terminal.warn(f"to be run on {host}:{context.dolt.current_port()}:")
    for one in fixable:
        terminal.warn(f"  {one.statement};")
    if not context.arguments.yes and not terminal.agreed("Run them?"):
        raise CommandError("nothing was changed; --yes agrees without being asked")
    for one in fixable:
        context.store.server.run(one.statement)
    return fixable


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _restart(context: Context, names: Sequence[str]) -> str:
    if not names:
        return ""
    folder = settings.beads_dir(context.env)
    by_bd = folder is not None and (folder / "dolt-server.pid").exists()
    how = "`bd dolt stop; bd dolt start`" if by_bd else "restart the Dolt server"
    return f"{how}: it reads {', '.join(names)} at its start only"


def _lines(found: Examination) -> Iterator[terminal.Line]:
    for one in found.checks:
        name = f"{one.name + ':':<20} "
        if one.ok is not False:
            yield name, Styled("ok" if one.ok else "-", "green" if one.ok else "yellow"), f"   {one.found}"
        else:
            yield name, Styled("found", "red"), f"   {one.found}"
            yield f"{'':<20} needed  {one.needed}"
            yield f"{'':<20} fix     {one.fix}"
    for statement in found.changed:
        yield f"changed: {statement}"
    if found.restart:
        yield f"to do: {found.restart}"
