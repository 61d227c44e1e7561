"""Our connection does without foreign key checks; nothing may come of it."""

import pytest

from beads_dispatch import store
from beads_dispatch.store.bead_change import BeadChange
from tests.conftest import Beads
from tests.integration.conftest import Clock


def test_a_bead_deleted_during_its_claim_leaves_no_event(
    beads: Beads, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim changes the bead's row, so it conflicts with the deletion: no event of a bead that is not there."""
    beads.add("x-1")
    found = beads.store.eligible.first("agent", clock(), 1)[0]
    audit = BeadChange.audit

    def audit_then_somebody_deletes(self: BeadChange, *arguments: object) -> None:
        audit(self, *arguments)  # type: ignore[arg-type]
        beads.sql("DELETE FROM issues WHERE id = 'x-1'")

    monkeypatch.setattr(BeadChange, "audit", audit_then_somebody_deletes)
    with pytest.raises((store.ClaimLost, store.StoreError)):
        beads.store.claims.claim(found, clock())
    assert beads.sql("SELECT id FROM issues") == []
    assert beads.actors("x-1") == []


def test_eight_beads_that_fail_a_condition_do_not_hide_the_ninth(beads: Beads, clock: Clock) -> None:
    """The conditions on texts are checked on the beads at the head of the queue first, but not of those only."""
    for number in range(12):
        beads.add(f"x-{number:02}", acceptance=" ", priority=0)
    beads.add("x-good", priority=3)
    assert [bead.id for bead in beads.store.eligible.first("agent", clock(), 1)] == ["x-good"]
    assert beads.store.eligible.count("agent", clock(), 1) == 1
