"""No bead is lost and none is POSTed twice when the Broker dies under load, and every change event arrives: 500
assignments while it is killed.

With BROKER=rabbitmq RabbitMQ itself is killed, too: RABBITMQ_KILL and RABBITMQ_START are the commands for that on this
machine. What the cluster's own Broker (in memory) holds when its processes die (BROKER_KILL: a command that kills them
with -9, since pods that are deleted end their deliveries first) was not accepted yet: it answers a POST after the
delivery, so the feeder sends it again. tests/cluster/test_lost_request.py has what is lost on a Broker.
"""

import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.cluster import load
from tests.cluster.load import BROKER, System, check_beads, check_events, under_load
from tests.support import answers
from tools.servers import accepted

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with load.running(tmp_path_factory.mktemp("durable")) as system:
        yield system


def delete_broker_pods(system: System) -> None:
    """While they have events that the subscriber has refused so far."""
    system.subscriber.behaviour = answers(503)
    system.beads.insert([f"refused-{number}" for number in range(20)], title="A bead", assignee="somebody")
    time.sleep(2)
    load.delete_broker_pods(system)
    time.sleep(8)  # past their last tries
    system.subscriber.behaviour = accepted


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
