"""The runbook's three smoke tests, word for word: their text is read from docs/runbook.md and run by bash.

Each leaves the cluster as it was; tests/integration/test_runbook.py shows the same for one that fails half-way.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests import runbook
from tests.cluster.conftest import Deployed
from tests.support import wait_for

pytestmark = pytest.mark.cluster


Left = tuple[list[tuple[str, str]], dict[str, str], str]


@pytest.fixture(autouse=True)
def _clean(deployed: Deployed) -> Iterator[None]:
    """After each: no bead more, the same settings, nothing suspended."""

    def left() -> Left:
        kubectl = deployed.namespace.kubectl
        settings = json.loads(kubectl("get", "configmap", "beads-dispatch", "-o", "json"))["data"]
        suspended = kubectl("get", "pingsource", "-o", "jsonpath={.items[*].spec.ceOverrides.extensions.suspend}")
        return deployed.beads.workspace.titles(), settings, suspended

    before = left()
    yield
    assert left() == before


def run(deployed: Deployed, script: str, **env: str) -> None:
    """As an operator who stops at the first command that fails."""
    workspace = deployed.beads.workspace
    done = subprocess.run(
        ["bash", "-euxc", script],
        cwd=workspace.folder,
        env={
            **os.environ, **workspace.environment(), **env, "NS": deployed.namespace.name,
            "PATH": f"{workspace.bd.parent}:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def test_end_to_end(deployed: Deployed) -> None:
    """Claimed, dispatched, in progress."""
    deployed.start_agent()
    run(deployed, runbook.block("Smoke test: end to end"))


def test_the_reaper(deployed: Deployed) -> None:
    """The agent dies in the middle of a job; the bead is blocked, with its note."""
    workspace = deployed.beads.workspace
    command = [sys.executable, "-m", "local.stand_in_agent", "--port", str(deployed.agent_port), "--bd", workspace.bd]
    command += ["--workspace", workspace.folder, "--work-seconds", "3600"]
    with subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True) as agent:
        output = agent.stderr
        assert output
        wait_for(lambda: "listening" in output.readline(), "the agent", 30)
        stop = shlex.join(["kill", "-9", str(agent.pid)])
        try:
            run(deployed, runbook.block("Smoke test: the reaper"), STOP_AGENT=stop, START_AGENT="true")
        finally:
            agent.kill()


def test_suspend_and_resume(deployed: Deployed) -> None:
    """Suspended, assigned, nothing for 5 minutes, resumed, dispatched."""
    agent = deployed.start_agent()
    run(deployed, runbook.block("Smoke test: suspend and resume"))
    assert len(agent.received) == 1
