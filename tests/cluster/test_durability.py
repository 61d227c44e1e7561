"""What a Broker loses when it dies under load, and that no bead is: 500 assignments while it is killed.

With BROKER=rabbitmq nothing that was accepted is lost, also when RabbitMQ itself is killed: RABBITMQ_KILL and
RABBITMQ_START are the commands for that on this machine. The cluster's own Broker (in memory) may lose what its
processes hold (BROKER_KILL: a command that kills them with -9, since pods that are deleted end their deliveries first);
the tick makes up for lost requests.
"""

import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from beads_dispatch import events
from tests.cluster import load
from tests.cluster.load import System, check_beads, under_load
from tests.support import answers, wait_for
from tools.cluster import Namespace
from tools.servers import accepted

pytestmark = pytest.mark.cluster

BROKER = os.environ.get("BROKER", "")
# Where the pods of the Broker are that every event goes through.
POD_LABELS = {
    "": ("knative-eventing", ("eventing.knative.dev/brokerRole", "messaging.knative.dev/role=dispatcher")),
    "rabbitmq": ("", ("eventing.knative.dev/brokerRole",)),
}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with load.running(tmp_path_factory.mktemp("durable")) as system:
        yield system


def delete_broker_pods(system: System) -> None:
    """All of them at once, while they have events that the subscriber has refused so far."""
    namespace, labels = POD_LABELS[BROKER]
    where = Namespace(namespace or system.namespace.name)
    system.subscriber.behaviour = answers(503)
    refused = [f"refused-{number}" for number in range(20)]
    system.beads.insert(refused, title="A bead", assignee="somebody")
    time.sleep(2)
    for label in labels:
        where.kubectl("delete", "pods", "-l", label, "--force", "--grace-period=0", "--wait=false")
    if command := os.environ.get("BROKER_KILL"):
        subprocess.run(command, shell=True, check=True)
    time.sleep(8)  # past their last tries
    system.subscriber.behaviour = accepted


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
    names = under_load(system, "pods", lambda: delete_broker_pods(system))
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
