"""Can this server's binlog be read, and what on the server will give trouble? The feeder asks at its start, and
`beads-dispatch doctor` when a person does. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from beads_dispatch import suspension
from beads_dispatch.store.server import ServerState

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


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what was found and, where that will not do, what is needed and how to get it."""

    name: str
    ok: bool | None  # None: it could not be checked
    found: str
    needed: str = ""
    fix: str = ""
    statement: str = ""  # SQL that is the fix, and safe to run
    restart: bool = False  # the server obeys that statement at its next start only

    @property
    def text(self) -> str:
        """As one line for a log."""
        return f"{self.found}, needed {self.needed}. {self.fix}"


def binlog(variables: Mapping[str, str]) -> list[Finding]:
    """Whether the binlog of a server with these variables (and `dolt_version`, and the database's `branch`) can be
    read. Where it cannot, the feeder would publish nothing, or break others."""
    version = variables["dolt_version"]
    checks = [
        Finding(
            "dolt version",
            version_numbers(version) >= OLDEST,
            f"dolt_version() is {version}",
            "1.87.0 or newer: before it, the binlog breaks the server's own writers",
            "Install a newer Dolt.",
        )
    ]
    needed = {**_NEEDED, "log_bin_branch": (variables["branch"],)}  # on another branch it holds no change of ours
    for name, fit in needed.items():
        value = variables[name]
        statement = f"SET PERSIST {name} = {1 if name == 'log_bin' else _quoted(fit[-1])}"
        fix = (
            f"Run `dolt sql -q '{statement}'` (or put `{name}: {statement.partition(' = ')[2]}` under system_variables"
            " in the server's config.yaml) and restart the server."
        )
        is_fit = value.upper() in fit or value in fit
        checks.append(Finding(name, is_fit, f"{name} is {value}", fit[-1], fix, statement, restart=True))
    return checks


def _quoted(value: str) -> str:
    return f'"{value}"'


def surroundings(state: ServerState, now: datetime) -> list[Finding]:
    """What else on the server may give trouble; `now` is this process's clock. None of it stops the feeder: claims do
    not depend on clocks, and no dispatch at all would be worse than delays that are off by as much."""
    return [*_clocks(state, now), *_tables(state), _files(state)]


def _clocks(state: ServerState, now: datetime) -> list[Finding]:
    offset, ahead = state.local - state.utc, state.utc - now.astimezone(UTC).replace(tzinfo=None)
    zone = "SET PERSIST time_zone = '+00:00'"
    return [
        Finding(
            "time zone",
            abs(offset) <= CLOCK_TOLERANCE,
            f"Dolt's NOW() is {_span(offset)} UTC",
            "UTC, as bd's times are: what plain SQL writes is dated wrong, so that activity counts too long or not at"
            " all",
            f'Run `dolt sql -q "{zone}"`.',
            zone,
        ),
        Finding(
            "clock",
            abs(ahead) <= CLOCK_TOLERANCE,
            f"Dolt's clock is {_span(ahead)} this process's",
            "at most a minute: deferred beads, retry delays and the reaper are off by as much",
            "Set the clock of the host that is wrong, by NTP; `date -u` on both shows which.",
        ),
    ]


def _span(offset: timedelta) -> str:
    return f"{abs(int(offset.total_seconds()))} s {'ahead of' if offset > timedelta() else 'behind'}"


def _tables(state: ServerState) -> list[Finding]:
    broken = version_numbers(state.version) < _INDEXES_FIXED
    indexes = state.functional_indexes if broken else ()
    return [
        Finding(
            "virtual columns",
            not state.virtual_columns,
            f"this server has {_listed(state.virtual_columns, 'VIRTUAL generated columns')}",
            "none: with the binlog on, Dolt fails every INSERT into their tables",
            "Make it STORED (drop the column and add it again), or move the table to another server.",
        ),
        Finding(
            "functional indexes",
            not indexes,
            f"this server has {_listed(indexes, 'functional indexes that the binlog breaks')}",
            f"none: with the binlog on, Dolt {state.version} fails every INSERT into their tables (dolthub/dolt#11475)",
            "Install Dolt 2.2.4 or newer, or drop the index.",
        ),
    ]


def _listed(names: tuple[str, ...], what: str) -> str:
    return f"{what}: {', '.join(names)}" if names else f"no {what}"


def _files(state: ServerState) -> Finding:
    return Finding(
        "secure_file_priv",
        bool(state.file_folder),
        f"secure_file_priv is {state.file_folder or 'not set'}",
        "an empty folder: any user of this server, also without a privilege, can write files on its host (SELECT … INTO"
        " OUTFILE)",
        'Put `secure_file_priv: "<an empty folder>"` under system_variables in the server\'s config.yaml and restart'
        " it.",
    )


def clones(remotes: tuple[str, ...], dispatching: str | None, own: str) -> Finding:
    """Whether it is known which of several clones dispatches; `dispatching` and `own` are ids of clones."""
    return Finding(
        "clones",
        not remotes or dispatching is not None,
        f"this database has a remote ({', '.join(remotes)})" if remotes else "this database has no remote",
        "the name of the clone that dispatches: where a clone of it has a deployment too, both dispatch the same beads",
        f"In one clone run `bd kv set {suspension.REPLICA} {own}`, which names this one (docs/runbook.md, "
        '"Two deployments, or clones").',
    )


def version_numbers(text: str) -> tuple[int, ...]:
    """`2.2.0-rc1` as (2, 2, 0)."""
    numbers = text.split("-")[0].split(".")
    return tuple(int(number) if number.isdigit() else 0 for number in numbers)
