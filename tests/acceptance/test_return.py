"""Dolt comes back under the running system otherwise than it went: on another port, or after a night."""

import pathlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from beads_dispatch import gtid, settings, store
from local import processes
from local.dolt import DoltServer
from local.stand_in_agent import StandInAgent
from local.system import Ports, System
from tests.conftest import Beads, make_workspace
from tests.support import wait_for
from tools import toolchain

WRITE = "REPLACE INTO config (`key`, value) VALUES ('test.write', UUID())"  # the binlog's heartbeat may be 30 s away


@dataclass
class Running:
    """A system that finds its server by the workspace, as one that bd starts is found."""

    folder: pathlib.Path
    server: DoltServer
    beads: Beads
    system: System

    def assign(self, title: str) -> str:
        bead = self.beads.workspace.create(title, "ok")
        self.beads.workspace.run("assign", bead, "agent")
        return bead

    def wait_until_closed(self, bead: str) -> None:
        """The agent closes what is dispatched."""

        def closed() -> bool:
            self.beads.sql(WRITE)
            return bool(self.beads.row(bead)["status"] == "closed")

        wait_for(closed, "dispatched, and closed by the agent")

    def wait_until_reaped(self, bead: str) -> None:
        wait_for(lambda: self.beads.row(bead)["status"] == "blocked", "the reaper blocks it")


@pytest.fixture
def running(tmp_path: pathlib.Path) -> Iterator[Running]:
    server = DoltServer(toolchain.dolt(), tmp_path / "dolt", processes.free_port())
    server.start()
    try:
        workspace = make_workspace("1.3.0", server, tmp_path / "workspace")
        dolt = settings.dolt({"BEADS_DIR": str(workspace.beads_dir)})
        with (
            StandInAgent(workspace.folder, workspace.bd, work_seconds=0.2, status_cache_seconds=0.2) as agent,
            System(dolt, agent.url, Ports.free(), tmp_path, tick_seconds={"dispatch": 1, "reap": 1}) as system,
        ):
            here = Running(tmp_path, server, Beads(workspace), system)
            yield here
            system.require_running()
            here.server.stop()
    finally:
        server.stop()


def test_a_server_that_returns_on_another_port_is_found(running: Running) -> None:
    """Without a restart of anything: feed, dispatch and reap read the port file for each new connection."""
    running.wait_until_closed(running.assign("before"))
    running.server.stop()
    running.server = DoltServer(toolchain.dolt(), running.folder / "dolt", processes.free_port())
    running.server.start()
    running.beads.workspace.init(running.server.port, "")  # as bd does: the file holds the new port
    running.beads = Beads(running.beads.workspace)
    running.wait_until_closed(running.assign("after"))
    running.beads.add("x-1", status="in_progress")
    running.wait_until_reaped("x-1")


def test_a_night_without_dolt_is_counted_for_no_bead(running: Running) -> None:
    """What was in progress is not reaped when Dolt is back, what waits is dispatched, and nothing has failed."""
    running.wait_until_closed(running.assign("before"))
    beads, hours = running.beads, timedelta(hours=8)
    for name in ("dispatch", "reap"):  # or they would act between here and the kill
        running.system.processes[name].stop()
    then = (datetime.now(UTC) - hours).replace(tzinfo=None)
    for number in range(3):
        beads.add(f"x-{number}", status="in_progress", updated_at=then)
    waiting = running.assign("waiting")
    feed = beads.store.feed_state
    wait_for(lambda: gtid.count_missing(feed.executed(), feed.position() or "") <= 1, "all published, and stored")
    beads.sql(f"UPDATE {store.STATE_DATABASE}.feeders SET beat_at = %s", then)
    beads.store.close()
    running.server.kill()
    for name in ("dispatch", "reap"):
        running.system.start_function(name)
    log = running.system.processes["feeder"].log
    wait_for(lambda: '"action": "feed-down"' in log.read_text(), "the outage in the feeder's log")
    running.server.start()
    running.wait_until_closed(waiting)
    found = wait_for(lambda: [one for one in [beads.store.feeders.find()] if one and not one.away], "the report")
    assert found[0].resumed_at > datetime.now(UTC) - timedelta(minutes=5)
    late = running.assign("after")
    running.wait_until_closed(late)
    for bead in (waiting, late):
        assert [note.split(":")[0] for note in beads.notes(bead) if "fail" in note or "reaper" in note] == []
    assert [beads.row(f"x-{number}")["status"] for number in range(3)] == ["in_progress"] * 3
    beads.sql(f"UPDATE {store.STATE_DATABASE}.feeders SET resumed_at = %s", then)  # another night goes by, with Dolt
    running.wait_until_reaped("x-0")
