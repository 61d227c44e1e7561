"""The runbook's three smoke tests, word for word: their text is read from docs/runbook.md and run by bash."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from tests.cluster.conftest import Deployed
from tests.support import wait_for

pytestmark = pytest.mark.cluster

RUNBOOK = pathlib.Path(__file__).parents[2] / "docs" / "runbook.md"


def blocks(heading: str) -> list[str]:
    """The shell blocks below a heading of the runbook."""
    section = re.split(r"^#+ ", RUNBOOK.read_text().partition(f"### {heading}\n")[2], maxsplit=1, flags=re.M)[0]
    found = re.findall(r"^```sh\n(.*?)^```", section, flags=re.M | re.S)
    assert found, f"{RUNBOOK} has no commands below {heading}"
    return found


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
    (script,) = blocks("Smoke test: end to end")
    run(deployed, script)


def test_the_reaper(deployed: Deployed) -> None:
    """The agent dies in the middle of a job; the bead is blocked, with its note."""
    workspace = deployed.beads.workspace
    command = [sys.executable, "-m", "local.stand_in_agent", "--port", str(deployed.agent_port), "--bd", workspace.bd]
    command += ["--workspace", workspace.folder, "--work-seconds", "3600"]
    with subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True) as agent:
        output = agent.stderr
        assert output
        wait_for(lambda: "listening" in output.readline(), "the agent", 30)
        script, afterwards = blocks("Smoke test: the reaper")
        try:
            run(deployed, script, STOP_AGENT=shlex.join(["kill", "-9", str(agent.pid)]))
        finally:
            agent.kill()
            run(deployed, afterwards)
            deployed.namespace.kubectl("rollout", "status", "deployment/feeder", "--timeout=120s")


def test_suspend_and_resume(deployed: Deployed) -> None:
    """Suspended, assigned, nothing for 5 minutes, resumed, dispatched."""
    agent = deployed.start_agent()
    (script,) = blocks("Smoke test: suspend and resume")
    run(deployed, script)
    assert len(agent.received) == 1
