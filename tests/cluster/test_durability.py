"""What a Broker loses when it dies under load, and that no bead is: 500 assignments while it is killed.

With BROKER=rabbitmq nothing that was accepted is lost, also when RabbitMQ itself is killed: RABBITMQ_KILL and
RABBITMQ_START are the commands for that on this machine. On the cluster's own Broker (in memory) change events are
lost; the tick makes up for lost requests.
"""

import os
import re
import secrets
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from beads_dispatch import events
from local.dolt import DoltServer
from local.workspace import Workspace
from tests import support
from tests.cluster.conftest import SCHEDULES
from tests.conftest import Beads
from tests.support import wait_for
from tools import cluster, toolchain
from tools.cluster import Namespace
from tools.proxies import Proxy

pytestmark = pytest.mark.cluster

NUMBER = 500
BROKER = os.environ.get("BROKER", "")
# Where the pods of the Broker are that every event goes through.
POD_LABELS = {
    "": ("knative-eventing", ("eventing.knative.dev/brokerRole", "messaging.knative.dev/role=dispatcher")),
    "rabbitmq": ("", ("eventing.knative.dev/brokerRole",)),
}


@dataclass
class System:
    """The system with a subscriber of change events; the agent and the subscriber are on this machine."""

    namespace: Namespace
    beads: Beads
    agent: support.Agent
    subscriber: support.Sink

    def assign(self, names: list[str]) -> None:
        """Assign each bead to the agent, in a transaction of its own, some 25 a second."""
        for name in names:
            self.beads.sql(
                "UPDATE issues SET assignee = 'agent', row_lock = %s, updated_at = UTC_TIMESTAMP() WHERE id = %s",
                secrets.randbits(62),
                name,
            )
            time.sleep(0.02)

    def assigned(self) -> set[str]:
        """The beads of which an event of their assignment has arrived."""
        found = self.subscriber.of_type(events.ISSUE_CHANGED)
        return {
            str(e.subject) for e in found if e.extensions["assignee"] == "agent" and e.extensions["status"] == "open"
        }

    def published(self) -> int:
        """How many change events the Broker has accepted, by the feeder's own count."""
        return sum(
            int(float(value)) for value in re.findall(r"^beads_feeder_changes_total\{.*\} (\S+)$", self.metrics(), re.M)
        )

    def lag(self) -> int:
        (value,) = re.findall(r"^beads_feeder_lag_transactions (\S+)$", self.metrics(), re.M)
        return int(float(value))

    def metrics(self) -> str:
        get = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8080/metrics').read().decode())"
        return self.namespace.kubectl("exec", "deployment/feeder", "--", "python", "-c", get)

    def delete_broker_pods(self) -> None:
        """All of them at once."""
        namespace, labels = POD_LABELS[BROKER]
        where = Namespace(namespace or self.namespace.name)
        for label in labels:
            where.kubectl("delete", "pods", "-l", label, "--force", "--grace-period=0", "--wait=false")


@pytest.fixture(scope="module")
def system(dolt_server: DoltServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    reason = cluster.missing()
    if reason:
        pytest.skip(reason)
    workspace = Workspace(toolchain.bd(), tmp_path_factory.mktemp("durable"))
    workspace.init(dolt_server.port, "durable")
    beads, address = Beads(workspace), cluster.own_address()
    with (
        support.closing(support.Agent()) as agent,
        support.closing(support.Sink()) as subscriber,
        support.closing(Proxy(subscriber.server_port, address)) as proxy,
        cluster.deployed(
            beads.dolt,
            agent.server_port,
            image=cluster.image(),
            environment={"MAX_IN_FLIGHT": "100000"},
            schedules=SCHEDULES,
        ) as namespace,
    ):
        namespace.apply({
            "apiVersion": "eventing.knative.dev/v1", "kind": "Trigger", "metadata": {"name": "changes"},
            "spec": {
                "broker": "default", "filter": {"attributes": {"type": events.ISSUE_CHANGED}},
                "subscriber": {"uri": f"http://{address}:{proxy.port}/"},
            },
        })  # fmt: skip
        namespace.kubectl("wait", "--for=condition=Ready", "--timeout=240s", "trigger/changes")
        yield System(namespace, beads, agent, subscriber)


def under_load(system: System, prefix: str, kill: Callable[[], None]) -> list[str]:
    """Assign the beads, kill something after a third of them, and wait until each bead is dispatched."""
    names = [f"{prefix}-{number:03}" for number in range(NUMBER)]
    system.beads.insert(names, acceptance_criteria="It is dispatched.", title="A bead", assignee="")
    system.assign(names[: NUMBER // 3])
    kill()
    system.assign(names[NUMBER // 3 :])
    wait_for(lambda: {*names} <= {*system.agent.posts}, "every bead is POSTed", 600)
    wait_for(lambda: system.lag() == 0, "the feeder has published everything", 600)
    return names


def check_beads(system: System, names: list[str]) -> None:
    """Each dispatched once, and recorded."""
    posts = Counter(system.agent.posts)
    assert {name: posts[name] for name in names if posts[name] != 1} == {}
    for name in names:
        assert system.beads.notes(name)[-1].startswith("dispatched: job="), name


def check_events(system: System, names: list[str], what: str) -> None:
    """On a durable Broker every event that was accepted arrives; on the other one what is lost is printed."""
    if BROKER:
        wait_for(lambda: {*names} <= system.assigned(), "every assignment's event arrives", 300)
    else:
        time.sleep(30)
    arrived = {event.id for event in system.subscriber.of_type(events.ISSUE_CHANGED)}
    print(f"{what}: {system.published()} change events accepted, {len(arrived)} delivered")
    if BROKER:
        wait_for(
            lambda: len({e.id for e in system.subscriber.of_type(events.ISSUE_CHANGED)}) == system.published(),
            "as many events as were accepted",
            300,
        )


def test_every_broker_pod_is_deleted(system: System) -> None:
    """Under 500 assignments: every bead is dispatched once."""
    names = under_load(system, "pods", system.delete_broker_pods)
    check_beads(system, names)
    check_events(system, names, "Broker's pods deleted")


def test_rabbitmq_is_killed(system: System) -> None:
    """With kill -9, and started again 5 s later: nothing that was accepted is lost."""
    commands = [os.environ.get(name, "") for name in ("RABBITMQ_KILL", "RABBITMQ_START")]
    if not BROKER or not all(commands):
        pytest.skip("needs BROKER=rabbitmq, RABBITMQ_KILL and RABBITMQ_START")

    def kill() -> None:
        subprocess.run(commands[0], shell=True, check=True)
        time.sleep(5)
        subprocess.run(commands[1], shell=True, check=True, capture_output=True)

    names = under_load(system, "kill", kill)
    check_beads(system, names)
    check_events(system, names, "RabbitMQ killed")
