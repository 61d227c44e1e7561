"""The line that a dispatch pass writes, and which of its outcomes are warnings."""

from datetime import UTC, datetime

import pytest

from beads_dispatch import outcomes
from beads_dispatch.bead import Bead
from beads_dispatch.outcomes import (
    AgentFailed,
    Dispatched,
    Held,
    LostRace,
    NoSlot,
    NothingEligible,
    Outcome,
    OutcomeUnknown,
    Rejected,
    Suspended,
    Withdrawn,
)
from beads_dispatch.reaper import ReapResult

NOW = datetime(2026, 7, 15, 9, 30, tzinfo=UTC)
ONE, TWO = (Bead(name, "t", 1, "open", "agent", NOW) for name in ("x-1", "x-2"))


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ([NothingEligible()], "queue empty"),
        ([Dispatched(ONE, "j"), NothingEligible()], "dispatched 1 (x-1); queue empty"),
        ([Dispatched(ONE, "j"), Dispatched(TWO, "k"), NoSlot()], "dispatched 2 (x-1, x-2); no free slot"),
        ([LostRace(ONE), Dispatched(TWO, "k"), NoSlot()], "lost race 1 (x-1); dispatched 1 (x-2); no free slot"),
        ([Suspended("bd config says")], "suspended: bd config says"),
        ([Held(NOW, "agent service: HTTP 502")], "held until 2026-07-15T09:30:00Z: agent service: HTTP 502"),
        ([AgentFailed(ONE, "HTTP 502", 30)], "agent failed (HTTP 502); dispatch is held for 30 s, x-1 is open again"),
        ([AgentFailed(None, "ConnectError", 60)], "agent failed (ConnectError); dispatch is held for 60 s"),
    ],
)
def test_a_pass_is_one_line_that_states_what_it_did(found: list[Outcome], line: str) -> None:
    """Each kind of outcome with its number and its beads, then why the pass stopped."""
    assert outcomes.summary(found) == line


@pytest.mark.parametrize(
    ("outcome", "warning"),
    [
        (AgentFailed(ONE, "HTTP 502", 30), True),
        (Rejected(ONE, 400, blocked=False), True),
        (OutcomeUnknown(ONE, "ReadTimeout", 30), True),
        (Dispatched(ONE, "j"), False),
        (LostRace(ONE), False),
        (Withdrawn(ONE, "the bead was deleted"), False),
        (NoSlot(), False),
        (NothingEligible(), False),
        (Suspended("a person"), False),
        (Held(NOW, "agent service: HTTP 502"), False),
    ],
)
def test_failures_of_the_agents_side_are_warnings(outcome: Outcome, warning: bool) -> None:
    """What an operator of the agent must see; concurrency and people's decisions are not among it."""
    assert outcomes.is_warning(outcome) is warning


@pytest.mark.parametrize(
    ("result", "line"),
    [
        (ReapResult(), "nothing to reap"),
        (ReapResult(suspended="PingSource reap has suspend=true"), "suspended: PingSource reap has suspend=true"),
        (ReapResult(reopened=["x-1"], blocked=["x-2", "x-3"]), "reopened 1 (x-1), blocked 2 (x-2, x-3)"),
        (ReapResult(left_alone=["x-1"]), "left alone 1 (x-1)"),
    ],
)
def test_a_reap_pass_is_one_line_too(result: ReapResult, line: str) -> None:
    """What was done to which beads."""
    assert result.summary() == line
