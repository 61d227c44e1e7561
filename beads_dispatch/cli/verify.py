"""beads-dispatch verify: whether "one POST per claim" held in this database, by Dolt's own history of `issues`."""

import argparse
import collections
import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from beads_dispatch import notes, settings
from beads_dispatch.bead import POSTING, UNKNOWN, DispatchRecord, Status
from beads_dispatch.cli import terminal
from beads_dispatch.cli.context import CommandError, Context, add_limits
from beads_dispatch.cli.terminal import Styled
from beads_dispatch.store import Store, StoreError
from beads_dispatch.store.history import WORKING

HELD, BROKEN, CANNOT_VERIFY = 0, 1, 2  # the exit status

_DESCRIPTION = """\
Reads Dolt's own history of `issues`, no log of ours, and writes nothing. The agent is --assignee (AGENT_ASSIGNEE), as
it was for all of that history. It takes a few minutes where the history is long.

Exit status: 0 each claim was dispatched at most once, 1 one was not, 2 it cannot be verified.
"""

_STATEMENT_SECONDS = 600.0  # the whole history is one statement
_SECOND = timedelta(seconds=2)  # audit rows are dated to the second
_IN_FLIGHT, _CRASHED, _EXPIRED = "in flight", "crashed while posting", "expired"

UNKNOWABLE = (
    "whether a POST arrived: only the agent knows. A bead whose claim ended as `unknown` or `crashed while posting` may"
    " have a job or none.",
    "what happened between two Dolt commits: bd makes its commit a moment after its write, and plain SQL none. A bead"
    " that was reopened that way and claimed again looks like one claimed twice; the audit rows of bd tell them apart,"
    " plain SQL that writes none and commits nothing is reported as broken. A claim looks merged with a person's change"
    " where one Dolt commit holds both, also if theirs came after the POST.",
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

    @property
    def noted(self) -> str:
        """The notes that this version added."""
        before, after = (side.notes if side else "" for side in (self.before, self.after))
        return after[len(before) :] if after.startswith(before) else after


@dataclass
class Claim:
    """One claim, from the commit that made it to the one that ended it."""

    token: str
    bead: str
    stood: bool  # the commit that made it left the bead in progress and the agent's
    jobs: set[str] = field(default_factory=set)
    unknown: bool = False
    posting: bool = False
    released: bool = False  # somebody else took the bead out of in_progress, and left our token on it
    end: str = _IN_FLIGHT


@dataclass(frozen=True)
class Verdict:
    """Every claim, and each way in which the promise was broken."""

    claims: tuple[Claim, ...]
    broken: tuple[str, ...]
    merged: tuple[str, ...]  # of `broken`: sure only where each Dolt commit holds one writer's changes
    commits: int

    def ends(self) -> Mapping[str, int]:
        """How many claims ended how."""
        return collections.Counter(claim.end for claim in self.claims)


@dataclass(frozen=True)
class ClaimEnd:
    """How many claims ended in one way."""

    end: str
    claims: int


@dataclass(frozen=True)
class Verification:
    """The verdict as it is shown."""

    database: str
    held: bool
    commits: int
    claims: int
    ends: Sequence[ClaimEnd]
    broken: Sequence[str]
    unknown: Sequence[str]


Moments = Mapping[str, Sequence[datetime]]  # by bead


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = _DESCRIPTION
    add_limits(parser, "--assignee")


def run(context: Context) -> int:
    """Print the verdict; returns HELD or BROKEN. Raises CommandError with CANNOT_VERIFY."""
    try:
        dolt, assignee = context.dolt, context.limits.assignee
        verdict = judge(versions(dolt), written_by_others(dolt), assignee)
    except (settings.SettingsError, StoreError) as exc:
        raise CommandError(f"cannot verify: {exc}", CANNOT_VERIFY) from None
    found = Verification(
        database=dolt.database,
        held=not verdict.broken,
        commits=verdict.commits,
        claims=len(verdict.claims),
        ends=[ClaimEnd(end, number) for end, number in sorted(verdict.ends().items(), key=lambda item: -item[1])],
        broken=verdict.broken,
        unknown=UNKNOWABLE,
    )
    context.show(found, lines)
    return HELD if found.held else BROKEN


def versions(dolt: settings.DoltSettings, since: str | None = None) -> Iterator[Version]:
    """Every version of every bead, oldest first, after the Dolt commit `since`; what is not committed comes last.

    Raises StoreError.
    """
    with contextlib.closing(Store(dolt, _STATEMENT_SECONDS)) as beads:
        for row in beads.history.all_versions(since):
            yield Version(row["commit"], row["at"], row["id"], _state(row, "from"), _state(row, "to"))


def _state(row: Mapping[str, Any], side: str) -> State | None:
    if row[f"{side}_id"] is None:
        return None
    assignee, status, metadata, noted = (row[f"{side}_{name}"] for name in ("assignee", "status", "metadata", "notes"))
    return State(assignee or "", status, DispatchRecord.from_metadata(metadata), noted or "")


def written_by_others(dolt: settings.DoltSettings) -> Moments:
    """When others than us changed which bead, from the audit rows: to the second, and not what plain SQL did.

    Raises StoreError.
    """
    found: dict[str, list[datetime]] = collections.defaultdict(list)
    with contextlib.closing(Store(dolt, _STATEMENT_SECONDS)) as beads:
        for row in beads.history.writes_by_others():
            found[row["issue_id"]].append(row["created_at"].replace(tzinfo=UTC))
    return found


def judge(history: Iterable[Version], others: Moments | None = None, assignee: str = "agent") -> Verdict:
    """The verdict over a history, oldest version first. Pure.

    `others`: when somebody else wrote to which bead; their write may be part of the commit of a claim. `assignee`: the
    AGENT_ASSIGNEE of that time; a claim on anybody else's bead was merged with their change, and must not be sent.
    """
    claims: dict[str, Claim] = {}
    live: dict[str, str] = {}  # bead -> the token that it carries
    broken: list[str] = []
    merged: list[str] = []
    commits = set()
    previous: dict[str, datetime] = {}
    for version in history:
        commits.add(version.commit)
        since, previous[version.bead] = previous.get(version.bead), version.at
        # Whether somebody else wrote to the bead between the version before and this one.
        by_others = since is not None and any(
            since - _SECOND <= moment <= version.at + _SECOND for moment in (others or {}).get(version.bead, ())
        )
        token = version.after.record.claim if version.after else None
        carried = live.get(version.bead)
        if carried and token != carried:
            broken += _end(claims[carried], version, token, by_others=by_others)
            del live[version.bead]
        if token and token != carried:
            broken += _begin(claims, version, token, assignee, by_others=by_others)
            live[version.bead] = token
        if token and version.after:
            broken += _continue(claims[token], version.after, merged)
    return Verdict(tuple(claims.values()), (*broken, *merged), tuple(merged), len(commits - {WORKING}))


def posts_not_ours(
    history: Iterable[Version], posts: Iterable[tuple[float, str]], assignee: str, tolerance_seconds: float
) -> list[str]:
    """The beads that were POSTed although somebody had taken them, so long before that it must have been read. Pure.

    `posts` are moments (seconds since 1970, this machine's clock) and beads, as the agent received them.
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
        if not any(one.assignee == assignee and one.status in (Status.OPEN, Status.IN_PROGRESS) for one in states):
            last = states[0] if states else State("", "deleted", DispatchRecord(), "")
            wrong.append(f"{bead}: POSTed although it was {last.status} and {last.assignee or 'nobody'}'s")
    return wrong


def _begin(claims: dict[str, Claim], version: Version, token: str, assignee: str, *, by_others: bool) -> list[str]:
    before, after, known = version.before, version.after, claims.get(token)
    broken = []
    if known is not None and known.bead != version.bead:
        broken.append(f"claim {token} is on two beads, {known.bead} and {version.bead}")
    elif known is not None:
        broken.append(f"{version.bead}: claim {token} came back in {version.commit}, after it had ended")
    if before is not None and before.status != Status.OPEN and not by_others:
        state = f"although it was {before.status} in the commit before"
        broken.append(f"{version.bead}: claimed in {version.commit} {state}")
    stood = after is not None and after.status == Status.IN_PROGRESS and after.assignee == assignee
    claims[token] = Claim(token, version.bead, stood)
    return broken


def _continue(claim: Claim, after: State, merged: list[str]) -> list[str]:
    broken = []
    claim.released = claim.released or after.status != Status.IN_PROGRESS
    claim.posting = claim.posting or after.record.outcome == POSTING
    claim.unknown = claim.unknown or after.record.outcome == UNKNOWN
    if after.record.job and after.record.job not in claim.jobs:
        claim.jobs.add(after.record.job)
        if len(claim.jobs) > 1:
            broken.append(f"{claim.bead}: one claim, {claim.token}, and {len(claim.jobs)} jobs")
        if not claim.stood:
            merged.append(f"{claim.bead}: POSTed although the claim {claim.token} was merged with somebody's change")
    states = {"dispatched": claim.jobs, "unknown": claim.unknown, _CRASHED: claim.posting}
    claim.end = next((end for end, reached in states.items() if reached), _IN_FLIGHT)
    return broken


def _end(claim: Claim, version: Version, token: str | None, *, by_others: bool) -> list[str]:
    if token is not None:
        if claim.released or by_others:  # a person gave the bead to the agent again
            return []
        return [f"{claim.bead}: claim {claim.token} was replaced by {token} in {version.commit} while it was live"]
    if claim.end in (_IN_FLIGHT, _CRASHED):
        claim.end = _end_in_notes(version)
        if claim.end != _EXPIRED:
            return []
    return _released_after_post(claim, version)


def _end_in_notes(version: Version) -> str:
    if version.after is None:
        return "deleted"
    ends = {
        notes.DISPATCH_FAILED: "refused",
        notes.WITHDRAWN: "withdrawn",
        notes.CLAIM_EXPIRED: _EXPIRED,
        notes.NO_PROGRESS: "reaped",
    }
    return next((end for note, end in ends.items() if note in version.noted), "ended by somebody else")


def _released_after_post(claim: Claim, version: Version) -> list[str]:
    """A claim of which something was sent must not make its bead eligible again by our own hand."""
    kept = version.after and (version.after.record.outcome or version.after.record.job)
    if notes.CLAIM_EXPIRED in version.noted and (claim.jobs or claim.unknown or claim.posting or kept):
        return [f"{claim.bead}: released in {version.commit} although its POST had begun ({kept or 'posting'})"]
    return []


def lines(found: Verification) -> list[terminal.Line]:
    """The verdict as people read it."""
    return [
        f"{found.database}: {found.commits} Dolt commits that change issues, {found.claims} claims",
        *(f"  {one.claims:7} {one.end}" for one in found.ends),
        *((Styled("BROKEN", "red"), f"  {line}") for line in found.broken),
        "This history cannot show:",
        *(f"  - {line}" for line in found.unknown),
        "One POST per claim: " + ("held" if found.held else "BROKEN"),
    ]
