"""The claim, and what becomes of it. Each change of a bead is one transaction with its note, its audit row and its
Dolt commit; the precondition is repeated inside the UPDATE."""

import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

from beads_dispatch import notes
from beads_dispatch.bead import POSTING, UNKNOWN, Bead, DispatchRecord, Status
from beads_dispatch.store.activity import TOKEN, foreign, last_activity, state
from beads_dispatch.store.bead_change import BeadChange, mark
from beads_dispatch.store.eligible import Eligible
from beads_dispatch.store.errors import ClaimLost, RowChanged
from beads_dispatch.store.predicate import BEAD, of_the_row, parameters
from beads_dispatch.store.records import DISPATCHER, OURS, REAPER, Diagnosis
from beads_dispatch.store.session import Session, naive, retry_on_conflict

T = TypeVar("T")


class Claims:
    """Writes on beads. Every method raises StoreError."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def claim(self, bead: Bead, now: datetime, *, ignore_retry_delay: bool = False) -> Bead:
        """Claim an eligible bead in one transaction; returns it as it now stands, with our token.

        `ignore_retry_delay`: a person dispatches it now. Raises ClaimLost when it is no longer eligible or somebody
        else's change came first.
        """
        conditions = of_the_row(self._session.schema)
        if ignore_retry_delay:
            del conditions["retry"]
        token = str(uuid.uuid4())

        def work(change: BeadChange) -> Bead:
            before = bead.record
            changed = before.jobs > 0 and change.changes_by_others(bead) > before.others
            record = DispatchRecord(
                claim=token,
                attempt=before.attempt + 1,
                at=notes.timestamp(now),
                foreign=self._foreign(change, bead, now),
                failures=before.failures,
                outages=before.outages,
                jobs=0 if changed else before.jobs,
                others=before.others,
                refused_at=None if before.job else before.refused_at,  # or its job failed then
            )
            lock = change.update(
                bead.id,
                now,
                note=notes.claimed(now),
                record=record,
                # As `bd undefer` does: a deferral that is over must not come back with a later undated one.
                sets="i.status = 'in_progress', i.started_at = COALESCE(i.started_at, %(now)s), i.defer_until = NULL",
                where=" AND ".join(conditions.values()),
                params=parameters(bead.assignee, now),
            )
            change.audit(bead.id, notes.claimed(now), now, (bead.status, Status.IN_PROGRESS))
            whole = now.astimezone(UTC).replace(microsecond=0)
            return replace(bead, status=Status.IN_PROGRESS, updated_at=whole, record=record, row_lock=lock)

        try:
            return self._commit(DISPATCHER, f"{DISPATCHER}: claim {bead.id}", work)
        except RowChanged:
            raise ClaimLost(f"{bead.id} is no longer eligible") from None

    def mark_posting(self, bead: Bead) -> None:
        """Write on a bead, before its POST, that it is under way: after a crash, the claim then shows that the job may
        run. Nothing is written where the claim is no longer ours.

        Plain SQL, because it is as durable and a Dolt commit would take three times as long; the mark is in the
        history only where the crash came, in the next commit of whoever makes one.
        """
        with self._session.write_lock():
            mark(self._session, bead, outcome=POSTING)

    def read_back(self, bead_id: str) -> Bead | None:
        """The bead as others see it, on another connection than the claim's; None when it was deleted."""
        lock = ", i.row_lock" if self._session.schema.row_lock else ""
        rows = self._session.elsewhere.rows(f"SELECT {BEAD}{lock} FROM issues i WHERE i.id = %(id)s", {"id": bead_id})
        return Bead.from_row(rows[0]) if rows else None

    def diagnose(self, bead: Bead, now: datetime) -> Diagnosis | None:
        """As read_back, with the conditions that hold; None when it was deleted."""
        return next(iter(Eligible(self._session.elsewhere).diagnose(bead.assignee, now, bead.id)), None)

    def record_dispatched(self, bead: Bead, job_id: str, now: datetime, *, failing: bool = False) -> bool:
        """Record the job on a bead we claimed. `failing`: so far each job fails, so that this one ends no outage. False
        when the claim is no longer ours."""
        outages, jobs = bead.record.outages if failing else 0, bead.record.jobs + 1
        record = replace(bead.record, job=job_id, failures=0, outages=outages, refused_at=None, jobs=jobs)
        return self._amend(bead, now, notes.dispatched(job_id), record, "record the job of")

    def mark_ended(self, bead: Bead, now: datetime) -> None:
        """Write on a bead in progress that its job has ended well: it has a minute to change its status itself. Nothing
        is written where the claim is no longer ours."""
        with self._session.write_lock():
            mark(self._session, bead, ended_at=notes.timestamp(now))

    def mark_seen(self, bead: Bead, now: datetime) -> None:
        """Write on a bead in progress that reap sees all of its activity now: see DispatchRecord.seen. What comes
        before the mark is written, and after the state was read, makes that another state. Otherwise as mark_ended."""
        found = f"SELECT {state(self._session)} AS state FROM issues i WHERE i.id = %(id)s"
        for row in self._session.rows(found, {"id": bead.id}):
            with self._session.write_lock():
                mark(self._session, bead, seen=row["state"], seen_at=notes.timestamp(now))

    def record_unknown(self, bead: Bead, why: str, now: datetime) -> bool:
        """Record that the POST was sent and no usable answer came: the job may run, so nothing is rolled back."""
        record = replace(bead.record, outcome=UNKNOWN, jobs=bead.record.jobs + 1)
        return self._amend(bead, now, notes.outcome_unknown(why), record, "record the unknown outcome of")

    def release(
        self,
        bead: Bead,
        note: str,
        record: DispatchRecord,
        now: datetime,
        *,
        actor: str,
        status: Status = Status.OPEN,
        unchanged: bool = False,
        noted: bool = True,
        once: bool = False,
    ) -> bool:
        """End our claim on a bead: `open` again, or `blocked`. False when the claim is no longer ours.

        `unchanged`: also not when anybody wrote to the bead since it was read; for one that reap has blocked, which no
        claim protects. Not `noted`: the claim's notes go instead of another coming; they are in the audit rows alone.
        `once`: so too where the same note was the newest before the claim.
        """

        def work(change: BeadChange) -> bool:
            written = replace(record, claim=None)
            if record.retry_at:
                # What others change from here on ends the retry delay.
                others = change.changes_by_others(bead)
                written = replace(written, refused_at=notes.timestamp(now), others=others)
            change.update(
                bead.id,
                now,
                note=note if noted else "",
                undone=change.notes_since_claim(bead, note if once else "") if once or not noted else None,
                record=written,
                # started_at was set by our claim where it is the claim's moment; bd clears it too.
                sets="i.status = %(status)s, i.started_at = IF(i.started_at = %(claimed)s, NULL, i.started_at)",
                where=f"i.status = %(was)s AND COALESCE({TOKEN}, '') = %(token)s"
                + (" AND i.updated_at = %(seen)s" if unchanged else ""),
                params={
                    "was": bead.status,
                    "status": status,
                    "claimed": _claimed_at(bead),
                    "token": bead.record.claim or "",
                    "seen": naive(bead.updated_at),
                },
            )
            change.audit(bead.id, note, now, (bead.status, status))
            return True

        return self._commit_unless_changed(actor, f"{actor}: give back {bead.id}", work)

    def take_back_failure(self, bead: Bead, note: str, now: datetime, *, actor: str, noted: bool = True) -> bool:
        """Its refusals in a row, or a job that failed at once, were not the bead's fault: they are not counted, and the
        retry delay ends. Not `noted`: the note is in the audit row alone. False when the bead changed."""
        before, failed = bead.record, bead.record.failed_at is not None
        record = replace(
            before,
            failures=before.failures if failed else 0,
            jobs=max(before.jobs - failed, 0),
            outages=before.outages + 1,
            retry_at=None,
            refused_at=None,
            failed_at=None,
        )

        def work(change: BeadChange) -> bool:
            change.update(
                bead.id,
                now,
                note=note if noted else "",
                record=record,
                where="i.status = 'open' AND i.updated_at = %(seen)s AND i.assignee = %(assignee)s",
                params={"seen": naive(bead.updated_at), "assignee": bead.assignee},
            )
            change.audit(bead.id, note, now)
            return True

        return self._commit_unless_changed(actor, f"{actor}: take back the failure of {bead.id}", work)

    def withdraw(self, bead: Bead, why: str, now: datetime) -> bool:
        """Undo our part of a claim that was merged with a person's change; their part stays.

        `status` goes back to open only where it is ours: not where they set in_progress themselves, nor where
        they closed or blocked the bead since.
        """
        record = replace(bead.record, claim=None, at=None)

        def work(change: BeadChange) -> bool:
            theirs = change.rows(
                "SELECT 1 FROM events WHERE issue_id = %(id)s AND created_at >= %(claimed)s AND actor NOT IN %(ours)s"
                " AND event_type IN ('claimed', 'status_changed') LIMIT 1",
                {"id": bead.id, "claimed": _claimed_at(bead), "ours": OURS},
            )
            status = "i.status" if theirs else "IF(i.status = 'in_progress', 'open', i.status)"
            started = "i.started_at" if theirs else "IF(i.started_at = %(claimed)s, NULL, i.started_at)"
            change.update(
                bead.id,
                now,
                note=notes.withdrawn(why),
                record=record,
                sets=f"i.status = {status}, i.started_at = {started}",
                where=f"{TOKEN} = %(token)s",
                params={"token": bead.record.claim, "claimed": _claimed_at(bead)},
            )
            change.audit(bead.id, notes.withdrawn(why), now)
            return True

        return self._commit_unless_changed(DISPATCHER, f"{DISPATCHER}: withdraw the claim on {bead.id}", work)

    def block_inactive(self, bead: Bead, before: datetime, note: str, now: datetime) -> bool:
        """Block a bead that was read as inactive. False when it changed or had activity since it was read."""

        def work(change: BeadChange) -> bool:
            active = change.rows(
                f"SELECT 1 FROM (SELECT {last_activity(self._session)} AS last_activity FROM issues i"
                " WHERE i.id = %(id)s) p WHERE p.last_activity >= %(before)s",
                {"id": bead.id, "before": naive(before)},
            )
            if active:
                raise RowChanged
            # What is dated ahead was there before: it does not show that anybody works on the blocked bead.
            record = replace(bead.record, claim=None, foreign=self._foreign(change, bead, now))
            change.update(
                bead.id,
                now,
                note=note,
                record=record if bead.record.attempt else None,
                sets="i.status = 'blocked'",
                where=(
                    "i.assignee = %(assignee)s AND i.status = 'in_progress' AND i.updated_at = %(seen)s"
                    f" AND %(token)s IN ('', {TOKEN})"  # what is no text is nobody's claim
                ),
                params={
                    "assignee": bead.assignee,
                    "seen": naive(bead.updated_at),
                    "token": bead.record.claim or "",
                },
            )
            change.audit(bead.id, note, now, (Status.IN_PROGRESS, Status.BLOCKED))
            return True

        try:
            return self._commit(REAPER, f"{REAPER}: block {bead.id}", work)
        except (ClaimLost, RowChanged):
            return False

    def _amend(self, bead: Bead, now: datetime, note: str, record: DispatchRecord, verb: str) -> bool:
        """Add to a bead with our claim, whatever its status is by now: a fast agent may have closed it."""

        def work(change: BeadChange) -> bool:
            params = {"token": bead.record.claim}
            written = replace(record, others=change.changes_by_others(bead))
            change.update(bead.id, now, note=note, record=written, where=f"{TOKEN} = %(token)s", params=params)
            change.audit(bead.id, note, now)
            return True

        return self._commit_unless_changed(DISPATCHER, f"{DISPATCHER}: {verb} {bead.id}", work)

    def _foreign(self, change: BeadChange, bead: Bead, now: datetime) -> str | None:
        """The moments on the bead that are later than the claim, see DispatchRecord.foreign."""
        rows = change.rows(foreign(self._session), {"id": bead.id, "now": naive(now)})
        return ",".join(notes.timestamp(row["at"].replace(tzinfo=UTC)) for row in rows) or None

    def _commit_unless_changed(self, actor: str, message: str, work: Callable[[BeadChange], bool]) -> bool:
        """As `_commit`, tried again after a conflict: for what must be recorded beside other people's writes. False
        when the row is no longer as expected."""
        try:
            return retry_on_conflict(message, lambda: self._commit(actor, message, work))
        except RowChanged:
            return False

    def _commit(self, actor: str, message: str, work: Callable[[BeadChange], T]) -> T:
        """Run `work` in one transaction and make it one Dolt commit whose author is `actor`. Raises ClaimLost."""
        schema = self._session.schema
        with self._session.write_lock(), self._session.transaction() as cursor:
            result = work(BeadChange(cursor, schema, actor))
            cursor.execute("CALL DOLT_ADD('issues', 'events')")
            author = f"{actor} <{actor}@localhost>"
            cursor.execute("CALL DOLT_COMMIT('-m', %s, '--author', %s)", (message, author))
        return result


def _claimed_at(bead: Bead) -> datetime | None:
    return naive(at) if (at := notes.moment(bead.record.at)) else None
