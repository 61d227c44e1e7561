"""The tables of `beads_dispatch` have a version: those of 0.1.0 are brought to it, and a newer one's are left alone."""

import os
from collections.abc import Iterator
from datetime import datetime

import pytest

from beads_dispatch import reaper
from beads_dispatch.settings import DispatchLimits
from beads_dispatch.store import STATE_DATABASE, Hold, NewerLayout, PublishedState, layout
from beads_dispatch.store.layout import StateLayout
from tests import support
from tests.conftest import Beads
from tests.integration.conftest import Clock, DispatcherFactory
from tests.integration.test_owner import Start, start, until_it_ends, until_it_reads  # noqa: F401 - a fixture

_OF_0_1_0 = (
    "positions (feed VARCHAR(64) PRIMARY KEY, gtid_set LONGTEXT NOT NULL)",
    "seen (feed VARCHAR(64), bead VARCHAR(255), assignee VARCHAR(255) NOT NULL, status VARCHAR(64) NOT NULL,"
    " event VARCHAR(255) NOT NULL, PRIMARY KEY (feed, bead))",
    "switches (feed VARCHAR(64), name VARCHAR(16), suspended BOOLEAN NOT NULL, PRIMARY KEY (feed, name))",
    "holds (feed VARCHAR(64) PRIMARY KEY, failures INT NOT NULL, held_until DATETIME, reason VARCHAR(255) NOT NULL)",
)


@pytest.fixture
def beads(beads: Beads) -> Iterator[Beads]:
    make_anew(beads)
    yield beads
    make_anew(beads)
    beads.store.feed_state.prepare()


def make_anew(beads: Beads, tables: tuple[str, ...] = ()) -> None:
    """The state's database with these tables alone."""
    beads.sql(f"DROP DATABASE IF EXISTS {STATE_DATABASE}")
    beads.sql(f"CREATE DATABASE {STATE_DATABASE}")
    for table in tables:
        beads.sql(f"CREATE TABLE {STATE_DATABASE}.{table}")


def test_the_state_of_0_1_0_goes_on(beads: Beads, start: Start) -> None:  # noqa: F811
    """Position, published states and hold stay; nothing is published again, and what came meanwhile is."""
    beads.add("x-1", assignee="bob")
    make_anew(beads, _OF_0_1_0)
    feed, state = beads.dolt.feed, beads.store.feed_state
    beads.sql(f"INSERT INTO {STATE_DATABASE}.positions VALUES (%s, %s)", feed, state.executed())
    beads.sql(f"INSERT INTO {STATE_DATABASE}.seen VALUES (%s, 'x-1', 'bob', 'open', 'e')", feed)
    until = datetime(2099, 1, 1)
    beads.sql(f"INSERT INTO {STATE_DATABASE}.holds VALUES (%s, 3, %s, 'it is down')", feed, until)
    assert state.layout() is None
    until_it_reads(start())
    assert state.layout() == StateLayout(layout.VERSION, layout.OLDEST)
    hold = beads.store.control.hold("agent")
    assert (hold.failures, hold.reason, hold.until and hold.until.year) == (3, "it is down", 2099)
    rows = beads.sql(f"SELECT bead, assignee, status, event FROM {STATE_DATABASE}.seen WHERE feed = %s", feed)
    assert [PublishedState(row["assignee"], row["status"], row["event"]) for row in rows] == [
        PublishedState("bob", "open", "e")
    ]


def test_a_hold_that_was_set_since_is_not_replaced(beads: Beads) -> None:
    """The rows of before are brought over once: after a roll back and another upgrade, the newer version's stay."""
    make_anew(beads, _OF_0_1_0)
    beads.sql(f"INSERT INTO {STATE_DATABASE}.holds VALUES (%s, 3, NULL, 'of before')", beads.dolt.feed)
    assert beads.store.feed_state.prepare()
    beads.store.control.set_hold("agent", Hold(3), Hold(4, None, "since"))
    assert beads.store.feed_state.prepare()
    assert beads.store.control.hold("agent").reason == "since"


def test_a_newer_layout_is_refused_where_this_version_cannot_use_it(beads: Beads, start: Start) -> None:  # noqa: F811
    """In a line that says what to run; nothing is written. One that only adds something is used."""
    assert not beads.store.feed_state.prepare()
    beads.sql(f"UPDATE {STATE_DATABASE}.layout SET version = 9, oldest = 8")
    process = start()
    assert until_it_ends(process) == os.EX_CONFIG
    (line,) = [line for line in process.log.read_text().splitlines() if "cannot start" in line]
    assert "layout 9" in line and "knows layout 8 at least" in line and f"this one knows {layout.VERSION}" in line
    assert not beads.sql(f"SELECT * FROM {STATE_DATABASE}.positions")
    beads.sql(f"UPDATE {STATE_DATABASE}.layout SET oldest = 1")
    until_it_reads(start())
    assert beads.store.feed_state.layout() == StateLayout(9, 1)


def test_the_passes_refuse_what_the_feeder_refuses(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock
) -> None:
    """A function that was left behind, or rolled back alone, claims and reaps nothing, and says what to run."""
    beads.store.feed_state.prepare()
    beads.sql(f"UPDATE {STATE_DATABASE}.layout SET version = 9, oldest = 8")
    beads.add("x-1")
    with pytest.raises(NewerLayout, match=r"layout 9.* knows layout 8 at least"):
        make_dispatcher().run_once()
    with pytest.raises(NewerLayout):
        reaper.run_once(beads.store, DispatchLimits(), clock())
    assert not agent.posts
    beads.sql(f"UPDATE {STATE_DATABASE}.layout SET oldest = 1")
    make_dispatcher().run_once()
    assert agent.posts == ["x-1"]
