"""Dolt goes away under the running system, and comes back."""

import pathlib

from beads_dispatch import settings
from local import processes
from local.dolt import DoltServer
from local.stand_in_agent import StandInAgent
from local.system import Ports, System
from tests.conftest import make_workspace
from tests.support import wait_for
from tools import toolchain


def test_dolt_killed_between_beads_loses_nothing(tmp_path: pathlib.Path) -> None:
    """kill -9 of the server: no process dies, each outage is logged once, and work continues when it is back."""
    server = DoltServer(toolchain.dolt(), tmp_path / "dolt", processes.free_port())
    server.start()
    try:
        workspace = make_workspace("1.3.0", server, tmp_path / "workspace")
        dolt = settings.dolt({"BEADS_DIR": str(workspace.beads_dir)})
        with (
            StandInAgent(workspace.folder, workspace.bd, work_seconds=0.2, status_cache_seconds=0.2) as agent,
            System(dolt, agent.url, Ports.free(), tmp_path, tick_seconds={"dispatch": 0.5, "reap": 0.5}) as system,
        ):
            for number in range(2):
                bead = workspace.create(f"outage {number}", "ok")
                workspace.run("assign", bead, "agent")
                wait_for(lambda bead=bead: workspace.show(bead)["status"] == "closed", "closed")  # type: ignore[misc]
                server.kill()
                log = system.processes["feeder"].log
                wait_for(
                    lambda log=log, number=number: log.read_text().count('"action": "feed-down"') > number,  # type: ignore[misc]
                    "the outage in the feeder's log",
                )
                server.start()
            wait_for(lambda: log.read_text().count('"action": "feed-up"') == 2, "the feed continuing", 90)
            system.require_running()
            assert [name for _, name in agent.received] == list(dict.fromkeys(name for _, name in agent.received))
            logged = "".join(process.log.read_text() for process in system.processes.values())
            assert logged.count('"action": "feed-down"') == 2
            assert "Traceback" not in logged
    finally:
        server.stop()
