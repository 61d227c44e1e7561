"""The subjects of a Store, across several databases."""

import functools
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from beads_dispatch import suspension
from beads_dispatch.bead import Bead, DispatchRecord
from beads_dispatch.store.activity import ActivityReads
from beads_dispatch.store.claims import Claims
from beads_dispatch.store.control import Control
from beads_dispatch.store.eligible import Eligible, Probe
from beads_dispatch.store.errors import ClaimLost, StoreError
from beads_dispatch.store.records import Diagnosis
from beads_dispatch.store.session import Session
from beads_dispatch.suspension import Suspension

if TYPE_CHECKING:
    from beads_dispatch.store import Store
    from beads_dispatch.store.databases import Databases


class TurnsOfAll:
    """Which database an agent's last bead was of: among beads of one priority the next one's turn is first."""

    def __init__(self, all_of_them: "Databases") -> None:
        self._all = all_of_them

    def after_last(self, agent: str) -> list[str]:
        """The databases in the order of their turns. Raises StoreError."""
        sql = "SELECT served FROM {state}.turns WHERE feed = %(feed)s AND agent = %(agent)s"
        rows, names = self._all._session.state_rows(sql, {"agent": agent}), self._all.names
        last = rows[0]["served"] if rows else ""
        return [*(name for name in names if name > last), *(name for name in names if name <= last)]

    def took(self, agent: str, database: str) -> None:
        """An agent takes a bead of a database. Raises StoreError."""
        sql = "INSERT INTO {state}.turns (feed, agent, served) VALUES (%(feed)s, %(agent)s, %(database)s)"
        sql += " ON DUPLICATE KEY UPDATE served = %(database)s"
        self._all._session.state_rows(sql, {"agent": agent, "database": database})


class ControlOfAll(Control):
    """The hold and the PingSources' suspension are those of all; bd's config suspends the beads of its own database,
    which `EligibleOfAll` leaves out."""

    def __init__(self, session: Session, all_of_them: "Databases") -> None:
        super().__init__(session)
        self._all = all_of_them

    def suspension(self) -> Suspension:
        """By the PingSources, or by each database's own config."""
        found = self.mirrored()
        if found.dispatch and found.reap:
            return found
        own = self.of_each().values()
        each_dispatch = [one.dispatch for one in own] or [None]
        each_reap = [one.reap for one in own] or [None]
        return Suspension(
            found.dispatch or (each_dispatch[0] if all(each_dispatch) else None),
            found.reap or (each_reap[0] if all(each_reap) else None),
        )

    def of_each(self) -> dict[str, Suspension]:
        """What each database says of itself."""
        keys = (*suspension.SUSPEND_KEYS, suspension.REPLICA_KEY)
        sql = "SELECT {number} AS number, `key`, `value` FROM {name}.config WHERE `key` IN %(keys)s"
        found = self._all.rows_of_each(sql, {"keys": keys})
        return {name: self.of_values({row["key"]: row["value"] for row in rows}) for name, rows in found.items()}


class EligibleOfAll(Eligible):
    """The best bead of all databases; among those of one priority, the databases take turns."""

    def __init__(self, session: Session, all_of_them: "Databases") -> None:
        super().__init__(session)
        self._all = all_of_them

    def first(
        self, assignee: str, now: datetime, limit: int | None, skip: Sequence[str] = (), *, probe: Probe | None = None
    ) -> list[Bead]:
        """The first `limit` beads of the database whose turn it is; `skip`: their paths."""
        turns = {name: turn for turn, name in enumerate(self._all.turns.after_last(assignee))}
        waiting = self._waiting(assignee)
        best: tuple[Any, ...] | None = None
        beads: list[Bead] = []
        for name in sorted(waiting, key=lambda name: (waiting[name], turns[name])):
            if best is not None and probe is None and best <= (waiting[name], turns[name]):
                break  # what follows has no better one
            own = [path.removeprefix(f"{name}/") for path in skip if path.startswith(f"{name}/")]
            ask = functools.partial(_first, assignee=assignee, now=now, limit=limit, skip=own, probe=probe)
            found = self._all.each(ask, [name]).get(name)
            if not found:
                continue
            outages = found[0].record.outages
            tried = () if probe is None else (-outages if probe is Probe.FAILED else outages,)
            key = (*tried, found[0].priority, turns[name])
            if best is None or key < best:
                best, beads = key, self._all.marked({name: found})
        return beads

    def count(self, assignee: str, now: datetime, at_most: int = 100, *, enough: int | None = None) -> int:
        number = 0
        for name in self._waiting(assignee):
            found = self._all.each(lambda store: store.eligible.count(assignee, now, at_most, enough=enough), [name])
            number += sum(found.values())
            if number >= (enough or at_most):
                break
        return min(number, at_most)

    def oldest(self, assignee: str, now: datetime) -> tuple[int, datetime | None]:
        found = self._all.each(lambda store: store.eligible.oldest(assignee, now), self._waiting(assignee)).values()
        return sum(number for number, _ in found), min((at for _, at in found if at), default=None)

    def count_assigned(self, assignee: str) -> int:
        return sum(self._all.each(lambda store: store.eligible.count_assigned(assignee)).values())

    def next_due(self, assignee: str, after: datetime) -> datetime | None:
        names = [name for name, work in self._all.work(assignee).items() if work.first is not None]
        found = self._all.each(lambda store: store.eligible.next_due(assignee, after), names).values()
        return min((moment for moment in found if moment), default=None)

    def _waiting(self, assignee: str) -> dict[str, int]:
        """The best priority of an open bead, by database; none of a suspended one."""
        found, own = self._all.work(assignee), self._all.control.of_each()
        return {
            name: work.first
            for name, work in found.items()
            if work.first is not None and name in own and not own[name].dispatch
        }


def _first(store: "Store", **which: Any) -> list[Bead]:
    return store.eligible.first(**which)


class ActivityOfAll(ActivityReads):
    """The beads in progress of all databases."""

    def __init__(self, session: Session, all_of_them: "Databases") -> None:
        super().__init__(session)
        self._all = all_of_them

    def count_in_progress(self, assignee: str) -> int:
        return sum(work.running for work in self._all.work(assignee).values())

    def claims(self, assignee: str, *, to_reap: bool = False) -> list[Bead]:
        names = self._running(assignee, reap=to_reap)
        ask = functools.partial(self._all.each, lambda store: store.activity.claims(assignee))
        return self._all.marked(self._all.remembered(("claims", assignee), names, ask))

    def inactive(self, assignee: str, before: datetime, *, only_ours: bool = False) -> list[Bead]:
        return self._of_running(assignee, lambda store: store.activity.inactive(assignee, before, only_ours=only_ours))

    def orphaned_claims(self, assignee: str, before: datetime) -> list[Bead]:
        return self._of_running(assignee, lambda store: store.activity.orphaned_claims(assignee, before))

    def refused_in_a_row(self, assignee: str, now: datetime) -> list[Bead]:
        return self._all.marked(self._all.each(lambda store: store.activity.refused_in_a_row(assignee, now)))

    def failed_in_a_row(self, assignee: str, now: datetime, lasting: timedelta) -> list[Bead]:
        return self._all.marked(self._all.each(lambda store: store.activity.failed_in_a_row(assignee, now, lasting)))

    def lasted(self, assignee: str, since: datetime, now: datetime, lasting: timedelta) -> bool:
        return any(self._all.each(lambda store: store.activity.lasted(assignee, since, now, lasting)).values())

    def _of_running(self, assignee: str, ask: Callable[["Store"], list[Bead]]) -> list[Bead]:
        return self._all.marked(self._all.each(ask, self._running(assignee, reap=True)))

    def _running(self, assignee: str, *, reap: bool) -> list[str]:
        """The databases with beads in progress; `reap`: that are not suspended."""
        own = self._all.control.of_each() if reap else {}
        found = [name for name, work in self._all.work(assignee).items() if work.running]
        return [name for name in found if not reap or (name in own and not own[name].reap)]


class ClaimsOfAll(Claims):
    """Writes on a bead go to its database."""

    def __init__(self, session: Session, all_of_them: "Databases") -> None:
        super().__init__(session)
        self._all = all_of_them

    def claim(self, bead: Bead, now: datetime, *, ignore_retry_delay: bool = False) -> Bead:
        # Before it: where this failed after it, a claim would stay that nobody sends.
        self._all.turns.took(bead.assignee, bead.database)
        try:
            return self._of(bead).claim(bead, now, ignore_retry_delay=ignore_retry_delay)
        except StoreError as exc:
            self._all.leave_out(bead.database, exc)
            raise ClaimLost(f"{bead.database} cannot be written") from exc

    def mark_posting(self, bead: Bead) -> None:
        self._of(bead).mark_posting(bead)

    def diagnose(self, bead: Bead, now: datetime) -> Diagnosis | None:
        return self._of(bead).diagnose(bead, now)

    def record_dispatched(self, bead: Bead, job_id: str, now: datetime, *, failing: bool = False) -> bool:
        return self._of(bead).record_dispatched(bead, job_id, now, failing=failing)

    def mark_ended(self, bead: Bead, now: datetime) -> None:
        self._of(bead).mark_ended(bead, now)

    def mark_seen(self, bead: Bead, now: datetime) -> None:
        self._of(bead).mark_seen(bead, now)

    def record_unknown(self, bead: Bead, why: str, now: datetime) -> bool:
        return self._of(bead).record_unknown(bead, why, now)

    def release(self, bead: Bead, note: str, record: DispatchRecord, now: datetime, **options: Any) -> bool:
        return self._of(bead).release(bead, note, record, now, **options)

    def take_back_failure(self, bead: Bead, note: str, now: datetime, **options: Any) -> bool:
        return self._of(bead).take_back_failure(bead, note, now, **options)

    def withdraw(self, bead: Bead, why: str, now: datetime) -> bool:
        return self._of(bead).withdraw(bead, why, now)

    def block_inactive(self, bead: Bead, before: datetime, note: str, now: datetime) -> bool:
        return self._of(bead).block_inactive(bead, before, note, now)

    def _of(self, bead: Bead) -> Claims:
        return self._all.of(bead.database).claims
