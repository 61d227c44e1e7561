"""What a Broker loses when it dies under load, and that no bead is: 500 assignments while it is killed.

With BROKER=rabbitmq nothing that was accepted is lost, also when RabbitMQ itself is killed: RABBITMQ_KILL and
RABBITMQ_START are the commands for that on this machine. On the cluster's own Broker (in memory) change events are
lost; the tick makes up for lost requests.
"""

import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from beads_dispatch import events
from local.dolt import DoltServer
from tests.cluster import load
from tests.cluster.load import System, check_beads, under_load
from tests.support import wait_for
from tools.cluster import Namespace

pytestmark = pytest.mark.cluster

BROKER = os.environ.get("BROKER", "")
# Where the pods of the Broker are that every event goes through.
POD_LABELS = {
    "": ("knative-eventing", ("eventing.knative.dev/brokerRole", "messaging.knative.dev/role=dispatcher")),
    "rabbitmq": ("", ("eventing.knative.dev/brokerRole",)),
}


@pytest.fixture(scope="module")
def system(dolt_server: DoltServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with load.running(dolt_server, tmp_path_factory.mktemp("durable"), "durable") as system:
        yield system


def delete_broker_pods(system: System) -> None:
    """All of them at once."""
    namespace, labels = POD_LABELS[BROKER]
    where = Namespace(namespace or system.namespace.name)
    for label in labels:
        where.kubectl("delete", "pods", "-l", label, "--force", "--grace-period=0", "--wait=false")


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
