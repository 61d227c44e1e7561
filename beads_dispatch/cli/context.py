"""What every command works with: its arguments, the settings, the store, and the way out for its result."""

import argparse
import functools
import pathlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from beads_dispatch import agents_file, settings
from beads_dispatch.agents_file import ConfiguredAgent
from beads_dispatch.cli import connection, terminal, time_arguments
from beads_dispatch.store import Commit, History, Store

WHEN = """
WHEN is a commit (its hash, the beginning of one, HEAD~3), a moment ('2026-07-15 09:30', '2026-07-15T09:30:00.123Z';
UTC where it names no zone), or how long ago (90s, 15m, 2h, 3d).
"""

# The options that replace a setting of the functions, and the variable of each.
_LIMITS = {
    "--assignee": "AGENT_ASSIGNEE",
    "--max-in-flight": "MAX_IN_FLIGHT",
    "--slot-silence-minutes": "SLOT_SILENCE_MINUTES",
    "--claim-timeout-seconds": "CLAIM_TIMEOUT_SECONDS",
    "--reap-after-minutes": "REAP_AFTER_MINUTES",
}
_OVER_THE_FILE = tuple(option.removeprefix("--").replace("-", "_") for option in _LIMITS if option != "--assignee")

T = TypeVar("T")


class CommandError(Exception):
    """It cannot be done; the text is the line for the user, `status` the exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class BeforeHistory(CommandError):
    """A moment before Dolt's history, which begins with the commit `first`."""

    def __init__(self, moment: datetime, first: Commit) -> None:
        super().__init__(
            f"{terminal.moment(moment)} is before Dolt's history: it begins with commit {first.hash}"
            f" at {terminal.moment(first.at)}"
        )
        self.first = first


def commit_at(history: History, written: str, present: datetime) -> tuple[Commit, datetime]:
    """The commit and the moment that a person means by WHEN. Raises CommandError, BeforeHistory, StoreError."""
    moment = time_arguments.parse(written, present)
    commit = history.commit(written) if moment is None else history.commit_at(moment)
    if commit is not None:
        return commit, moment or commit.at
    if moment is None:
        raise CommandError(
            f"{written!r} is not a single commit of this database, nor a moment such as '2026-07-15 09:30' (UTC)"
            " or 90m (ago)"
        )
    raise BeforeHistory(moment, history.first_commit())


def agent_of(agents: Mapping[str, ConfiguredAgent], assignee: str | None) -> ConfiguredAgent:
    """The agent of that name, or else the first."""
    return agents.get(assignee or "") or next(iter(agents.values()))


def add_limits(parser: argparse.ArgumentParser, *options: str) -> None:
    """Add options for the limits that the functions run with."""
    group = parser.add_argument_group(
        "limits", "the functions' settings; without these options, those of the environment (AGENT_ASSIGNEE, …)"
    )
    for option in options:
        group.add_argument(option, dest=_LIMITS[option], metavar="NAME" if option == "--assignee" else "N")


def _variable(field: str) -> str:
    return _LIMITS[f"--{field.replace('_', '-')}"]


def now() -> datetime:
    """The present, UTC-aware."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Context:
    """What a command works with. The workspace is looked for, and Dolt connected to, when a command first needs it."""

    arguments: argparse.Namespace
    given: Mapping[str, str]  # the environment

    @functools.cached_property
    def env(self) -> Mapping[str, str]:
        """The environment, with the workspace that was found. Raises SettingsError."""
        return connection.environment(self.given, pathlib.Path.cwd())

    @functools.cached_property
    def dolt(self) -> settings.DoltSettings:
        """Raises SettingsError."""
        name = getattr(self.arguments, "database", None)
        return settings.dolt(self.env) if name is None else settings.served(self.env, name)

    @functools.cached_property
    def store(self) -> Store:
        """Raises SettingsError."""
        return Store(self.dolt)

    @functools.cached_property
    def agents(self) -> Mapping[str, ConfiguredAgent]:
        """The agents by name, with the options of the command line. Raises SettingsError."""
        options = {
            name: value for name in _LIMITS.values() if (value := getattr(self.arguments, name, None)) is not None
        }
        env = {**self.env, **options}
        found = {agent.name: agent for agent in agents_file.agents(env)}
        given = {name: getattr(settings.limits(env), name) for name in _OVER_THE_FILE if _variable(name) in options}
        return {name: replace(one, limits=replace(one.limits, **given)) for name, one in found.items()}

    def agent(self, assignee: str | None = None) -> ConfiguredAgent:
        """The agent that --assignee names, or else `assignee` where it is one, or else the first. Raises SettingsError,
        CommandError."""
        named = getattr(self.arguments, "AGENT_ASSIGNEE", None)
        if named is not None and named not in self.agents:
            raise CommandError(f"there is no agent {named!r}; the agents are {', '.join(self.agents)}")
        return agent_of(self.agents, named or assignee)

    @property
    def limits(self) -> settings.DispatchLimits:
        """Those of `agent()`. Raises SettingsError, CommandError."""
        return self.agent().limits

    def at(self, written: str, *, or_first: bool = False) -> tuple[Commit, datetime]:
        """As commit_at. `or_first`: the first commit stands for a moment before it. Raises CommandError, StoreError."""
        try:
            return commit_at(self.store.history, written, now())
        except BeforeHistory as exc:
            if not or_first:
                raise
            terminal.warn(f"{exc}, and so does the answer")
            return exc.first, exc.first.at

    def show(self, result: T, lines: Callable[[T], Iterable[terminal.Line]], *, indent: int | None = 2) -> None:
        """Print a result: as JSON where the command line asks for it, else its lines."""
        if self.arguments.json:
            terminal.write_json(result, indent)
        else:
            for line in lines(result):
                terminal.write(line, self.given)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if "store" in vars(self):
            self.store.close()
