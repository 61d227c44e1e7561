"""The system on a real cluster: deployed once, with a Dolt server and a stand-in agent on this machine.

`make test-cluster` runs these tests; tools/cluster.py describes what they need of the cluster.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from beads_dispatch import store
from local import processes
from local.dolt import DoltServer
from local.stand_in_agent import StandInAgent
from tests.conftest import Beads, make_workspace
from tools import cluster
from tools.cluster import Namespace

# The dispatch tick comes every minute, the shortest that cron knows, so that no test waits for two.
SCHEDULES = {"dispatch": "*/1 * * * *", "reap": "*/1 * * * *"}
TICK_SECONDS = 60
SETTINGS = {"MAX_IN_FLIGHT": "20"}  # ten beads at once show more than one


@dataclass
class Deployed:
    """The system, its beads and its agent."""

    namespace: Namespace
    beads: Beads
    agent_port: int
    agents: list[StandInAgent] = field(default_factory=list)

    def start_agent(self, on_post: Callable[[str], None] = lambda bead: None) -> StandInAgent:
        """The stand-in agent, at the address that the deployment has; beads stay in progress for an hour."""
        workspace = self.beads.workspace
        agent = StandInAgent(
            workspace.folder, workspace.bd, port=self.agent_port, work_seconds=3600, capacity=20,
            status_cache_seconds=0.2, on_post=on_post,
        )  # fmt: skip
        self.agents.append(agent)
        return agent

    def assign_new(self, title: str) -> str:
        bead = self.beads.workspace.create(title, "It was dispatched")
        self.beads.workspace.run("assign", bead, "agent")
        return bead

    def passes(self, function: str, event: str | None = None) -> list[dict[str, object]]:
        """The log lines of a function's passes, all or those for one event."""
        lines = [line for line in self.namespace.logs(function) if line.get("action") == "pass"]
        return [line for line in lines if event in (None, line["event"])]

    def clear(self) -> None:
        """Remove beads and holds, stop the agents, and wait until there is no function pod."""
        for agent in self.agents:
            agent.stop()
        self.agents.clear()
        (self.beads.workspace.beads_dir / "issues.jsonl").unlink(missing_ok=True)
        for table in ("dependencies", "issues", f"{store.STATE_DATABASE}.agent_holds"):
            self.beads.sql(f"DELETE FROM {table}")
        self.beads.sql("CALL DOLT_COMMIT('-Am', 'empty', '--allow-empty')")
        self.namespace.until_zero()


@pytest.fixture(scope="session")
def _deployed(dolt_server: DoltServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    reason = cluster.missing()
    if reason:
        pytest.skip(f"no cluster to test on: {reason}")
    workspace = make_workspace("1.3.0", dolt_server, tmp_path_factory.mktemp("cluster"))
    beads = Beads(workspace)
    agent_port = processes.free_port()
    with cluster.deployed(
        beads.dolt, agent_port, image=cluster.image(), environment=SETTINGS, schedules=SCHEDULES
    ) as namespace:
        yield Deployed(namespace, beads, agent_port)


@pytest.fixture
def deployed(_deployed: Deployed) -> Iterator[Deployed]:
    """The system with no bead, no hold and no function pod; nothing is suspended afterwards."""
    _deployed.clear()
    yield _deployed
    for name in ("dispatch", "reap"):
        _deployed.namespace.kn("source", "ping", "update", name, "--ce-override", "suspend-")
    _deployed.clear()


def wait_for_tick() -> None:
    """Sleep until a tick (at the full minute) and the pass that it may start are over."""
    time.sleep(TICK_SECONDS - time.time() % TICK_SECONDS + 15)
