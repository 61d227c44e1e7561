"""One feeder for each feed: real processes on a real Dolt."""

import json
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from unittest import mock

import pytest

from beads_dispatch import events, store
from beads_dispatch.store.feeders import lock_name
from feeder import checkpoint, ownership
from feeder.health import HealthState
from local import processes
from local.dolt import DoltServer
from local.processes import Process
from local.system import Ports, System, environment_of
from tests import support
from tests.conftest import Beads, make_workspace
from tests.support import wait_for
from tools import toolchain

Start = Callable[..., Process]


@pytest.fixture
def start(beads: Beads, sink: support.Sink, tmp_path: pathlib.Path) -> Iterator[Start]:
    """Starts feeder processes on the workspace."""
    running: list[Process] = []

    def start(**more: str) -> Process:
        port = processes.free_port()
        environment = {**environment_of(beads.dolt), "K_SINK": sink.url, "PORT": str(port), **more}
        name = f"feeder-{len(running)}"
        running.append(Process(name, processes.python("-m", "feeder"), tmp_path / f"{name}.log", environment))
        return running[-1]

    yield start
    for process in running:
        process.kill()


def until_it_reads(process: Process) -> Process:
    wait_for(lambda: "reading the binlog" in process.log.read_text(), "the feeder reads")
    return process


def until_it_ends(process: Process) -> int:
    wait_for(lambda: not process.running, "the process ends")
    return process.kill()


def test_a_second_feeder_is_refused_with_the_owners_name(beads: Beads, start: Start) -> None:
    """It names user, process, host and last report; and it has written nothing, neither position nor suspension."""
    first = until_it_reads(start())
    before = beads.sql(f"SELECT * FROM {store.STATE_DATABASE}.feeders")
    second = start()
    assert until_it_ends(second) == os.EX_CONFIG
    (line,) = [line for line in second.log.read_text().splitlines() if "cannot start" in line]
    assert f"process {first.pid} on host" in line and "user root" in line and "s ago" in line and "FEED_NAME" in line
    after = beads.sql(f"SELECT * FROM {store.STATE_DATABASE}.feeders")
    assert [row["instance"] for row in after] == [row["instance"] for row in before]
    assert first.running


def test_a_feed_name_separates_two_deployments(beads: Beads, start: Start) -> None:
    """Both run; each has its own position, hold and suspension, in the functions too."""
    until_it_reads(start())
    until_it_reads(start(FEED_NAME="other"))
    feeds = {row["feed"] for row in beads.sql(f"SELECT feed FROM {store.STATE_DATABASE}.positions")}
    assert feeds == {beads.dolt.database, f"{beads.dolt.database}/other"}
    with support.closing(store.Store(replace(beads.dolt, feed_name="other"))) as other:
        other.control.mirror_pingsource("dispatch", True)
        beads.store.control.mirror_pingsource("dispatch", False)  # as the other's feeder does at its start
        assert other.control.suspension().dispatch and not beads.store.control.suspension().dispatch
        assert other.feeders.find() != beads.store.feeders.find()


def test_the_functions_and_the_command_obey_the_suspension_of_their_feed_alone(
    beads: Beads, agent: support.Agent, tmp_path: pathlib.Path
) -> None:
    """Processes with FEED_NAME: what is suspended is the other deployment, in dispatch, reap and `status`."""
    other = store.Store(replace(beads.dolt, feed_name="other"))
    system = System(beads.dolt, agent.url, Ports.free(), tmp_path, environment={"FEED_NAME": "other"})
    environment = {**os.environ, **environment_of(beads.dolt)}

    def tick(name: str) -> None:  # answered when the pass is over
        headers, _ = events.to_http(events.Event(f"t-{name}", f"/x/pingsources/{name}", events.TICK))
        port = getattr(system.ports, name)
        assert support.post(f"http://127.0.0.1:{port}/", headers=headers, content=b"{}").is_success

    def statuses() -> list[str]:
        return [beads.row(bead)["status"] for bead in ("x-1", "x-2")]

    def suspended(**more: str) -> bool:
        command = [str(pathlib.Path(sys.executable).parent / "beads-dispatch"), "status", "--json"]
        answer = subprocess.run(command, env={**environment, **more}, check=True, capture_output=True, text=True)
        return bool(json.loads(answer.stdout)["dispatch_suspended"])

    beads.add("x-1")
    beads.add("x-2", status="in_progress", updated_at=datetime.now(UTC) - timedelta(hours=1))
    with support.closing(other):
        for name in ("dispatch", "reap"):
            other.control.mirror_pingsource(name, True)
        try:
            for name in ("dispatch", "reap"):
                system.start_function(name)
            for name in ("dispatch", "reap"):
                wait_for(partial(processes.listening, getattr(system.ports, name)), "it listens")
                tick(name)
            assert statuses() == ["open", "in_progress"]
            assert suspended(FEED_NAME="other") and not suspended(FEED_NAME="")
            for name in ("reap", "dispatch"):
                other.control.mirror_pingsource(name, False)
                beads.store.control.mirror_pingsource(name, True)
                tick(name)
            assert statuses() == ["in_progress", "blocked"]
        finally:
            for process in system.processes.values():
                process.stop()


def test_after_a_crash_the_next_one_starts_at_once(beads: Beads, start: Start) -> None:
    """Dolt frees the lock of a process that was killed; nobody waits for a report to grow old."""
    until_it_reads(start()).kill()
    until_it_reads(start())
    assert len(beads.sql(f"SELECT * FROM {store.STATE_DATABASE}.feeders")) == 1


@pytest.mark.parametrize("workspace", ["1.3.0"], indirect=True)
def test_a_connection_that_was_lost_takes_the_lock_again(beads: Beads) -> None:
    """Its own lock, which the server still holds for the connection of before, is not another feeder."""
    stop = threading.Event()
    beads.store.feed_state.prepare()
    owner = ownership.Owner(beads.dolt, stop, wait_seconds=0)
    assert owner.take()
    beads.store.feed_state.report(owner.beat())
    lost = owner._lock._line.connection
    owner._lock._line.connection = None  # the server does not know
    thread = threading.Thread(target=owner.run)
    thread.start()
    time.sleep(2)
    assert thread.is_alive()
    assert lost is not None
    lost.close()
    wait_for(lambda: owner._lock._line.connection is not None, "the lock is taken again")
    stop.set()
    thread.join()
    owner.close()


@pytest.mark.parametrize("workspace", ["1.3.0"], indirect=True)
def test_the_id_of_a_clone_outlives_the_process_and_the_loss_of_its_row(beads: Beads) -> None:
    """Otherwise the clone that was named to dispatch would stop to, for no reason that anybody sees."""
    ids = []
    for _ in range(2):  # two processes, one after the other
        beads.store.feed_state.prepare()
        owner = ownership.Owner(beads.dolt, threading.Event())
        owner.report()
        ids.append(owner.beat().replica)
        beads.sql(f"DELETE FROM {store.STATE_DATABASE}.feeders")  # as after DROP DATABASE
        beads.store.feed_state.report(owner.beat())
        found = beads.store.feeders.find()
        assert found is not None
        ids.append(found.beat.replica)
        owner.close()
    assert len(set(ids)) == 1


@pytest.mark.parametrize("workspace", ["1.3.0"], indirect=True)
def test_a_feeder_whose_feed_was_taken_ends(beads: Beads) -> None:
    """The connection is lost, and another feeder is quicker."""
    stop = threading.Event()
    beads.store.feed_state.prepare()
    first, second = (ownership.Owner(beads.dolt, stop, wait_seconds=0) for _ in range(2))
    assert first.take()
    first._lock.close()
    wait_for(second.take, "the second takes it")
    beads.store.feed_state.report(second.beat())
    with pytest.raises(ownership.Taken, match="belongs to another feeder: user root, process"):
        first.run()
    second.close()


def test_a_server_that_returns_gives_the_lock_back(tmp_path: pathlib.Path) -> None:
    """Restarted under the feeder: the owner takes its lock again, and another is refused as before."""
    server = DoltServer(toolchain.dolt(), tmp_path / "dolt", processes.free_port())
    server.start()
    stop = threading.Event()
    try:
        beads = Beads(make_workspace("1.3.0", server, tmp_path / "workspace"))
        owner = ownership.Owner(beads.dolt, stop)
        assert checkpoint.wait_for_position(beads.store, HealthState(), stop, owner)
        thread = threading.Thread(target=owner.run)
        thread.start()
        server.kill()
        time.sleep(2)
        server.start()
        with support.closing(store.FeedLock(beads.dolt)) as other:
            name = lock_name(beads.dolt.feed)

            def held() -> bool:
                other.close()
                return bool(other.rows("SELECT IS_USED_LOCK(%(name)s) AS holder", {"name": name})[0]["holder"])

            wait_for(held, "the lock is taken again")
            assert other.take() == beads.dolt.feed
        stop.set()
        thread.join()
        owner.close()
        beads.store.close()
    finally:
        stop.set()
        server.stop()


def test_a_beat_comes_once_a_minute_and_not_after_the_position(beads: Beads) -> None:
    """One transaction holds both; a beat alone comes only where no position was stored for a minute."""
    beads.store.feed_state.prepare()
    stop, feed_state = threading.Event(), beads.store.feed_state
    owner = ownership.Owner(beads.dolt, stop)
    executed = feed_state.executed()
    with mock.patch("feeder.checkpoint.time.monotonic", return_value=1000.0) as clock:
        checkpointer = checkpoint.Checkpointer(beads.store, executed, HealthState(), owner.beat)
        with mock.patch.object(feed_state, "set_position", wraps=feed_state.set_position) as writes:
            checkpointer.save()
            clock.return_value += store.BEAT_SECONDS - 1
            checkpointer.save()
            assert writes.call_count == 0
            checkpointer.advance(feed_state.executed(), {("beads", "x-1"): None}, published=True)
            checkpointer.save()  # with the position
            clock.return_value += store.BEAT_SECONDS - 1
            checkpointer.save()
            assert writes.call_count == 1
            clock.return_value += 2
            checkpointer.save()  # alone
            assert writes.call_count == 2
    found = beads.store.feeders.find()
    assert found is not None and found.beat == owner.beat() and not found.away


@pytest.mark.parametrize("workspace", ["1.3.0"], indirect=True)
def test_a_beat_comes_by_itself(beads: Beads, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing to publish, and no position to store."""
    monkeypatch.setattr(store, "BEAT_SECONDS", 0.2)
    beads.store.feed_state.prepare()
    stop = threading.Event()
    owner = ownership.Owner(beads.dolt, stop)
    ours = store.Store(beads.dolt)
    checkpointer = checkpoint.Checkpointer(ours, ours.feed_state.executed(), HealthState(), owner.beat)
    thread = threading.Thread(target=checkpointer.run, args=(stop,))
    thread.start()
    try:
        for _ in range(2):
            wait_for(beads.store.feeders.find, "a beat")
            beads.sql(f"DELETE FROM {store.STATE_DATABASE}.feeders")
    finally:
        stop.set()
        thread.join()
        ours.close()
        owner.close()
