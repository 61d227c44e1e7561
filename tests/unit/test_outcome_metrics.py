"""The time from an assignment to its POST, as the feed's transactions show it. Pure."""

import pytest

from beads_dispatch import notes, store
from feeder import metrics, outcome_metrics
from feeder.changes import RowChange, Transaction

MINE = {"id": "x-1", "assignee": "timed", "status": "open"}
IN_PROGRESS = {**MINE, "status": "in_progress"}
BLOCKED = {**MINE, "status": "blocked"}


def of(before: dict[str, str] | None, after: dict[str, str] | None, actor: str = "ann", note: str = "") -> Transaction:
    audit = {"issue_id": "x-1", "actor": actor, "comment": note or None}
    return Transaction("s:1", "beads", (RowChange("events", None, audit), RowChange("issues", before, after)))


ASSIGNED = of({**MINE, "assignee": ""}, MINE)
CLAIMED = of(MINE, IN_PROGRESS, store.DISPATCHER, f"{notes.CLAIMED} now")
DISPATCHED = of(IN_PROGRESS, IN_PROGRESS, store.DISPATCHER, notes.dispatched("j"))
REFUSED = of(IN_PROGRESS, MINE, store.DISPATCHER, notes.dispatch_failed(400, "no"))
UNKNOWN = of(IN_PROGRESS, IN_PROGRESS, store.DISPATCHER, notes.outcome_unknown("lost"))
WITHDRAWN = of(IN_PROGRESS, MINE, store.DISPATCHER, notes.withdrawn("it was closed"))
OPENED = of(BLOCKED, MINE)
CREATED = of(None, MINE)


@pytest.mark.parametrize(("steps", "seconds"), [
    ([ASSIGNED, CLAIMED, DISPATCHED], [1]),
    ([CREATED, CLAIMED, UNKNOWN], [1]),
    ([ASSIGNED, CLAIMED, REFUSED, CLAIMED, DISPATCHED], [1]),
    ([ASSIGNED, CLAIMED, WITHDRAWN, CLAIMED, DISPATCHED], [3]),
    ([ASSIGNED, CLAIMED, REFUSED, OPENED, CLAIMED, DISPATCHED], [1, 1]),
    ([CLAIMED, DISPATCHED], []),
    ([ASSIGNED, DISPATCHED], []),
    ([ASSIGNED, of(None, None)], []),
])  # fmt: skip
def test_the_time_is_that_from_an_assignment_to_its_first_post(
    steps: list[Transaction], seconds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One second between two steps; a claim without a POST is none, and what was not seen is not guessed."""
    moments = iter(range(len(steps)))
    timing = outcome_metrics.AssignToPost(["timed"], lambda: float(next(moments)))
    measured: list[float] = []
    monkeypatch.setattr(metrics.ASSIGN_TO_POST.labels("timed"), "observe", measured.append)
    for step in steps:
        timing.look(step)
    assert measured == seconds


def test_an_import_of_many_beads_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are forgotten."""
    monkeypatch.setattr(outcome_metrics, "_MOST_BEADS", 10)
    timing = outcome_metrics.AssignToPost(["timed"])
    rows = tuple(RowChange("issues", None, {**MINE, "id": f"x-{number}"}) for number in range(50))
    timing.look(Transaction("s:1", "beads", rows))
    assert list(timing._assigned) == [("beads", f"x-{number}") for number in range(40, 50)]


@pytest.mark.parametrize(("step", "kinds"), [
    (CLAIMED, ["claims"]),
    (DISPATCHED, ["dispatched"]),
    (REFUSED, ["refused"]),
    (UNKNOWN, ["unknown"]),
    (of(IN_PROGRESS, BLOCKED, store.REAPER, notes.no_progress(31, 30)), ["reaped", "blocked"]),
    (of(IN_PROGRESS, MINE, store.REAPER, notes.claim_expired(120)), ["reaped"]),
    (of(MINE, MINE, store.REAPER, notes.not_counted()), []),
    (of(IN_PROGRESS, BLOCKED, store.DISPATCHER, notes.given_up(10)), ["blocked"]),
    (of(IN_PROGRESS, BLOCKED, "ann", "reaper: forged"), []),
    (of(MINE, MINE, "ann", notes.dispatched("forged")), []),
    (WITHDRAWN, []),
])  # fmt: skip
def test_an_outcome_is_told_by_its_writer_and_its_note(step: Transaction, kinds: list[str]) -> None:
    """What people write, the same words among it, is none."""
    assert [found.what for found in outcome_metrics.outcomes_in(step)] == kinds
