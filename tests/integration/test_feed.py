"""The feed on a real Dolt and a real sink, on each bd version."""

import contextlib
import pathlib
import shutil
import threading
from collections.abc import Callable, Iterator
from unittest import mock

import pytest

from beads_dispatch import events, settings, store, suspension
from beads_dispatch.store.databases import open_store
from feeder import binlog, changes, checkpoint, gap_recovery, outcome_metrics, rows
from feeder.eligibility_check import EligibilityCheck
from feeder.emitter import Emitter
from feeder.feed import ChangeFeed
from feeder.health import HealthState
from feeder.metrics import JUMPS, LAST_JUMP
from feeder.packet import EventPacket
from feeder.preflight import Unfit
from feeder.request_feed import RequestFeed
from feeder.requests import AgentRequests
from local import processes
from local.dolt import DoltServer
from local.workspace import Workspace
from tests import support
from tests.conftest import Beads, make_workspace
from tests.support import wait_for
from tools import toolchain

WRITE = "REPLACE INTO config (`key`, value) VALUES ('test.write', UUID())"  # a transaction without an event


class Check(EligibilityCheck):
    """Keeps whether it has been asked."""

    asked = False

    def count_eligible(self) -> int:
        found = super().count_eligible()
        self.asked = True
        return found


class Running:
    """A feed in this process, as `python -m feeder` runs it, but stopped and started by the test."""

    def __init__(self, dolt: settings.DoltSettings, sink: str) -> None:
        self.health, self.stop, self.store = HealthState(), threading.Event(), open_store(dolt)
        feeder = settings.FeederSettings(sink, {}, sink_timeout_seconds=support.PATIENCE_SECONDS)
        self._emitters = [Emitter(feeder), Emitter(feeder)]
        position = checkpoint.wait_for_position(self.store, self.health, self.stop)
        assert position is not None
        checkpointer = checkpoint.Checkpointer(self.store, position, self.health)
        outcomes, timing = outcome_metrics.OutcomeCounter(["agent"]), outcome_metrics.AssignToPost(["agent"])
        self.feed = ChangeFeed(
            dolt, checkpointer, self._emitters[0], self.health, self.stop, on_published=outcomes.look
        )
        self._check = Check(open_store(dolt), settings.DispatchLimits(), None)
        requests = AgentRequests("agent", self._check, self._emitters[1])
        self.request_feed = RequestFeed(dolt, {"agent": requests.pending}, self.stop, on_read=timing.look)
        self._threads = [
            threading.Thread(target=self.feed.run),
            threading.Thread(target=self.request_feed.run),
            threading.Thread(target=checkpointer.run, args=(self.stop,)),
            threading.Thread(target=requests.run, args=(self.stop,)),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def started(self) -> bool:
        """It reads the binlog, and has checked whether to request a pass for what was eligible before."""
        return self.health.connected and self._check.asked

    def wait_until_started(self, beads: Beads) -> None:
        self.wait_for(beads, lambda: self.started, "the feed reads the binlog")

    def wait_for(self, beads: Beads, condition: Callable[[], bool], what: str) -> None:
        """Wait with a write now and then: without one, the stream may bring nothing until its heartbeat after 30 s."""

        def after_a_write() -> bool:
            beads.sql(WRITE)
            self.stop.wait(0.2)
            return condition()

        wait_for(after_a_write, what)

    def close(self) -> None:
        self.stop.set()
        self.feed.close()
        self.request_feed.close()
        for thread in self._threads:
            thread.join(support.PATIENCE_SECONDS)
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
        wait_for(lambda: running[0].started, "the feed reads the binlog")
        return running[0]

    # A heartbeat may be 30 s away: a write of ours shows at once that the stream is open.
    stop = threading.Event()

    def write() -> None:
        while not stop.wait(0.3):
            beads.sql(WRITE)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield start
    finally:
        stop.set()
        thread.join()
        for old in running:
            old.close()


def published(sink: support.Sink, bead: str) -> list[tuple[str, str, str]]:
    return [
        (event.extensions.get("actor", ""), event.extensions.get("assignee", ""), event.extensions.get("status", ""))
        for event in sink.about(bead)
    ]


def test_a_change_that_is_still_to_come_is_not_a_gap(beads: Beads) -> None:
    """A bead that changed after all was read differs from its published state; the binlog has yet to bring that."""
    beads.add("x-1", assignee=None)
    beads.store.feed_state.begin(beads.store.feed_state.executed(), "start")
    recovery = gap_recovery.GapRecovery(beads.store, lambda seconds: False)
    recovery.begin(beads.store.feed_state.executed())
    read = binlog.Position(beads.store.feed_state.executed())
    beads.sql("UPDATE issues SET assignee = 'bob' WHERE id = 'x-1'")
    assert list(recovery.changes_at(read, lambda: None, idle=True)) == []
    before, after = {"assignee": None, "status": "open"}, {"assignee": "bob", "status": "open"}
    recovery.published(changes.Change("event", "sequence", "x-1", "Bead x-1", 2, before, after))
    assert list(recovery.changes_at(binlog.Position(beads.store.feed_state.executed()), lambda: None, idle=False)) == []
    assert not recovery.pending


def test_a_database_that_can_be_read_only_later_holds_no_gap(beads: Beads) -> None:
    """Where it was granted since, as a grant is in no binlog: its beads count as published as they are then."""
    beads.add("x-1", assignee="bob")
    beads.sql(f"DELETE FROM {store.STATE_DATABASE}.positions")
    beads.sql(f"DELETE FROM {store.STATE_DATABASE}.seen")
    recovery = gap_recovery.GapRecovery(beads.store, lambda seconds: False)
    for later, expected in (("x-2", []), ("x-3", ["x-2"])):
        recovery.begin(beads.store.feed_state.executed())
        read = binlog.Position(beads.store.feed_state.executed())
        assert [change.bead for change in recovery.changes_at(read, lambda: None, idle=False)] == expected
        beads.add(later, assignee="bob")


def test_what_the_binlog_does_not_hold_is_a_gap(beads: Beads) -> None:
    """The same, and all was read without a change of the bead: it is published, once."""
    beads.add("x-1", assignee=None)
    beads.store.feed_state.begin(beads.store.feed_state.executed(), "start")
    beads.sql("UPDATE issues SET assignee = 'bob' WHERE id = 'x-1'")
    recovery = gap_recovery.GapRecovery(beads.store, lambda seconds: False)
    recovery.begin(beads.store.feed_state.executed())
    read = binlog.Position(beads.store.feed_state.executed())
    found = list(recovery.changes_at(read, lambda: None, idle=False))
    assert [(change.bead, change.after["assignee"], change.recovered) for change in found] == [("x-1", "bob", True)]
    assert not recovery.pending


def test_an_assignment_is_published_and_a_pass_requested(
    beads: Beads, sink: support.Sink, feed: Callable[[], Running]
) -> None:
    """One change event with its actor, one request whose id is that of what caused it."""
    feed()
    bead = beads.workspace.create("t", "ok")
    beads.workspace.run("assign", bead, "agent", actor="alice")
    wait_for(lambda: sink.about(bead) and sink.of_type(events.DISPATCH_REQUESTED), "change and request")
    assert published(sink, bead) == [("alice", "agent", "open")]
    (change,) = sink.about(bead)
    (request,) = sink.of_type(events.DISPATCH_REQUESTED)
    assert change.source == f"/dolt/{beads.dolt.database}"
    assert request.id == change.id
    assert request.source == "/beads/feeder"
    assert request.extensions["cause"] == "change"
    assert request.data == {"waiting": 1}


def test_every_change_is_published_once_in_order(beads: Beads, sink: support.Sink, feed: Callable[[], Running]) -> None:
    """By bd and by plain SQL; what is not an assignee or status change is not published."""
    feed()
    bead = beads.workspace.create("t", "ok")
    beads.workspace.run("assign", bead, "alice", actor="alice")
    beads.workspace.run("note", bead, "hello", actor="alice")
    beads.workspace.run("update", bead, "--status", "in_progress", actor="alice")
    beads.sql("UPDATE issues SET assignee = 'bob' WHERE id = %s", bead)
    beads.workspace.run("close", bead, actor="bob")
    wait_for(lambda: len(sink.about(bead)) >= 4, "four changes")
    assert published(sink, bead) == [
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


def test_a_bead_without_acceptance_criteria_requests_no_pass(
    beads: Beads, sink: support.Sink, feed: Callable[[], Running]
) -> None:
    """The change is published, and the bead is not eligible."""
    feed()
    bead = beads.workspace.create("t")
    beads.workspace.run("assign", bead, "agent")
    wait_for(lambda: sink.about(bead), "the change")
    other = beads.workspace.create("t", "ok")
    beads.workspace.run("assign", other, "agent")
    wait_for(lambda: sink.of_type(events.DISPATCH_REQUESTED), "the request for the other bead")
    assert [event.data["waiting"] for event in sink.of_type(events.DISPATCH_REQUESTED)] == [1]


def test_suspended_means_no_request_and_resuming_requests_a_pass_at_once(
    beads: Beads, sink: support.Sink, feed: Callable[[], Running]
) -> None:
    """Suspended: no request. `false` again: a request with cause=resume, without waiting for a tick."""
    feed()
    beads.workspace.run("config", "set", suspension.CONFIG_KEY, "true")
    bead = beads.workspace.create("t", "ok")
    beads.workspace.run("assign", bead, "agent")
    wait_for(lambda: sink.about(bead), "the change")
    beads.workspace.run("config", "set", suspension.CONFIG_KEY, "false")
    wait_for(lambda: sink.of_type(events.DISPATCH_REQUESTED), "the request")
    assert [event.extensions["cause"] for event in sink.of_type(events.DISPATCH_REQUESTED)] == ["resume"]


def test_what_changed_while_it_was_down_is_published_after_a_restart(
    beads: Beads, sink: support.Sink, feed: Callable[[], Running]
) -> None:
    """The stored position: nothing is missed, and with a clean stop nothing is published twice."""
    running = feed()
    first = beads.workspace.create("first", "ok")
    beads.workspace.run("assign", first, "bob")
    wait_for(lambda: sink.about(first), "the first change")
    running.close()
    second = beads.workspace.create("second", "ok")
    beads.workspace.run("assign", second, "bob")
    feed()
    wait_for(lambda: sink.about(second), "the change made while it was down")
    assert len(sink.about(first)) == len(sink.about(second)) == 1


def test_at_its_start_it_requests_a_pass_for_what_is_eligible_already(
    beads: Beads, sink: support.Sink, feed: Callable[[], Running]
) -> None:
    """A bead assigned before the feeder's first start has no event to come."""
    beads.add("x-1")
    feed()
    wait_for(lambda: sink.of_type(events.DISPATCH_REQUESTED), "the request")


def test_while_the_sink_is_down_the_feed_waits_and_nothing_is_lost(
    beads: Beads, sink: support.Sink, feed: Callable[[], Running]
) -> None:
    """503, then 202: every change arrives, in order, and the position did not move meanwhile."""
    feed()
    sink.behaviour = support.answers(503)
    beads.add("x-1", assignee="bob")
    for assignee in ("carol", "dave"):
        beads.sql("UPDATE issues SET assignee = %s WHERE id = 'x-1'", assignee)
    sink.behaviour = support.accepted
    wait_for(lambda: len(sink.about("x-1")) == 3, "three changes")
    assert [assignee for _, assignee, _ in published(sink, "x-1")] == ["bob", "carol", "dave"]


def test_a_connection_that_is_cut_is_opened_again(
    beads: Beads, sink: support.Sink, feed: Callable[[], Running]
) -> None:
    """It continues from where it was, not from where it began."""
    running = feed()
    beads.add("x-1", assignee="bob")
    wait_for(lambda: sink.about("x-1"), "the first change")
    running.feed.close()
    beads.sql("UPDATE issues SET assignee = 'carol' WHERE id = 'x-1'")
    wait_for(lambda: len(sink.about("x-1")) == 2, "the second change")
    assert [assignee for _, assignee, _ in published(sink, "x-1")] == ["bob", "carol"]


def test_the_feeds_own_writes_are_not_events_and_cause_no_others(
    beads: Beads, sink: support.Sink, feed: Callable[[], Running]
) -> None:
    """Storing the position is a transaction on the binlog: it must not cause the next one."""
    running = feed()
    beads.add("x-1", assignee="bob")
    wait_for(lambda: sink.about("x-1"), "the change")
    wait_for(beads.store.feed_state.position, "the stored position")
    feed_state = running.store.feed_state
    with mock.patch.object(feed_state, "set_position", wraps=feed_state.set_position) as writes:
        running.stop.wait(2.0)  # longer than it takes to store the position several times over
    assert writes.call_count <= 1


@contextlib.contextmanager
def own_server(folder: pathlib.Path) -> Iterator[tuple[DoltServer, Workspace, settings.DoltSettings]]:
    """A server that a test may stop, with a workspace of its own."""
    server = DoltServer(toolchain.dolt(), folder / "dolt", processes.free_port())
    server.start()
    try:
        workspace = make_workspace("1.3.0", server, folder / "workspace")
        yield server, workspace, settings.dolt({"BEADS_DIR": str(workspace.beads_dir)})
    finally:
        server.stop()


def test_a_real_gap_is_recovered(tmp_path: pathlib.Path, sink: support.Sink) -> None:
    """The binlog's files are gone: what differs from the published state is published, marked as recovered."""
    with own_server(tmp_path) as (server, workspace, dolt):
        with support.closing(Running(dolt, sink.url)):
            bead = workspace.create("t", "ok")
            workspace.run("assign", bead, "bob")
            wait_for(lambda: sink.about(bead), "the first change")
        workspace.run("assign", bead, "carol")
        server.stop()
        for log in tmp_path.glob("dolt/**/binlog"):
            shutil.rmtree(log)
        server.start()
        with support.closing(Running(dolt, sink.url)):
            found = wait_for(lambda: sink.about(bead)[1:], "the change that the binlog no longer holds")
            assert [event.extensions["assignee"] for event in found] == ["carol"]
            assert found[0].extensions["recovered"] == "true"
            workspace.run("assign", bead, "dave")
            wait_for(lambda: sink.about(bead)[2:], "the feed continues after the gap")
            assert published(sink, bead)[-1][1] == "dave"


def test_a_server_that_lost_its_binlog_position_is_followed_on(tmp_path: pathlib.Path, sink: support.Sink) -> None:
    """Killed while it wrote the file, it starts without it, and counts its transactions from 1 again."""
    with own_server(tmp_path) as (server, workspace, dolt), support.closing(Running(dolt, sink.url)) as running:
        bead = workspace.create("t", "ok")
        workspace.run("assign", bead, "bob")
        wait_for(lambda: sink.about(bead), "the first change")
        last = binlog.Position(running.store.feed_state.executed()).last
        server.kill()
        (position,) = tmp_path.glob("dolt/data/.doltcfg/binlog-position")
        position.write_bytes(b"")
        server.start()
        for person in ("carol", "dave"):
            workspace.run("assign", bead, person)
            wait_for(lambda: published(sink, bead)[-1][1] == person, person)  # noqa: B023
        assert [state[1] for state in published(sink, bead)] == ["bob", "carol", "dave"]
        assert binlog.Position(running.store.feed_state.executed()).last < last


def test_a_server_without_binlog_is_refused_with_the_command_that_sets_it(tmp_path: pathlib.Path) -> None:
    """The preflight, on a real server."""
    server = DoltServer(toolchain.dolt(), tmp_path, processes.free_port(), log_bin=False)
    server.start()
    try:
        connection = store.connect(server.connection(), database=None)
        connection.query("CREATE DATABASE beads")
        connection.close()
        with (
            support.closing(store.Store(server.connection("beads"))) as own,
            pytest.raises(Unfit, match=r"log_bin is 0, needed ON. Run `dolt sql -q 'SET PERSIST log_bin = 1'`"),
        ):
            checkpoint.wait_for_position(own, HealthState(), threading.Event())
    finally:
        server.stop()


def test_a_stream_without_changes_lives_on_its_heartbeat(tmp_path: pathlib.Path) -> None:
    """It comes after 30 s, which is as long as a statement may take: the stream waits longer."""
    server = DoltServer(toolchain.dolt(), tmp_path, processes.free_port())
    server.start()
    try:
        connection = store.connect(server.connection(), database=None)
        connection.query("CREATE DATABASE beads")
        dolt = server.connection("beads")
        with support.closing(store.Store(dolt)) as own:
            position = binlog.Position(own.feed_state.executed())
        with support.closing(binlog.Stream(dolt, position)) as stream:
            assert isinstance(next(iter(stream)), binlog.Heartbeat)
        connection.query("CREATE DATABASE other")  # with the next write Dolt sees that the reader is gone, and can stop
        connection.close()
    finally:
        server.stop()


def test_metadata_that_is_nested_deep_is_no_obstacle(
    beads: Beads, sink: support.Sink, feed: Callable[[], Running]
) -> None:
    """bd and Dolt take it; the library's decoder does not. Nothing of it is kept, so nothing of it is decoded."""
    running, jumps = feed(), JUMPS._value.get()
    beads.add("x-1", metadata='{"a": ' * 1500 + "1" + "}" * 1500)
    beads.add("x-2")
    wait_for(lambda: published(sink, "x-2"), "what comes after it is published")
    assert published(sink, "x-1") == [("", "agent", "open")]
    assert [event.extensions.get("recovered", "") for event in sink.about("x-1")] == [""]
    assert (running.feed._failed_at, JUMPS._value.get()) == (("", 0), jumps)


@pytest.mark.parametrize("error", [RecursionError("too deep"), ValueError("odd"), MemoryError(), KeyError("column")])
def test_a_transaction_that_cannot_be_read_is_passed_over(
    beads: Beads,
    sink: support.Sink,
    feed: Callable[[], Running],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    """Whatever it raises: after the second time the feed goes on, and the comparison publishes its net change."""
    read, jumps = rows.Layout.read, JUMPS._value.get()

    def fails_on_one(self: rows.Layout, packet: EventPacket) -> rows.Image:
        image = read(self, packet)
        if image.get("id") == "x-odd":
            raise error
        return image

    feed()
    monkeypatch.setattr(rows.Layout, "read", fails_on_one)
    beads.add("x-odd")
    beads.add("x-2")
    wait_for(lambda: published(sink, "x-2") and published(sink, "x-odd"), "both are published")
    assert published(sink, "x-odd") == [("", "agent", "open")]
    assert [event.extensions.get("recovered") for event in sink.about("x-odd")] == ["true"]
    assert JUMPS._value.get() == jumps + 1
    logged = [
        text for record in caplog.records if "reading or publishing the transaction" in (text := record.getMessage())
    ]
    assert len(logged) == 2
    ((gtid,),) = LAST_JUMP._metrics
    assert gtid.startswith(str(beads.sql("SELECT @@server_uuid AS id")[0]["id"]))
    assert all(f"reading or publishing the transaction {gtid} failed" in text for text in logged)
    assert f"the transaction {gtid} is passed over: it cannot be read" in caplog.text
