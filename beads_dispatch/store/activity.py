"""What is in progress, and its newest activity: the bead, its events, its comments, its heartbeat. Reads only."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from beads_dispatch import notes
from beads_dispatch.bead import POSTING, UNKNOWN, Bead, Status
from beads_dispatch.store.predicate import BEAD, REFUSED_AT, of_record
from beads_dispatch.store.records import AHEAD, OURS, REAPER, Activity
from beads_dispatch.store.session import ReadSession, Rows, naive

# The fields of metadata.dispatch, as SQL on a row `i`.
TOKEN, JOB, OUTCOME = of_record("claim"), of_record("job"), of_record("outcome")
_CLAIMED_AT, _FAILED_AT = of_record("at"), of_record("failed_at")
_SEEN, _SEEN_AT = of_record("seen"), of_record("seen_at")

_IN_PROGRESS = "i.assignee = %(assignee)s AND i.status = 'in_progress'"

# Beads in progress that did not change since `before`, which would be activity: first by columns alone, because other
# people's beads in progress may be many, and a row holds texts. A change that reap saw may be dated later. UNION,
# because with OR Dolt would read all beads of the agent.
_UNCHANGED = (
    f"(SELECT i.id FROM issues i WHERE {_IN_PROGRESS} AND i.updated_at < %(before)s UNION ALL"
    f" SELECT i.id FROM issues i WHERE {_IN_PROGRESS} AND i.updated_at >= %(before)s AND {_SEEN} IS NOT NULL) q"
    " JOIN issues i ON i.id = q.id"
)

_FORMAT = "%%Y-%%m-%%dT%%H:%%i:%%sZ"  # as notes.timestamp writes a moment
_AFTER_A_REFUSAL = (Status.OPEN, Status.BLOCKED, Status.IN_PROGRESS)
_WITHIN = timedelta(days=7)  # "in a row" looks back so far, however slowly beads come
_FOREIGN_LIMIT = 50  # moments: seconds in which somebody wrote to one bead with a clock that is ahead


def _after_claim(at: str, foreign: str = f"COALESCE({of_record('foreign')}, '')") -> str:
    """SQL: a moment is not among those that were there, dated ahead, when the bead was claimed."""
    return f"FIND_IN_SET(DATE_FORMAT({at}, '{_FORMAT}'), {foreign}) = 0"


def _sources(session: ReadSession) -> list[tuple[str, str, str]]:
    """Where activity is besides the bead's own row: the table `o`, its moment, and who it was in words."""
    found = [("comments o", "o.created_at", "CONCAT('comment by ', o.author)")]
    found += [("events o", "o.created_at", "CONCAT('change by ', o.actor)")] if session.schema.events else []
    found += [("leases o", "o.heartbeat_at", "CONCAT('heartbeat by ', o.holder)")] if session.schema.leases else []
    return found


def last_activity(session: ReadSession) -> str:
    """SQL for the moment of the newest activity on a row `i`: where nothing came since reap saw that some is dated
    ahead, the moment at which it did."""
    newest = [
        f"COALESCE((SELECT MAX({at}) FROM {table} WHERE o.issue_id = i.id AND {_after_claim(at)}), i.updated_at)"
        for table, at, _ in _sources(session)
    ]
    # The first condition spares nearly all beads the second one.
    is_seen = f"{_SEEN} IS NOT NULL AND {_SEEN} = {state(session)}"
    seen_at = f"IF({is_seen}, STR_TO_DATE({_SEEN_AT}, '{_FORMAT}'), NULL)"
    return f"CAST(COALESCE({seen_at}, GREATEST({', '.join(['i.updated_at', *newest])})) AS DATETIME)"


def state(session: ReadSession) -> str:
    """SQL for the state of all activity on a row `i`, as a short text: as long as it is the same, nobody wrote to the
    bead, with whatever clock. The number of rows tells those of one second apart."""
    parts = [
        f"(SELECT CONCAT(COUNT(*), ' ', COALESCE(DATE_FORMAT(MAX({at}), '{_FORMAT}'), 'none')) FROM {table}"
        " WHERE o.issue_id = i.id)"
        for table, at, _ in _sources(session)
    ]
    return f"CONCAT_WS(' ', DATE_FORMAT(i.updated_at, '{_FORMAT}'), {', '.join(parts)})"


def foreign(session: ReadSession) -> str:
    """SQL for the moments on the bead %(id)s, `at`, that are later than %(now)s, the last ones first."""
    moments = " UNION ".join(
        f"SELECT {at} AS at FROM {table} WHERE o.issue_id = %(id)s AND {at} > %(now)s"
        for table, at, _ in _sources(session)
    )
    return f"SELECT at FROM ({moments}) m ORDER BY at DESC LIMIT {_FOREIGN_LIMIT}"


class ActivityReads:
    """Queries on beads in progress. Every method raises StoreError."""

    def __init__(self, session: ReadSession, resumed_at: Callable[[], datetime | None] = lambda: None) -> None:
        """`resumed_at`: when the last time ended in which nobody could show activity; see Feeders.resumed_at."""
        self._session = session
        self._resumed_at = resumed_at

    def count_in_progress(self, assignee: str) -> int:
        """How many beads are in progress for the agent, with a claim of ours or without."""
        rows = self._session.rows(f"SELECT COUNT(*) AS n FROM issues i WHERE {_IN_PROGRESS}", {"assignee": assignee})
        return int(rows[0]["n"])

    def claims(self, assignee: str, *, to_reap: bool = False) -> list[Bead]:
        """The beads in progress for the agent with a claim of ours, each with the moment of its newest activity. Of
        several databases, `to_reap` leaves out those whose beads are not reaped now."""
        rows = self._session.rows(
            f"SELECT {BEAD}, {last_activity(self._session)} AS last_activity FROM issues i"
            f" WHERE {_IN_PROGRESS} AND {TOKEN} IS NOT NULL",
            {"assignee": assignee},
        )
        return _with_activity(rows, self._resumed(rows))

    def last_job(self, assignee: str) -> Bead | None:
        """The agent's bead that was claimed last, of those whose job is known. Reads all of its beads."""
        rows = self._session.rows(
            f"SELECT {BEAD} FROM issues i WHERE i.assignee = %(assignee)s AND {JOB} IS NOT NULL"
            f" ORDER BY {_CLAIMED_AT} DESC, i.id LIMIT 1",
            {"assignee": assignee},
        )
        return Bead.from_row(rows[0]) if rows else None

    def inactive(self, assignee: str, before: datetime, *, only_ours: bool = False) -> list[Bead]:
        """Beads in progress for the agent whose newest activity is older than `before`; `only_ours`: with a claim."""
        claimed = f" WHERE {TOKEN} IS NOT NULL" if only_ours else ""
        found = f"SELECT {BEAD}, {last_activity(self._session)} AS last_activity FROM {_UNCHANGED}{claimed}"
        rows = self._session.rows(
            f"SELECT * FROM ({found}) p WHERE p.last_activity < %(before)s ORDER BY p.last_activity, p.id",
            {"assignee": assignee, "before": naive(before)},
        )
        beads = _with_activity(rows, self._resumed(rows))
        return [bead for bead in beads if bead.last_activity is not None and bead.last_activity < before]

    def reaped_unresolved(self, assignee: str, since: datetime) -> list[Bead]:
        """Beads that were claimed at `since` or later and that reap blocked although their job may run: no answer to
        their POST is known. Only those that nobody has changed, or shown activity on, since they were blocked."""
        at_that_moment = "SELECT 1 FROM events e WHERE e.issue_id = i.id AND e.created_at = i.updated_at AND e.actor"
        # In the same second, too: reap writes no comment.
        commented = f"o.issue_id = i.id AND o.created_at >= i.updated_at AND {_after_claim('o.created_at')}"
        rows = self._session.rows(
            f"SELECT {BEAD} FROM issues i WHERE i.assignee = %(assignee)s AND i.status = 'blocked' AND {TOKEN} IS NULL"
            f" AND {OUTCOME} IN %(outcomes)s AND {_CLAIMED_AT} >= %(since)s"
            f" AND EXISTS ({at_that_moment} = %(reaper)s) AND NOT EXISTS ({at_that_moment} <> %(reaper)s)"
            f" AND NOT EXISTS (SELECT 1 FROM comments o WHERE {commented})"
            f" AND {last_activity(self._session)} = i.updated_at ORDER BY {_CLAIMED_AT}, i.id",
            {
                "assignee": assignee,
                "outcomes": (UNKNOWN, POSTING),
                "since": notes.timestamp(since),
                "reaper": REAPER,
            },
        )
        return [Bead.from_row(row) for row in rows]

    def orphaned_claims(self, assignee: str, before: datetime) -> list[Bead]:
        """Beads whose claim has neither job nor outcome, was made before `before`, and where nobody else has been
        active since: what a crash of dispatch leaves before its POST. A POST that was begun is an outcome."""
        others = (
            "FROM {table} o WHERE o.issue_id = i.id AND o.created_at >= i.updated_at AND o.{actor} NOT IN %(ours)s"
            f" AND {_after_claim('o.created_at')}"
        )
        heartbeat = (
            " AND NOT EXISTS (SELECT 1 FROM leases l WHERE l.issue_id = i.id AND l.heartbeat_at > i.updated_at"
            f" AND {_after_claim('l.heartbeat_at')})"
            if self._session.schema.leases
            else ""
        )
        params = {"assignee": assignee, "before": naive(before), "before_text": notes.timestamp(before), "ours": OURS}
        claims = (
            f"SELECT {BEAD} FROM {_UNCHANGED} WHERE {TOKEN} IS NOT NULL AND {JOB} IS NULL AND {OUTCOME} IS NULL"
            f" AND LEAST({_CLAIMED_AT}, COALESCE({_SEEN_AT}, {_CLAIMED_AT})) < %(before_text)s"
        )
        if not self._session.rows(claims, params):
            return []  # as nearly always; what follows reads all events
        rows = self._session.rows(
            f"{claims} AND NOT EXISTS (SELECT 1 {others.format(table='events', actor='actor')})"
            f" AND NOT EXISTS (SELECT 1 {others.format(table='comments', actor='author')})"
            f"{heartbeat} ORDER BY i.updated_at, i.id",
            params,
        )
        # A write by anybody else moves updated_at past the claim's moment.
        return [bead for bead in map(Bead.from_row, rows) if notes.timestamp(bead.updated_at) == bead.record.at]

    def refused_in_a_row(self, assignee: str, now: datetime) -> list[Bead]:
        """The beads that the agent refused after it accepted one last, of those that changed in the last days: open
        ones, blocked ones, and those that it is sent again now."""
        beads = self._tried(assignee, now - _WITHIN, now)
        accepted = max((bead.record.at or "" for bead in beads if bead.record.job), default="")
        return [
            bead
            for bead in beads
            if bead.status in _AFTER_A_REFUSAL
            and not bead.record.job  # one whose job failed was no refusal
            and (bead.record.refused_at or "") > accepted
        ]

    def failed_in_a_row(self, assignee: str, now: datetime, lasting: timedelta) -> list[Bead]:
        """The open beads whose job failed soon after its start, for the first time, and no job lasted after that; of
        those that changed in the last days. `lasting`: see lasted."""
        beads, before = self._tried(assignee, now - _WITHIN, now), notes.timestamp(now - lasting)
        lasted = max((bead.record.at or "" for bead in beads if _lasts(bead, before)), default="")
        return [
            bead
            for bead in beads
            if bead.status == Status.OPEN and (bead.record.failed_at or "") > lasted and not bead.record.outages
        ]

    def lasted(self, assignee: str, since: datetime, now: datetime, lasting: timedelta) -> bool:
        """Whether a job that was started at `since` or later has lasted: its bead is closed, or was claimed `lasting`
        ago and is in progress."""
        begun, before = notes.timestamp(since), notes.timestamp(now - lasting)
        beads = self._tried(assignee, since, now)
        return any((bead.record.at or "") >= begun and _lasts(bead, before) for bead in beads)

    def _tried(self, assignee: str, since: datetime, now: datetime) -> list[Bead]:
        """The agent's beads that it accepted, or failed with, of those that changed after `since`: without those that a
        clock ahead dated, which would be the last ones until then."""
        rows = self._session.rows(
            f"SELECT {BEAD} FROM issues i WHERE i.assignee = %(assignee)s AND i.updated_at >= %(since)s"
            f" AND ({JOB} IS NOT NULL OR {REFUSED_AT} IS NOT NULL OR {_FAILED_AT} IS NOT NULL)",
            {"assignee": assignee, "since": naive(since)},
        )
        ahead = notes.timestamp(now + AHEAD)
        return [bead for bead in map(Bead.from_row, rows) if bead.record.tried_at <= ahead]

    def in_progress(self, assignee: str, now: datetime) -> list[tuple[Bead, Activity]]:
        """The beads in progress for the agent, each with its newest activity, the longest inactive first. What is dated
        later than `now`, and reap has not seen yet, counts as now."""
        rows = self._session.rows(
            f"SELECT {BEAD}, {last_activity(self._session)} AS last_activity FROM issues i WHERE {_IN_PROGRESS}",
            {"assignee": assignee},
        )
        resumed = self._resumed(rows)
        found = [(bead, self._newest(bead, now, resumed)) for bead in _with_activity(rows, resumed)]
        return sorted(
            ((replace(bead, last_activity=activity.at), activity) for bead, activity in found),
            key=lambda one: (one[1].at, one[0].id),
        )

    def _resumed(self, rows: Rows) -> datetime | None:
        """`resumed_at`, where there are beads."""
        return self._resumed_at() if rows else None

    def _newest(self, bead: Bead, now: datetime, resumed: datetime | None) -> Activity:
        """The newest activity; of several in the same second the one that names somebody. The words give its own
        moment where another one counts."""
        claimed = _claimed_at(bead)
        found = [Activity(resumed, "nothing could be seen until then")] if resumed else []
        found += [Activity(claimed, "it was claimed")] if claimed else []
        found.append(Activity(bead.updated_at, "the bead changed"))
        for table, at, who in _sources(self._session):
            rows = self._session.rows(
                f"SELECT {at} AS at, {who} AS what FROM {table} WHERE o.issue_id = %(id)s AND {at} IS NOT NULL"
                f" AND {_after_claim(at, '%(foreign)s')} ORDER BY {at} DESC LIMIT 1",
                {"id": bead.id, "foreign": bead.record.foreign or ""},
            )
            found += [Activity(row["at"].replace(tzinfo=UTC), row["what"]) for row in rows]
        newest = max(activity.at for activity in found)
        last = [activity for activity in found if activity.at == newest][-1]
        counts = min(bead.last_activity or newest, now)
        return Activity(counts, f"{last.what}, dated {newest:%Y-%m-%d %H:%M:%S}Z") if newest > counts else last


def _with_activity(rows: Rows, resumed: datetime | None) -> list[Bead]:
    """The beads with their newest activity, which is not from before the claim, nor from before `resumed`."""
    beads = [Bead.from_row(row) for row in rows]
    return [
        replace(bead, last_activity=max(filter(None, (bead.last_activity, _claimed_at(bead), resumed))))
        for bead in beads
    ]


def _claimed_at(bead: Bead) -> datetime | None:
    """When a bead with a claim of ours was claimed; None also where that is not a moment."""
    return notes.moment(bead.record.claimed_at) if bead.record.claim else None


def _lasts(bead: Bead, before: str) -> bool:
    """Whether the bead's job ran for a while, or to its end."""
    if not bead.record.claim or not bead.record.job:
        return False
    return bead.status == Status.CLOSED or (bead.status == Status.IN_PROGRESS and (bead.record.at or "") < before)
