"""Suspending and resuming: stock kn, and the two plugins."""

import pathlib
import sys
import time

import pytest

from tests.cluster.conftest import Deployed, wait_for_tick
from tests.support import wait_for
from tools.cluster import ClusterError, PodWatch

pytestmark = pytest.mark.cluster


def suspend(deployed: Deployed, name: str) -> None:
    deployed.namespace.kn("source", "ping", "update", name, "--ce-override", "suspend=true")
    time.sleep(1)  # "from the next second on"


def resume(deployed: Deployed, name: str) -> None:
    deployed.namespace.kn("source", "ping", "update", name, "--ce-override", "suspend-")


def test_suspended_nothing_starts_and_resumed_everything_is_dispatched(deployed: Deployed) -> None:
    """Ten beads and a tick: no pod, no POST. Then all ten, before the next tick."""
    agent = deployed.start_agent()
    suspend(deployed, "dispatch")
    with PodWatch(deployed.namespace) as pods:
        beads = {deployed.assign_new(f"bead {number}") for number in range(10)}
        wait_for_tick()
        assert pods.created == [] and agent.received == []
        resumed = time.time()
        resume(deployed, "dispatch")
        wait_for(lambda: len(agent.received) >= 10 and pods.created, "ten POSTs, and the watch saw the pod", 60)
    assert {bead for _, bead in agent.received} == beads and len(agent.received) == 10
    assert agent.received[0][0] - resumed < 30
    state = deployed.namespace.kubectl(
        "get", "pingsource", "-o", "custom-columns=NAME:.metadata.name,SUSPEND:.spec.ceOverrides.extensions.suspend"
    )
    assert state.split() == ["NAME", "SUSPEND", "dispatch", "<none>", "reap", "<none>"]


def test_stock_kn_can_suspend_twice(deployed: Deployed) -> None:
    """kn crashes on an empty `ceOverrides`: ours is never empty, so suspend, resume, suspend works."""
    for _ in range(2):
        suspend(deployed, "reap")
        resume(deployed, "reap")


def test_a_pass_in_progress_stops_before_its_next_claim(deployed: Deployed) -> None:
    """Suspended while the agent takes its time over the first POST: no second bead is claimed."""
    suspend(deployed, "dispatch")
    agent = deployed.start_agent(on_post=lambda bead: time.sleep(5))
    for number in range(5):
        deployed.assign_new(f"bead {number}")
    resume(deployed, "dispatch")
    wait_for(lambda: agent.received, "the first POST", 60)
    suspend(deployed, "dispatch")
    time.sleep(20)
    assert len(agent.received) == 1
    queue = deployed.beads.sql("SELECT COUNT(*) AS n FROM issues WHERE status = 'open' AND assignee = 'agent'")
    assert queue[0]["n"] == 4


def test_reap_is_suspended_on_its_own(deployed: Deployed) -> None:
    """An inactive bead is left alone while reap is suspended, and blocked by the first tick after it is resumed."""
    deployed.start_agent()
    suspend(deployed, "reap")
    deployed.beads.add("silent-1", status="in_progress")
    wait_for_tick()
    assert deployed.beads.row("silent-1")["status"] == "in_progress"
    assert deployed.namespace.function_pods("reap") == []
    resume(deployed, "reap")
    wait_for(lambda: deployed.beads.row("silent-1")["status"] == "blocked", "the reaper", 100)


def test_the_plugins_do_both_in_one_line(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    """kn finds them on PATH; they set the very field that kn sets."""
    monkeypatch.setenv("PATH", str(pathlib.Path(sys.executable).parent), prepend=":")
    printed = deployed.namespace.kn("source", "ping", "suspend", "dispatch", "reap")
    assert "dispatch" in printed and "reap" in printed and deployed.namespace.name in printed
    listed = deployed.namespace.kn("source", "ping", "suspend", "--list")
    assert [line.split()[:2] for line in listed.splitlines()[1:]] == [["dispatch", "*/1"], ["reap", "*/1"]]
    assert [line.split()[-1] for line in listed.splitlines()[1:]] == ["True", "True"]
    for item in deployed.namespace.get("pingsource")["items"]:
        assert item["spec"]["ceOverrides"]["extensions"]["suspend"] == "true"
    suspension = deployed.beads.store.control.suspension
    wait_for(lambda: suspension().dispatch and suspension().reap, "the mirror", 5)
    deployed.namespace.kn("source", "ping", "suspend", "dispatch")  # again is no error
    deployed.namespace.kn("source", "ping", "resume", "dispatch", "reap")
    wait_for(lambda: not suspension().dispatch, "the mirror", 5)
    with pytest.raises(ClusterError, match="nosuch"):
        deployed.namespace.kn("source", "ping", "suspend", "dispatch", "nosuch")
    assert suspension().dispatch is None
