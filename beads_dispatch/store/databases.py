"""The beads of several databases of one server, as if they were one: what a pass and the feeder see.

One connection for all, which goes from database to database. A database that refuses a statement (it is being migrated,
it is broken, it is not granted), or does not answer while the server does, is left out, and the others go on.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from beads_dispatch import log, settings
from beads_dispatch.bead import Bead
from beads_dispatch.log import Action
from beads_dispatch.store import Store
from beads_dispatch.store.across import ActivityOfAll, ClaimsOfAll, ControlOfAll, EligibleOfAll, TurnsOfAll
from beads_dispatch.store.connection import STATEMENT_SECONDS, two_lines
from beads_dispatch.store.errors import StoreError
from beads_dispatch.store.session import STATE_DATABASE, Params, Rows, Session

logger = log.get("store")

_LIST_SECONDS = 60.0  # between two looks at which databases there are; the feeder is told of each by the binlog
_LEFT_OUT_SECONDS = 5.0
_HANGS_TIMES = 10  # as long as a statement may take, a database that does not answer is left out: it costs a tenth
_ROOT = "_working"  # the end of the name of a variable of Dolt's, after a database's
_NEEDED = {"issues", "events", "dependencies", "config"}  # bd's tables
_NOT_BEADS = {"information_schema", "mysql", "performance_schema", "sys", "dolt", STATE_DATABASE}

T = TypeVar("T")


def open_store(dolt: settings.DoltSettings, statement_seconds: float = STATEMENT_SECONDS) -> Store:
    """Of one database, or of several."""
    return Databases(dolt, statement_seconds) if dolt.databases else Store(dolt, statement_seconds)


@dataclass(frozen=True)
class _Work:
    """What one database has for an agent."""

    first: int | None  # the best priority among its open beads; None without any
    running: int  # beads in progress


class Databases(Store):
    """A Store over several databases; a bead names its own. What belongs to one alone (history, for example) is asked
    of that one: see `each`."""

    def __init__(self, dolt: settings.DoltSettings, statement_seconds: float = STATEMENT_SECONDS) -> None:
        self._lines = two_lines(dolt, statement_seconds)
        super().__init__(dolt, statement_seconds, self._lines)
        self._dolt = dolt
        self._seconds = statement_seconds
        # By question and database: the root that it was asked of, and the answer.
        self._answers: dict[Hashable, dict[str, tuple[str, Any]]] = {}
        self._locks = Session(dolt, statement_seconds)
        self._stores: dict[str, Store] = {}
        self._listed_at = float("-inf")  # time.monotonic()
        self._left_out: dict[str, float] = {}  # until when, by time.monotonic(), since a database refused something
        self.turns = TurnsOfAll(self)
        self.control: ControlOfAll = ControlOfAll(self._session, self)
        self.eligible = EligibleOfAll(self._session, self)
        self.activity = ActivityOfAll(self._session, self)
        self.claims = ClaimsOfAll(self._session, self)

    @property
    def names(self) -> tuple[str, ...]:
        """The databases, in the order of their names."""
        if time.monotonic() - self._listed_at > _LIST_SECONDS:
            self.find_databases()
        return tuple(self._stores)

    def slot_lock(self, agent: str) -> contextlib.AbstractContextManager[bool]:
        """On a connection of its own: the other one is closed where a database fails, and its locks end then."""
        return self._locks.slot_lock(agent)

    def write_lock(self) -> contextlib.AbstractContextManager[None]:
        """None: each write takes the one of its database."""
        return contextlib.nullcontext()

    def refresh(self) -> None:
        super().refresh()
        self._locks.refresh()
        self._listed_at = float("-inf")  # others may have come or gone since the last pass

    def close(self) -> None:
        super().close()
        self._locks.close()

    def find_databases(self) -> None:
        """Look which databases there are. Raises StoreError."""
        found = self._dolt.databases if self._dolt.databases != (settings.ALL,) else self._with_beads()
        self._stores = {name: self._stores.get(name) or self._open(name) for name in sorted(found)}
        self._listed_at = time.monotonic()

    def of(self, name: str) -> Store:
        """One of them."""
        return self._stores.get(name) or self._open(name)

    def databases(self) -> Mapping[str, Store]:
        """The Store of each, by name."""
        return {name: self._stores[name] for name in self.names}

    def each(self, ask: Callable[[Store], T], names: Collection[str] | None = None) -> dict[str, T]:
        """The answers by database. One that refuses is left out for a while; the first time is logged. Raises
        StoreError where the server cannot be reached."""
        found: dict[str, T] = {}
        for name in self.names if names is None else names:
            if self._left_out.get(name, 0) > time.monotonic():
                continue
            try:
                found[name] = ask(self.of(name))
            except StoreError as exc:
                self.leave_out(name, exc)
            else:
                if self._left_out.pop(name, None):
                    text = f"the database {name} can be used again"
                    logger.warning(text, extra=log.context(action=Action.DATABASE, database=name))
        return found

    def leave_out(self, name: str, exc: StoreError) -> None:
        """A database refused something, or did not answer. Raises `exc` where it was the server that could not be
        reached."""
        hangs = exc.timed_out and self._answers_now()
        if not exc.refused and not hangs:
            raise exc
        if name not in self._left_out:
            text = f"the database {name} is left out until it can be used: {exc}"
            logger.warning(text, extra=log.context(action=Action.DATABASE, database=name))
        self._left_out[name] = time.monotonic() + (_HANGS_TIMES * self._seconds if hangs else _LEFT_OUT_SECONDS)

    def _answers_now(self) -> bool:
        """Whether the server does."""
        with contextlib.suppress(StoreError):
            return bool(self._session.rows("SELECT 1"))
        return False

    def work(self, assignee: str) -> dict[str, _Work]:
        """What each database has for the agent, of those that have something."""
        counted = (
            "SELECT {number} AS number, MIN(IF(status <> 'in_progress', priority, NULL)) AS first,"
            " COUNT(IF(status = 'in_progress', 1, NULL)) AS running FROM {name}.issues"
            " WHERE assignee = %(assignee)s AND status IN ('open', 'deferred', 'in_progress')"
        )
        rows = {name: rows[0] for name, rows in self.rows_of_each(counted, {"assignee": assignee}).items()}
        found = {name: _Work(row["first"], int(row["running"] or 0)) for name, row in rows.items()}
        return {name: work for name, work in found.items() if work.first is not None or work.running}

    def rows_of_each(self, sql: str, params: Params) -> dict[str, Rows]:
        """The rows of a statement with {name} and {number} for each database that can be used, in one statement."""
        return self.remembered((sql, *params.items()), self.names, lambda names: self._ask(sql, params, names))

    def remembered(
        self, what: Hashable, names: Collection[str], ask: Callable[[Sequence[str]], Mapping[str, T]]
    ) -> dict[str, T]:
        """What `ask` answers for each of these databases that can be used; it is asked again for those alone that have
        changed since. `what` tells its questions apart. Raises StoreError."""
        now, roots = time.monotonic(), self._roots()
        known = self._answers.setdefault(what, {})
        usable = [name for name in names if self._left_out.get(name, 0) <= now]
        changed = [name for name in usable if name not in known or known[name][0] != roots.get(name, "?")]
        answers = ask(changed) if changed else {}
        for name in changed:
            known.pop(name, None)
        known.update({name: (roots.get(name, ""), answer) for name, answer in answers.items()})
        return {name: known[name][1] for name in usable if name in known}

    def _roots(self) -> dict[str, str]:
        """The hash of all that is in each database, as Dolt has it: where it is the same, every answer is."""
        rows = self._session.rows(f"SHOW VARIABLES LIKE '%\\{_ROOT}'")
        return {row["Variable_name"].removesuffix(_ROOT): row["Value"] for row in rows}

    def _ask(self, sql: str, params: Params, names: Sequence[str]) -> dict[str, Rows]:
        with contextlib.suppress(StoreError):
            found: dict[str, Rows] = {name: [] for name in names}
            parts = (sql.format(number=number, name=_quoted(name)) for number, name in enumerate(names))
            for row in self._session.rows(" UNION ALL ".join(parts), params):
                found[names[row["number"]]].append(row)
            return found

        def ask(one: Store) -> Rows:
            return one._session.rows(sql.format(number=0, name=_quoted(one._session.dolt.database)), params)

        return self.each(ask, names)  # one of them refuses it

    def _open(self, name: str) -> Store:
        return Store(self._dolt.of(name), self._seconds, self._lines)

    def _with_beads(self) -> list[str]:
        rows = self._session.rows("SHOW DATABASES")
        names = {str(name) for row in rows for name in row.values()} - _NOT_BEADS
        return [name for name in names if name in self._stores or self._has_beads(name)]

    def _has_beads(self, name: str) -> bool:
        with contextlib.suppress(StoreError):
            rows = self._session.rows(f"SHOW TABLES FROM {_quoted(name)}")
            return {str(table) for row in rows for table in row.values()} >= _NEEDED
        return False

    def marked(self, beads: Mapping[str, Sequence[Bead]]) -> list[Bead]:
        """Each bead with the name of its database."""
        return [replace(bead, database=name) for name, found in beads.items() for bead in found]


def _quoted(name: str) -> str:
    """For the text of a statement with parameters."""
    return f"`{name.replace('`', '``').replace('%', '%%')}`"
