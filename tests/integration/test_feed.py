"""The feed on a real Dolt and a real sink, on each bd version."""

import pathlib
import shutil
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from beads_dispatch import events, settings, store
from feeder import binlog, gap_recovery
from feeder.__main__ import send_requests
from feeder.eligibility_check import PendingRequest
from feeder.emitter import Emitter
from feeder.feed import Unfit
from feeder.health import HealthState
from local import processes
from local.dolt import DoltServer
from tests import support
from tests.conftest import Beads, make_workspace
from tests.support import wait_for
from tools import toolchain


class Running:
    """A feed in this process, as `python -m feeder` runs it, but stopped and started by the test."""

    def __init__(self, dolt: settings.DoltSettings, sink: str) -> None:
        self.pulse, self.wanted, self.stop = HealthState(), PendingRequest(), threading.Event()
        feed = settings.FeederSettings(sink, {}, sink_timeout_seconds=5)
        self._emitters = [Emitter(feed), Emitter(feed)]
        self.feed = Feed(dolt, "agent", self._emitters[0], self.wanted, self.pulse, self.stop)
        assert self.feed.prepare()
        gate = Gate(store.Store(dolt), settings.DispatchLimits(), None)
        self._threads = [
            threading.Thread(target=self.feed.run),
            threading.Thread(target=self.feed.keep_position),
            threading.Thread(target=send_requests, args=(self.wanted, gate, self._emitters[1], self.stop)),
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self.stop.set()
        self.feed.close()
        for thread in self._threads:
            thread.join(15)
            assert not thread.is_alive()
        for emitter in self._emitters:
            emitter.close()


@pytest.fixture
def feed(beads: Beads, sink: support.Sink) -> Iterator[Callable[[], Running]]:
    """Starts a feed; starting another one stops the one before, as a restart does."""
    running: list[Running] = []

    def start() -> Running:
        for old in running:
            old.close()
        running[:] = [Running(beads.dolt, sink.url)]
        wait_for(lambda: running[0].pulse.connected, "the feed reads the binlog", 40)
        return running[0]

    # A heartbeat may be 30 s away: a write of ours shows at once that the stream is open.
    knock = threading.Event()

    def knocking() -> None:
        while not knock.wait(0.3):
            beads.sql("REPLACE INTO config (`key`, value) VALUES ('test.knock', UUID())")

    thread = threading.Thread(target=knocking)
    thread.start()
    yield start
    knock.set()
    thread.join()
    for old in running:
        old.close()


def told(sink: support.Sink, bead: str) -> list[tuple[str, str, str]]:
    return [
        (event.extensions.get("actor", ""), event.extensions.get("assignee", ""), event.extensions.get("status", ""))
        for event in sink.about(bead)
    ]


def test_what_is_still_to_come_is_not_taken_for_missed(beads: Beads) -> None:
    """A bead that changed after all was read differs from what was told of it; the binlog has yet to tell that."""
    beads.add("x-1", assignee=None)
    beads.store.feed_state.start_position(beads.store.feed_state.executed(), "start")
    comparison = gap_recovery.GapRecovery(beads.store, lambda seconds: False)
    comparison.begin()
    read = binlog.Position(beads.store.feed_state.executed())
    beads.sql("UPDATE issues SET assignee = 'bob' WHERE id = 'x-1'")
    assert list(comparison.missed(read, lambda: None, idle=True)) == []
    comparison.told({"x-1": store.PublishedState("bob", "open", "event")})
    assert list(comparison.missed(binlog.Position(beads.store.feed_state.executed()), lambda: None, idle=False)) == []
    assert not comparison.comes


def test_what_the_binlog_has_not_told_was_missed(beads: Beads) -> None:
    """The same, and all was read without a word of the bead: it is told, once."""
    beads.add("x-1", assignee=None)
    beads.store.feed_state.start_position(beads.store.feed_state.executed(), "start")
    beads.sql("UPDATE issues SET assignee = 'bob' WHERE id = 'x-1'")
    comparison = gap_recovery.GapRecovery(beads.store, lambda seconds: False)
    comparison.begin()
    read = binlog.Position(beads.store.feed_state.executed())
    found = list(comparison.missed(read, lambda: None, idle=False))
    assert [(change.bead, change.after["assignee"], change.recovered) for change in found] == [("x-1", "bob", True)]
    assert not comparison.comes


def test_an_assignment_is_told_and_work_asked_for(
    beads: Beads, sink: support.Sink, feed: Callable[[], Running]
) -> None:
    """One fact with its actor, one request whose id is that of what caused it."""
    feed()
    bead = beads.workspace.create("t", "ok")
    beads.workspace.run("assign", bead, "agent", actor="alice")
    wait_for(lambda: sink.about(bead) and sink.of_type(events.DISPATCH_REQUESTED), "fact and request")
    assert told(sink, bead) == [("alice", "agent", "open")]
    (fact,) = sink.about(bead)
    (request,) = sink.of_type(events.DISPATCH_REQUESTED)
    assert fact.source == f"/dolt/{beads.dolt.database}"
    assert request.id == fact.id
    assert request.source == "/beads/feeder"
    assert request.extensions["cause"] == "change"
    assert request.data == {"waiting": 1}


def test_every_change_is_told_once_in_order(beads: Beads, sink: support.Sink, feed: Callable[[], Running]) -> None:
    """By bd and by plain SQL; what is no assignee or status change is not told."""
    feed()
    bead = beads.workspace.create("t", "ok")
    beads.workspace.run("assign", bead, "alice", actor="alice")
    beads.workspace.run("note", bead, "hello", actor="alice")
    beads.workspace.run("update", bead, "--status", "in_progress", actor="alice")
    beads.sql("UPDATE issues SET assignee = 'bob' WHERE id = %s", bead)
    beads.workspace.run("close", bead, actor="bob")
    wait_for(lambda: len(sink.about(bead)) >= 4, "four changes")
    assert told(sink, bead) == [
        ("alice", "alice", "open"),
        ("alice", "alice", "in_progress"),
        ("", "bob", "in_progress"),
        ("bob", "bob", "closed"),
    ]
    ids = [event.id for event in sink.about(bead)]
    assert len(set(ids)) == 4
    assert sorted(event.extensions["sequence"] for event in sink.about(bead)) == [
        event.extensions["sequence"] for event in sink.about(bead)
    ]


def test_a_bead_without_acceptance_criteria_asks_for_nobody(
    beads: Beads, sink: support.Sink, feed: Callable[[], Running]
) -> None:
    """The fact is told, the gate stays shut."""
    feed()
    bead = beads.workspace.create("t")
    beads.workspace.run("assign", bead, "agent")
    wait_for(lambda: sink.about(bead), "the fact")
    other = beads.workspace.create("t", "ok")
    beads.workspace.run("assign", other, "agent")
    wait_for(lambda: sink.of_type(events.DISPATCH_REQUESTED), "the request for the other bead")
    assert [event.data["waiting"] for event in sink.of_type(events.DISPATCH_REQUESTED)] == [1]


def test_the_switch_closes_the_gate_and_opening_it_asks_at_once(
    beads: Beads, sink: support.Sink, feed: Callable[[], Running]
) -> None:
    """Suspended: no request. `false` again: a request with cause=resume, without waiting for a tick."""
    feed()
    beads.workspace.run("config", "set", suspension.CONFIG_KEY, "true")
    bead = beads.workspace.create("t", "ok")
    beads.workspace.run("assign", bead, "agent")
    wait_for(lambda: sink.about(bead), "the fact")
    beads.workspace.run("config", "set", suspension.CONFIG_KEY, "false")
    wait_for(lambda: sink.of_type(events.DISPATCH_REQUESTED), "the request")
    assert [event.extensions["cause"] for event in sink.of_type(events.DISPATCH_REQUESTED)] == ["resume"]


def test_what_changed_while_it_was_away_is_told_after_a_restart(
    beads: Beads, sink: support.Sink, feed: Callable[[], Running]
) -> None:
    """The stored position: nothing is gap_recovery, and with a clean stop nothing is told twice."""
    running = feed()
    first = beads.workspace.create("first", "ok")
    beads.workspace.run("assign", first, "bob")
    wait_for(lambda: sink.about(first), "the first change")
    running.close()
    second = beads.workspace.create("second", "ok")
    beads.workspace.run("assign", second, "bob")
    feed()
    wait_for(lambda: sink.about(second), "the change made while it was away")
    assert len(sink.about(first)) == len(sink.about(second)) == 1


def test_at_its_start_it_asks_for_what_waits_already(
    beads: Beads, sink: support.Sink, feed: Callable[[], Running]
) -> None:
    """A bead assigned before the feeder's first start has no event to come."""
    beads.add("x-1")
    feed()
    wait_for(lambda: sink.of_type(events.DISPATCH_REQUESTED), "the request")


def test_a_sink_that_is_down_is_waited_for_and_nothing_is_lost(
    beads: Beads, sink: support.Sink, feed: Callable[[], Running]
) -> None:
    """503, then 202: every change arrives, in order, and the position did not move meanwhile."""
    feed()
    sink.status = 503
    beads.add("x-1", assignee="bob")
    for assignee in ("carol", "dave"):
        beads.sql("UPDATE issues SET assignee = %s WHERE id = 'x-1'", assignee)
    sink.status = 202
    wait_for(lambda: len(sink.about("x-1")) == 3, "three changes")
    assert [assignee for _, assignee, _ in told(sink, "x-1")] == ["bob", "carol", "dave"]


def test_a_connection_that_is_cut_is_opened_again(
    beads: Beads, sink: support.Sink, feed: Callable[[], Running]
) -> None:
    """It goes on from where it was, not from where it began."""
    running = feed()
    beads.add("x-1", assignee="bob")
    wait_for(lambda: sink.about("x-1"), "the first change")
    running.feed.close()
    beads.sql("UPDATE issues SET assignee = 'carol' WHERE id = 'x-1'")
    wait_for(lambda: len(sink.about("x-1")) == 2, "the second change")
    assert [assignee for _, assignee, _ in told(sink, "x-1")] == ["bob", "carol"]


def test_the_feeds_own_writes_are_no_events_and_do_not_feed_themselves(
    beads: Beads, sink: support.Sink, feed: Callable[[], Running]
) -> None:
    """Storing the position is a transaction on the binlog: it must not cause the next one."""
    running = feed()
    beads.add("x-1", assignee="bob")
    wait_for(lambda: sink.about("x-1"), "the change")
    wait_for(beads.store.position, "the stored position")
    written = [0]
    set_position = running.feed._keeper_store.set_position

    def counting(*what: Any) -> None:
        written[0] += 1
        set_position(*what)

    running.feed._keeper_store.set_position = counting  # type: ignore[method-assign]
    running.stop.wait(2.0)  # longer than it takes to store the position several times over
    assert written[0] <= 1


def test_a_real_gap_is_filled_from_history(tmp_path: pathlib.Path, sink: support.Sink) -> None:
    """The binlog's files are gone: how the beads differ from what was told is told, marked as recovered."""
    server = DoltServer(toolchain.dolt(), tmp_path / "dolt", processes.free_port())
    server.start()
    try:
        workspace = make_workspace("1.3.0", server, tmp_path / "workspace")
        dolt = settings.dolt({"BEADS_DIR": str(workspace.beads_dir)})
        running = Running(dolt, sink.url)
        bead = workspace.create("t", "ok")
        workspace.run("assign", bead, "bob")
        wait_for(lambda: sink.about(bead), "the first change")
        running.close()
        workspace.run("assign", bead, "carol")
        server.stop()
        for log in tmp_path.glob("dolt/**/binlog"):
            shutil.rmtree(log)
        server.start()
        running = Running(dolt, sink.url)
        found = wait_for(lambda: sink.about(bead)[1:], "the change that the binlog no longer holds", 30)
        assert [event.extensions["assignee"] for event in found] == ["carol"]
        assert found[0].extensions["recovered"] == "true"
        workspace.run("assign", bead, "dave")
        wait_for(lambda: sink.about(bead)[2:], "the feed goes on after the gap")
        assert told(sink, bead)[-1][1] == "dave"
        running.close()
    finally:
        server.stop()


def test_a_server_without_binlog_is_refused_with_the_command_that_sets_it(tmp_path: object, sink: support.Sink) -> None:
    """The preflight, on a real server."""
    server = DoltServer(toolchain.dolt(), tmp_path, processes.free_port(), log_bin=False)  # type: ignore[arg-type]
    server.start()
    try:
        connection = store.connect(server.connection(), database=None)
        connection.query("CREATE DATABASE beads")
        connection.close()
        emitter = Emitter(settings.FeederSettings(sink.url, {}))
        feed = Feed(server.connection("beads"), "agent", emitter, PendingRequest(), HealthState(), threading.Event())
        with pytest.raises(Unfit, match=r"log_bin is 0, needed ON. Run `dolt sql -q 'SET PERSIST log_bin = 1'`"):
            feed.prepare()
        emitter.close()
    finally:
        server.stop()
