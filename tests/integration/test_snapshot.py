"""A snapshot reads the past, and has no way to write."""

import contextlib
import inspect
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from beads_dispatch.store import Snapshot, StoreError
from beads_dispatch.store.claims import Claims
from beads_dispatch.store.control import Control
from beads_dispatch.store.feed_state import FeedState
from beads_dispatch.store.session import Session
from tests.conftest import Beads


@pytest.fixture
def snapshot(beads: Beads) -> Iterator[Snapshot]:
    """One bead, waiting, as committed."""
    beads.add("x-1")
    beads.sql("CALL DOLT_COMMIT('-Am', 'one bead')")
    commit = beads.store.history.commit("HEAD")
    assert commit is not None
    with contextlib.closing(Snapshot(beads.dolt, commit.hash)) as snapshot:
        yield snapshot


def test_it_reads_what_was(beads: Beads, snapshot: Snapshot) -> None:
    """The bead is closed by now; then it was eligible."""
    beads.sql("UPDATE issues SET status = 'closed' WHERE id = 'x-1'")
    beads.sql("CALL DOLT_COMMIT('-Am', 'closed')")
    assert [bead.id for bead in snapshot.eligible.first("agent", datetime.now(UTC), 9)] == ["x-1"]
    assert beads.store.eligible.first("agent", datetime.now(UTC), 9) == []


def test_nothing_it_is_made_of_can_write(snapshot: Snapshot) -> None:
    """Neither its session nor any of its parts is, or has, what writes."""
    writers = (Session, Claims, Control, FeedState)
    parts = [snapshot, *vars(snapshot).values()]
    for part in parts:
        assert not isinstance(part, writers)
        reachable = [name for name, _ in inspect.getmembers(type(part)) if not name.startswith("__")]
        assert not {"transaction", "write_lock", "claim", "release", "set_hold", "set_configured"} & set(reachable)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE issues SET status = 'open' WHERE id = 'x-1'",
        "DELETE FROM issues",
        "INSERT INTO config (`key`, `value`) VALUES ('a', 'b')",
        "REPLACE INTO beads_dispatch.holds (feed, failures, reason) VALUES ('x', 1, '')",
        "CALL DOLT_COMMIT('--allow-empty', '-m', 'no')",
    ],
)
def test_dolt_refuses_it_every_write(beads: Beads, snapshot: Snapshot, statement: str) -> None:
    """Even by SQL through its own session: the revision and the transaction are read-only."""
    before = beads.sql("SELECT * FROM issues"), beads.sql("SELECT COUNT(*) AS n FROM dolt_log")
    with contextlib.suppress(StoreError):
        snapshot._session.rows(statement)
        pytest.fail(f"Dolt took it: {statement}")
    assert (beads.sql("SELECT * FROM issues"), beads.sql("SELECT COUNT(*) AS n FROM dolt_log")) == before
