"""Did "one POST per claim" hold in this database? python -m beads_dispatch.cli.verify

Reads Dolt's own history of `issues`, not our logs. The connection is DOLT_* or BEADS_DIR, as for the processes, and the
sentinel is AGENT_ASSIGNEE, as it was for all of that history. It only reads. Ends with 0 when the promise held, 1 when
it was broken, and says what history cannot show.
"""

import argparse
import collections
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pymysql
from pymysql.cursors import DictCursor

from beads_dispatch import settings, store
from beads_dispatch.bead import POSTING, UNKNOWN, DispatchRecord, Status

_WORKING = "WORKING"
_SECOND = timedelta(seconds=2)  # audit rows are dated to the second

CANNOT_KNOW = (
    "whether a POST arrived: only the agent service knows. A bead whose claim ended as `unknown` or `crashed while"
    " posting` may have a job or none.",
    "what happened between two Dolt commits: bd makes its commit a moment after its write, and plain SQL none. A bead"
    " that was reopened that way and claimed again looks like one claimed twice; the audit rows of bd tell them apart,"
    " plain SQL that writes none and commits nothing is reported as broken.",
    "what is no longer in the history: dolt_gc keeps it; a reset, a squash or a fresh import does not.",
)


@dataclass(frozen=True)
class State:
    """A bead at one moment."""

    assignee: str
    status: str
    record: DispatchRecord
    notes: str


@dataclass(frozen=True)
class Version:
    """What one Dolt commit made of one bead; a side is None where the bead did not exist."""

    commit: str
    at: datetime
    bead: str
    before: State | None
    after: State | None


@dataclass
class Claim:
    """One claim, from the commit that made it to the one that ended it."""

    token: str
    bead: str
    at: datetime
    commit: str
    stood: bool  # the commit that made it left the bead in progress and the sentinel's
    jobs: set[str] = field(default_factory=set)
    unknown: bool = False
    posting: bool = False
    released: bool = False  # somebody else took the bead out of in_progress, and left our token on it
    end: str = "in the air"
    ended: datetime | None = None


@dataclass(frozen=True)
class Verdict:
    claims: tuple[Claim, ...]
    broken: tuple[str, ...]
    commits: int

    def ends(self) -> Mapping[str, int]:
        """How many claims ended how."""
        return collections.Counter(claim.end for claim in self.claims)


Moments = Mapping[str, Sequence[datetime]]  # by bead


def versions(dolt: settings.DoltSettings, since: str | None = None) -> Iterator[Version]:
    """Every version of every bead, oldest first, after the Dolt commit `since`; what is not committed comes last.

    Raises StoreError.
    """
    connection = store.connect(dolt, cursorclass=DictCursor, read_timeout=600)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT commit_hash FROM dolt_log")  # newest first, a child before its parents
        order = {row["commit_hash"]: -number for number, row in enumerate(cursor.fetchall())}
        cursor.execute(
            "SELECT to_commit, to_commit_date, COALESCE(to_id, from_id) AS id, from_id, from_assignee, from_status,"
            " from_metadata, from_notes, to_id, to_assignee, to_status, to_metadata, to_notes FROM dolt_diff_issues"
        )
        rows = cursor.fetchall()
    newest = max(order.values(), default=0) + 1
    oldest = order[since] if since else min(order.values(), default=0) - 1
    for row in sorted(rows, key=lambda row: order.get(row["to_commit"], newest)):
        if order.get(row["to_commit"], newest) <= oldest:
            continue
        at = row["to_commit_date"].replace(tzinfo=UTC) if row["to_commit_date"] else datetime.now(UTC)
        yield Version(row["to_commit"], at, row["id"], _state(row, "from"), _state(row, "to"))


def written_by_others(dolt: settings.DoltSettings) -> Moments:
    """When others than us changed which bead, from the audit rows: to the second, and not what plain SQL did."""
    found: dict[str, list[datetime]] = collections.defaultdict(list)
    connection = store.connect(dolt, cursorclass=DictCursor, read_timeout=600)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT issue_id, created_at FROM events WHERE actor NOT IN %s", (store.OURS,))
        for row in cursor.fetchall():
            found[row["issue_id"]].append(row["created_at"].replace(tzinfo=UTC))
    return found


def explained(others: Moments, version: Version, since: datetime) -> bool:
    """Whether somebody else wrote to the bead between the version before, at `since`, and this one."""
    return any(since - _SECOND <= moment <= version.at + _SECOND for moment in others.get(version.bead, ()))


def judge(history: Iterable[Version], others: Moments | None = None, sentinel: str = "agent") -> Verdict:
    """The verdict over a history, oldest version first. Pure.

    `others`: when somebody else wrote to which bead; their write may be part of the commit of a claim. `sentinel`: the
    AGENT_ASSIGNEE of that time; a claim on anybody else's bead was merged with their change, and must not be sent.
    """
    claims: dict[str, Claim] = {}
    live: dict[str, str] = {}  # bead -> the token that it carries
    broken: list[str] = []
    commits = set()
    previous: dict[str, datetime] = {}
    for version in history:
        commits.add(version.commit)
        since, previous[version.bead] = previous.get(version.bead), version.at
        known = since is not None and explained(others or {}, version, since)
        token = version.after.record.claim if version.after else None
        carried = live.get(version.bead)
        if carried and token != carried:
            broken += _end(claims[carried], version, token, explained=known)
            del live[version.bead]
        if token and token != carried:
            known_claim = claims.get(token)
            if known_claim is not None and known_claim.bead != version.bead:
                broken.append(f"claim {token} is on two beads, {known_claim.bead} and {version.bead}")
            elif known_claim is not None:
                broken.append(f"{version.bead}: claim {token} came back in {version.commit}, after it had ended")
            broken += _begin(claims, version, token, sentinel, explained=known)
            live[version.bead] = token
        if token and version.after:
            broken += _go_on(claims[token], version, version.after)
    return Verdict(tuple(claims.values()), tuple(broken), len(commits - {_WORKING}))


def posts_not_ours(
    history: Iterable[Version], posts: Iterable[tuple[float, str]], sentinel: str, tolerance_seconds: float
) -> list[str]:
    """The beads that were POSTed although somebody had taken them, so long before that it must have been seen.

    `posts` are moments (seconds since 1970, this machine's clock) and beads, as the agent service saw them.
    """
    by_bead: dict[str, list[Version]] = collections.defaultdict(list)
    for version in history:
        by_bead[version.bead].append(version)
    wrong = []
    for moment, bead in posts:
        posted, tolerance = datetime.fromtimestamp(moment, UTC), timedelta(seconds=tolerance_seconds)
        before = [version.after for version in by_bead[bead] if version.at <= posted - tolerance][-1:]
        around = [version.after for version in by_bead[bead] if abs(version.at - posted) <= tolerance]
        states = [state for state in (*before, *around) if state is not None]
        if not any(
            state.assignee == sentinel and state.status in (Status.OPEN, Status.IN_PROGRESS) for state in states
        ):
            last = states[0] if states else State("", "deleted", DispatchRecord(), "")
            wrong.append(f"{bead}: POSTed although it was {last.status} and {last.assignee or 'nobody'}'s")
    return wrong


def _begin(claims: dict[str, Claim], version: Version, token: str, sentinel: str, *, explained: bool) -> list[str]:
    before, after = version.before, version.after
    assert after is not None
    stood = after.status == Status.IN_PROGRESS and after.assignee == sentinel
    claims[token] = Claim(token, version.bead, version.at, version.commit, stood)
    if before is not None and before.status != Status.OPEN and not explained:
        return [f"{version.bead}: claimed in {version.commit} although it was {before.status} in the commit before"]
    return []


def _go_on(claim: Claim, version: Version, after: State) -> list[str]:
    found = []
    claim.released = claim.released or after.status != Status.IN_PROGRESS
    claim.posting = claim.posting or after.record.outcome == POSTING
    claim.unknown = claim.unknown or after.record.outcome == UNKNOWN
    if after.record.job and after.record.job not in claim.jobs:
        claim.jobs.add(after.record.job)
        if len(claim.jobs) > 1:
            found.append(f"{claim.bead}: one claim, {claim.token}, and {len(claim.jobs)} jobs")
        if not claim.stood:
            found.append(f"{claim.bead}: POSTed although the claim {claim.token} was merged with somebody's change")
    claim.end = (
        "dispatched"
        if claim.jobs
        else "unknown"
        if claim.unknown
        else "crashed while posting"
        if claim.posting
        else "in the air"
    )
    return found


def _end(claim: Claim, version: Version, token: str | None, *, explained: bool) -> list[str]:
    claim.ended = version.at
    after = version.after
    if token is not None:
        if claim.released or explained:  # a person gave the bead to the agent again
            return []
        return [f"{claim.bead}: claim {claim.token} was replaced by {token} in {version.commit} while it was live"]
    if claim.end not in ("in the air", "crashed while posting"):
        return _given_back(claim, version) if after is not None else []
    said = _said(version)
    if after is None:
        claim.end = "deleted"
    elif "dispatch failed HTTP" in said:
        claim.end = "refused"
    elif "withdrew its claim" in said:
        claim.end = "withdrawn"
    elif "claim expired" in said:
        claim.end = "expired"
        return _given_back(claim, version)
    elif "reaper: no progress" in said:
        claim.end = "reaped"
    else:
        claim.end = "taken out by somebody"
    return []


def _given_back(claim: Claim, version: Version) -> list[str]:
    """A claim of which something was sent must not make its bead eligible again by our own hand."""
    after = version.after
    assert after is not None
    kept = after.record.outcome or after.record.job
    if "claim expired" in _said(version) and (claim.jobs or claim.unknown or claim.posting or kept):
        return [f"{claim.bead}: given back in {version.commit} although its POST had begun ({kept or 'posting'})"]
    return []


def _said(version: Version) -> str:
    """The notes that this version added."""
    before = version.before.notes if version.before else ""
    after = version.after.notes if version.after else ""
    return after[len(before) :] if after.startswith(before) else after


def _state(row: Mapping[str, Any], side: str) -> State | None:
    if row[f"{side}_id"] is None:
        return None
    metadata = row[f"{side}_metadata"]
    try:
        found = json.loads(metadata) if isinstance(metadata, str | bytes) else metadata
    except ValueError:
        found = None
    return State(
        row[f"{side}_assignee"] or "",
        row[f"{side}_status"],
        DispatchRecord.from_metadata(found),
        row[f"{side}_notes"] or "",
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m beads_dispatch.cli.verify",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(arguments)
    try:
        dolt = settings.dolt(os.environ)
        verdict = judge(versions(dolt), written_by_others(dolt), settings.limits(os.environ).assignee)
    except (settings.SettingsError, store.StoreError, pymysql.Error, OSError) as exc:
        print(f"cannot verify: {exc}", file=sys.stderr)
        return 2
    print(f"{dolt.database}: {verdict.commits} Dolt commits that touch issues, {len(verdict.claims)} claims")
    for end, number in sorted(verdict.ends().items(), key=lambda item: -item[1]):
        print(f"  {number:7} {end}")
    for line in verdict.broken:
        print(f"BROKEN  {line}")
    print("This history cannot show:")
    for line in CANNOT_KNOW:
        print(f"  - {line}")
    print("One POST per claim: " + ("BROKEN" if verdict.broken else "held"))
    return 1 if verdict.broken else 0


if __name__ == "__main__":
    sys.exit(main())
