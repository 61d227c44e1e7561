"""What the store promises beyond the passes: fresh reads, readiness as bd sees it, errors without secrets."""

import contextlib
import random
from itertools import pairwise

import pytest

from beads_dispatch import settings, store, suspension
from beads_dispatch.suspension import Suspension
from tests.conftest import Beads
from tests.integration.conftest import Clock


def test_after_a_write_the_same_connection_reads_what_others_wrote_since(beads: Beads, clock: Clock) -> None:
    """After DOLT_COMMIT a session stays in a transaction until COMMIT: a warm function would read an old snapshot."""
    beads.add("x-1")
    beads.store.claims.claim(beads.store.eligible.first("agent", clock(), 1)[0], clock())
    assert beads.store.control.suspension().dispatch is None
    beads.sql("REPLACE INTO config (`key`, value) VALUES (%s, 'true')", suspension.CONFIG_KEY)
    beads.add("x-2")
    assert beads.store.control.suspension().dispatch is not None
    assert [bead.id for bead in beads.store.eligible.first("agent", clock(), 9)] == ["x-2"]


def test_a_lost_claim_leaves_the_connection_fresh_too(beads: Beads, clock: Clock) -> None:
    """A roll-back ends the snapshot as well."""
    beads.add("x-1")
    found = beads.store.eligible.first("agent", clock(), 1)[0]
    beads.sql("UPDATE issues SET assignee = 'bob' WHERE id = 'x-1'")
    with pytest.raises(store.ClaimLost):
        beads.store.claims.claim(found, clock())
    beads.add("x-2")
    assert [bead.id for bead in beads.store.eligible.first("agent", clock(), 9)] == ["x-2"]


def test_the_views_of_both_bd_versions_are_known(beads: Beads) -> None:
    """Otherwise bd's view is queried for every bead, and each dispatch costs 20 ms more."""
    assert beads.store._session.schema.known_view


@pytest.mark.parametrize("seed", range(8))
def test_the_predicate_on_the_table_agrees_with_bds_view(beads: Beads, clock: Clock, seed: int) -> None:
    """Random beads and dependencies: the query on the table gives what ready_issues gives."""
    chance = random.Random(seed)
    names = [f"x-{number}" for number in range(30)]
    for name in names:
        beads.add(
            name,
            status=chance.choice(["open", "open", "open", "closed", "deferred", "in_progress"]),
            defer_until=chance.choice([None, None, None, "2020-01-01", "2100-01-01"]),
            ephemeral=chance.choice([0, 0, 0, 0, 1, None]),
            priority=chance.randrange(3),
        )
    for _ in range(chance.choice([0, 3, 12, 40])):
        one, other = chance.sample(names, 2)
        with contextlib.suppress(Exception):  # a pair that is there already
            _depends(beads, one, other, chance.choice(["blocks", "parent-child", "related", "discovered-from"]))
    ready = beads.sql("SELECT id FROM ready_issues WHERE status = 'open' ORDER BY priority, updated_at, id")
    expected = [row["id"] for row in ready]
    assert expected, "a seed without a ready bead tests nothing"
    assert [bead.id for bead in beads.store.eligible.first("agent", clock(), 99)] == expected
    assert [bead.id for bead in beads.store.eligible.first("agent", clock(), 1)] == expected[:1]
    assert beads.store.eligible.count("agent", clock()) == len(expected)
    skipped = expected[:2]
    assert [bead.id for bead in beads.store.eligible.first("agent", clock(), 1, skipped)] == expected[2:3]


def _depends(beads: Beads, bead: str, other: str, kind: str) -> None:
    """A dependency by SQL, in either schema."""
    if beads.sql("SHOW COLUMNS FROM dependencies LIKE 'depends_on_id'"):
        columns, first = "issue_id, depends_on_id, type, created_by", ""
    else:
        columns, first = "id, issue_id, depends_on_issue_id, type, created_by", "UUID(), "
    beads.sql(f"INSERT INTO dependencies ({columns}) VALUES ({first}%s, %s, %s, 't')", bead, other, kind)


@pytest.mark.parametrize("generations", [1, 3, 50, 51, 52])
def test_an_ancestor_counts_as_far_as_bds_view_counts_it(beads: Beads, clock: Clock, generations: int) -> None:
    """The top of a chain of parents is blocked: so is everything below it that the view finds so, and no more."""
    names = [beads.add(f"x-{number:02}") for number in range(generations + 1)]
    for child, parent in pairwise(names):
        _depends(beads, child, parent, "parent-child")
    beads.add("blocker", assignee=None)
    _depends(beads, names[-1], "blocker", "blocks")
    ready = beads.sql("SELECT id FROM ready_issues WHERE assignee = 'agent' ORDER BY priority, updated_at, id")
    found = beads.store.eligible.first("agent", clock(), 99)
    assert [bead.id for bead in found] == [row["id"] for row in ready]


def test_parents_in_a_circle_end_the_search(beads: Beads, clock: Clock) -> None:
    """Two beads that are each other's parent, one of them blocked: neither is ready. A third is."""
    for name in ("x-1", "x-2", "x-3"):
        beads.add(name)
    beads.add("blocker", assignee=None)
    _depends(beads, "x-1", "x-2", "parent-child")
    _depends(beads, "x-2", "x-1", "parent-child")
    _depends(beads, "x-2", "blocker", "blocks")
    assert [bead.id for bead in beads.store.eligible.first("agent", clock(), 9)] == ["x-3"]
    beads.sql("UPDATE issues SET status = 'closed' WHERE id = 'blocker'")
    assert [bead.id for bead in beads.store.eligible.first("agent", clock(), 9)] == ["x-1", "x-2", "x-3"]


def test_a_hundred_blocked_beads_do_not_hide_the_next(beads: Beads, clock: Clock) -> None:
    """As many are read as it takes to find one that is ready."""
    beads.add("blocker", assignee=None)
    for number in range(100):
        beads.add(f"x-{number:03}", priority=0)
        _depends(beads, f"x-{number:03}", "blocker", "blocks")
    beads.add("x-good", priority=3)
    assert [bead.id for bead in beads.store.eligible.first("agent", clock(), 1)] == ["x-good"]
    assert beads.store.eligible.count("agent", clock(), 10, enough=1) == 1


def test_a_connection_that_died_is_replaced(beads: Beads, clock: Clock) -> None:
    """A warm function whose connection the server has closed begins its pass on a new one."""
    beads.add("x-1")
    assert beads.store.eligible.first("agent", clock(), 1)
    number = beads.store._session.rows("SELECT CONNECTION_ID() AS n")[0]["n"]
    beads.sql(f"KILL {number}")
    beads.store.refresh()
    assert beads.store.eligible.first("agent", clock(), 1)


def test_a_server_that_cannot_be_reached_is_named_without_its_password() -> None:
    """Host, port, database and user; never the password."""
    away = store.Store(settings.DoltSettings("127.0.0.1", 9, "someone", "s3cret", "beads"))
    with pytest.raises(store.StoreError) as error:
        away.control.suspension()
    assert "cannot reach Dolt at 127.0.0.1:9, database beads, user someone" in str(error.value)
    assert "s3cret" not in str(error.value)


def test_without_the_feeders_database_there_is_no_hold_and_no_mirrored_pingsource(beads: Beads, clock: Clock) -> None:
    """Dispatch before the feeder's first start works, and remembers no hold."""
    beads.sql(f"DROP DATABASE {store.STATE_DATABASE}")
    assert beads.store.control.suspension() == Suspension()
    beads.store.control.set_hold(store.Hold(), store.Hold(1, clock(), "down"))
    assert beads.store.control.hold() == store.Hold()
    assert beads.store.feed_state.position() is None
