"""An agent as a Kubernetes Job: examples/agent-job on the cluster, from `bd assign` to a bead that is closed.

Needs the image of the example in the cluster: JOB_IMAGE names it (its README says how it is built).
"""

import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from local import processes
from local.dolt import DoltServer
from local.workspace import Workspace
from tests.cluster.conftest import SCHEDULES
from tests.conftest import Beads
from tests.support import wait_for
from tools import cluster, toolchain
from tools.cluster import Namespace

pytestmark = pytest.mark.cluster

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "agent-job"
ADDRESS = "http://job-sink.knative-eventing.svc.cluster.local"
AGENTS = """\
[agents.agent]
backend = "jobsink"
url = "{address}/{namespace}/agent"
max_in_flight = 4
"""


def job_sink(image: str, command: str) -> dict[str, Any]:
    """The example's JobSink, with that image and command."""
    (found,) = yaml.safe_load_all((EXAMPLE / "jobsink.yaml").read_text())
    (container,) = found["spec"]["job"]["spec"]["template"]["spec"]["containers"]
    container["image"] = image
    next(each for each in container["env"] if each["name"] == "AGENT_COMMAND")["value"] = command
    result: dict[str, Any] = found
    return result


@pytest.fixture(scope="module")
def jobs(dolt_server: DoltServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Namespace, Beads]]:
    """The system with one agent, whose backend is the JobSink of the example."""
    reason, image = cluster.missing(), os.environ.get("JOB_IMAGE")
    if reason or not image:
        pytest.skip(reason or "JOB_IMAGE names no image of examples/agent-job")
    workspace = Workspace(toolchain.bd(), tmp_path_factory.mktemp("jobs"))
    workspace.init(dolt_server.port, "jobs")  # beside the database of the other tests
    beads = Beads(workspace)
    environment = {"AGENTS_FILE": "/etc/agents/agents.toml"}
    with cluster.deployed(
        beads.dolt, processes.free_port(), image=cluster.image(),
        environment=environment, schedules=SCHEDULES,
        prepare=lambda namespace: _prepare(namespace, image),
    ) as namespace:  # fmt: skip
        yield namespace, beads


def _prepare(namespace: Namespace, image: str) -> None:
    """What is there before the system: its AGENTS_FILE, and the JobSink; its Jobs write as bd's administrator."""
    text = AGENTS.format(address=ADDRESS, namespace=namespace.name)
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "agents"}, "data": {"agents.toml": text}}
    allowed = {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "to-job-sink"},
        "spec": {
            "podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "beads-dispatch"}}, "policyTypes": ["Egress"],
            "egress": [{"to": [{"namespaceSelector": {"matchLabels": {
                "kubernetes.io/metadata.name": "knative-eventing"}}}]}],
        },
    }  # fmt: skip
    command = 'if bd show "$BEAD_ID" | grep -q fails; then echo cannot; exit 3; fi; cat > /dev/null; echo done'
    namespace.apply(config, allowed, job_sink(image, command))


def job_pods(namespace: Namespace) -> list[str]:
    pods = namespace.get("pods", "-l", "batch.kubernetes.io/job-name")["items"]
    return [pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] in ("Pending", "Running")]


def test_from_assign_to_close_by_a_job(jobs: tuple[Namespace, Beads]) -> None:
    """No agent pod before, none after; one Job, and the bead is closed by the agent."""
    namespace, beads = jobs
    assert job_pods(namespace) == []
    bead = beads.workspace.create("a job's bead", "It is closed")
    beads.workspace.run("assign", bead, "agent")
    wait_for(lambda: beads.row(bead)["status"] == "closed", "the bead closed by its Job", 240)
    assert "claimed by agent in agent" in "\n".join(beads.notes(bead))
    wait_for(lambda: job_pods(namespace) == [], "no agent pod", 120)
    wait_for(
        lambda: [job["status"].get("succeeded") for job in namespace.get("jobs")["items"]] == [1], "one Job's end", 60
    )
    record = json.loads(beads.row(bead)["metadata"])["dispatch"]
    assert record["job"].startswith(f"/namespaces/{namespace.name}/")


def test_a_job_that_fails_opens_its_bead_again(jobs: tuple[Namespace, Beads]) -> None:
    """The feeder asks JobSink, and requests reap; the output's end is in a note of the Job's."""
    _, beads = jobs
    bead = beads.workspace.create("this one fails", "It is closed")
    beads.workspace.run("assign", bead, "agent")
    wait_for(lambda: any("the Job failed" in note for note in beads.notes(bead)), "the reaper's note", 240)
    assert beads.row(bead)["status"] == "open"
    notes = "\n".join(beads.notes(bead))
    assert "the command ended with 3: " in notes and "cannot" in notes, notes
