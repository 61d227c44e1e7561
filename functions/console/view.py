"""What a page is made from, and the ways in which a request cannot be answered."""

import contextlib
import queue
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from beads_dispatch import settings
from beads_dispatch.agents_file import ConfiguredAgent
from beads_dispatch.cli import context
from beads_dispatch.store import Commit, Rows, Store

_STATEMENT_SECONDS = 20.0  # a page of a long history takes some seconds; people do not wait longer
_PARAMETER_LIMIT = 255  # characters, as a bead's id in bd
_CACHED = 40_000  # commits, and the versions in them, that are kept: some 20 MB
_COMMITS_AT_ONCE = 500
_MOST_VERSIONS = 1000  # of one commit; an import may change any number of beads


class PageError(Exception):
    """The request has no page; the text is for the person who sent it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Stores:
    """Connections to Dolt that are kept between requests, each for one thread at a time."""

    def __init__(self, dolt: settings.DoltSettings) -> None:
        self._dolt = dolt
        self._idle: queue.LifoQueue[Store] = queue.LifoQueue()

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[Store]:
        """A store whose reads are all of one moment, and which Dolt lets write nothing. Raises StoreError."""
        try:
            store = self._idle.get_nowait()
            store.refresh()
        except queue.Empty:
            store = Store(self._dolt, _STATEMENT_SECONDS)
        try:
            with store.reading():
                yield store
        except BaseException:
            store.close()
            raise
        self._idle.put(store)


class Versions:
    """What commits changed on the agents' beads. A commit does not change, so it is read once."""

    def __init__(self, agents: Sequence[str]) -> None:
        self._agents = agents
        self._known: dict[str, Rows] = {}

    def of(self, beads: Store, commits: Sequence[Commit]) -> Rows:
        """The versions in these commits, in their order, each with `at` and `author`. Raises StoreError."""
        known = self._known
        missing = {commit.hash: commit for commit in commits if commit.hash not in known}
        for start in range(0, len(missing), _COMMITS_AT_ONCE):
            chunk = list(missing)[start : start + _COMMITS_AT_ONCE]
            found: dict[str, Rows] = {commit: [] for commit in chunk}
            for row in self._read(beads, chunk):
                commit = missing[row["commit"]]
                found[commit.hash].append({**row, "at": commit.at, "author": commit.author})
            known = {**known, **found}
        kept: dict[str, Rows] = {}
        room = _CACHED
        for newest in reversed(known):
            room -= 1 + len(known[newest])
            if room < 0:
                break
            kept[newest] = known[newest]
        # In one step, because other threads read it; the oldest go first.
        self._known = dict(reversed(kept.items()))
        return [row for commit in commits for row in known[commit.hash]]

    def _read(self, beads: Store, commits: Sequence[str]) -> Rows:
        found = beads.history.versions_in(commits, self._agents, _MOST_VERSIONS)
        if len(found) < _MOST_VERSIONS or len(commits) == 1:
            return found
        half = len(commits) // 2
        return [*self._read(beads, commits[:half]), *self._read(beads, commits[half:])]


@dataclass(frozen=True)
class View:
    """What a page is made from: the request's parameters, and a store for reads of one moment."""

    beads: Store
    dolt: settings.DoltSettings
    agents: Mapping[str, ConfiguredAgent]
    versions: Versions
    query: Mapping[str, str]
    moment: datetime

    @property
    def agent(self) -> ConfiguredAgent:
        """The agent that the request names, or else the first. Raises PageError."""
        name = self.text("agent")
        if name and name not in self.agents:
            raise PageError(404, f"There is no agent {name!r}. The agents are: {', '.join(self.agents)}.")
        return context.agent_of(self.agents, name)

    def text(self, name: str) -> str:
        """A parameter without blanks around it; empty where it is left out. Raises PageError."""
        value = self.query.get(name, "").strip()
        if len(value) > _PARAMETER_LIMIT:
            raise PageError(400, f"The parameter {name} has more than {_PARAMETER_LIMIT} characters.")
        return value

    def whole(self, name: str, default: int, lowest: int, highest: int) -> int:
        """A parameter that is a whole number. Raises PageError."""
        value = self.text(name)
        if not value:
            return default
        found = int(value) if value.isascii() and value.isdigit() else lowest - 1
        if not lowest <= found <= highest:
            expected = f"expected a whole number from {lowest} to {highest}"
            raise PageError(400, f"The parameter {name} is {value!r}, {expected}.")
        return found

    def number(self, name: str, default: float, highest: float) -> float:
        """A parameter that is a number above 0. Raises PageError."""
        value = self.text(name)
        try:
            found = float(value) if value else default
        except ValueError:
            found = 0.0
        if not 0 < found <= highest:
            raise PageError(400, f"The parameter {name} is {value!r}, expected a number above 0, at most {highest:g}.")
        return found
