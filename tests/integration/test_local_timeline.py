"""The timeline of `make up` on a real database."""

from beads_dispatch import events
from local.timeline import SystemTimeline
from tests.conftest import Beads


def test_a_step_is_shown_that_was_committed_after_its_event(beads: Beads) -> None:
    """The binlog may tell of a change before Dolt's history does; no later event may come."""
    shown: list[str] = []
    timeline = SystemTimeline(beads.dolt, "agent", shown.append)
    beads.add("shown-1")
    beads.commit("assigned")
    timeline.observe(changed("open"))
    assert [line.split()[2] for line in shown] == ["assigned", "event"]
    beads.sql("UPDATE issues SET status = 'closed' WHERE id = 'shown-1'")
    timeline.observe(changed("closed"))
    timeline.check()
    assert len(shown) == 2
    beads.commit("closed")
    timeline.check()
    timeline.check()
    assert [line.split()[2] for line in shown] == ["assigned", "event", "closed"]
    assert shown[-1].endswith("A haiku")


def changed(status: str) -> events.Event:
    extensions = {"assignee": "agent", "status": status}
    return events.Event(status, "/dolt/x", events.ISSUE_CHANGED, "shown-1", extensions, {"title": "A haiku"})
