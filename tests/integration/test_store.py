"""What the store promises beyond the passes: fresh reads, readiness as bd sees it, errors without secrets."""

import contextlib
import dataclasses
import pathlib
from itertools import pairwise

import pytest

from beads_dispatch import settings, store, suspension
from beads_dispatch.suspension import Suspension
from tests.conftest import Beads
from tests.integration.conftest import Clock
from tests.support import wait_for


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


@pytest.mark.parametrize("generations", [1, 3, 60])
def test_a_blocked_ancestor_counts_at_any_distance(beads: Beads, clock: Clock, generations: int) -> None:
    """The top of a chain of parents is blocked: so is everything below it, until a parent between them is closed."""
    names = [beads.add(f"x-{number:02}") for number in range(generations + 1)]
    beads.add("blocker", assignee=None)
    parents = [(child, parent, "parent-child") for child, parent in pairwise(names)]
    beads.depend(*parents, (names[-1], "blocker", "blocks"))
    assert beads.store.eligible.first("agent", clock(), 99) == []
    beads.sql("UPDATE issues SET status = 'closed' WHERE id = %s", names[-1])
    beads.recompute_blocked()
    assert [bead.id for bead in beads.store.eligible.first("agent", clock(), 99)] == names[:-1]


def test_parents_in_a_circle_end_the_search(beads: Beads, clock: Clock) -> None:
    """Two beads that are each other's parent, one of them blocked: neither is ready. A third is."""
    for name in ("x-1", "x-2", "x-3"):
        beads.add(name)
    beads.add("blocker", assignee=None)
    beads.depend(("x-1", "x-2", "parent-child"), ("x-2", "x-1", "parent-child"), ("x-2", "blocker", "blocks"))
    assert [bead.id for bead in beads.store.eligible.first("agent", clock(), 9)] == ["x-3"]


def test_a_hundred_blocked_beads_do_not_hide_the_next(beads: Beads, clock: Clock) -> None:
    """As many are read as it takes to find one that is ready."""
    beads.add("blocker", assignee=None)
    names = [beads.add(f"x-{number:03}", priority=0) for number in range(100)]
    beads.depend(*((name, "blocker", "blocks") for name in names))
    beads.add("x-good", priority=3)
    assert [bead.id for bead in beads.store.eligible.first("agent", clock(), 1)] == ["x-good"]
    assert beads.store.eligible.count("agent", clock(), 10, enough=1) == 1


def test_a_connection_that_died_is_replaced(beads: Beads, clock: Clock) -> None:
    """A warm function whose connection the server has closed begins its pass on a new one."""
    beads.add("x-1")
    assert beads.store.eligible.first("agent", clock(), 1)
    number = beads.store._session.rows("SELECT CONNECTION_ID() AS n")[0]["n"]
    beads.sql(f"KILL {number}")
    wait_for(lambda: number not in [row["Id"] for row in beads.sql("SHOW PROCESSLIST")], "the end of the connection")
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
    beads.store.control.set_hold("agent", store.Hold(), store.Hold(1, clock(), "down"))
    assert beads.store.control.hold("agent") == store.Hold()
    assert beads.store.feed_state.position() is None


def test_a_password_that_is_replaced_is_used_for_the_next_connection(beads: Beads, tmp_path: pathlib.Path) -> None:
    """The user is altered and the file replaced under a running process: nothing has to be restarted."""
    secret = tmp_path / "password"
    secret.write_text("first")
    beads.sql("CREATE USER IF NOT EXISTS 'rotated'@'%%' IDENTIFIED BY 'first'")
    beads.sql(f"GRANT SELECT ON `{beads.dolt.database}`.* TO 'rotated'@'%%'")
    dolt = dataclasses.replace(beads.dolt, user="rotated", password="first", password_file=str(secret))
    with contextlib.closing(store.Store(dolt)) as own:
        assert not own.control.configured().dispatch
        beads.sql("ALTER USER 'rotated'@'%%' IDENTIFIED BY 'second'")
        own.close()
        with pytest.raises(store.StoreError, match="1045"):
            own.control.configured()
        secret.write_text("second")
        assert not own.control.configured().dispatch
    beads.sql("DROP USER 'rotated'@'%%'")
