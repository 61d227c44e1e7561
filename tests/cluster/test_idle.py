"""The queue is empty, so no pod runs: pod creations counted from the API over 20 minutes."""

import os
import time

import pytest

from tests.cluster.conftest import Deployed
from tests.support import wait_for
from tools.cluster import PodWatch

pytestmark = pytest.mark.cluster

MINUTES = float(os.environ.get("IDLE_MINUTES", "20"))


def test_idle_minutes_start_no_pod(deployed: Deployed) -> None:
    """Both ticks at every minute, and changes that concern no agent: no pod is created, no feeder restarts."""
    agent = deployed.start_agent()
    workspace = deployed.beads.workspace
    before = deployed.namespace.get("pods", "-l", "app=feeder")["items"]
    ends = time.monotonic() + MINUTES * 60
    changes = 0
    with PodWatch(deployed.namespace) as pods:
        while time.monotonic() < ends:
            bead = workspace.create(f"unrelated {changes}", "It concerns no agent")
            workspace.run("update", bead, "--status", "in_progress")
            workspace.run("assign", bead, "somebody")
            workspace.run("close", bead, actor="somebody")
            changes += 4
            time.sleep(20)
        idle = list(pods.created)
        # One more bead shows that the watch would have seen a pod.
        deployed.assign_new("starts a pod")
        wait_for(lambda: agent.received and pods.created, "the pod that this bead starts", 60)
    print(f"\n{MINUTES:g} idle minutes, {changes} unrelated changes: {len(idle)} pods created")
    assert idle == [] and len(agent.received) == 1
    after = deployed.namespace.get("pods", "-l", "app=feeder")["items"]
    assert [pod["metadata"]["uid"] for pod in after] == [pod["metadata"]["uid"] for pod in before]
    assert after[0]["status"]["containerStatuses"][0]["restartCount"] == 0
