"""What becomes of a dispatch request that cannot be delivered, on either Broker; where it is lost, the next tick makes
up for it. Ticks come only by hand here.

The Broker in memory answers the feeder after the delivery, so the feeder sends again what was not delivered. RabbitMQ's
answers before it, and keeps the event; but after the Trigger's retries the event is gone, and nobody knows.
"""

import time
from collections.abc import Iterator

import pytest

from tests.cluster import load
from tests.cluster.load import BROKER, System, check_beads, delete_broker_pods
from tests.support import wait_for
from tools import cluster

pytestmark = pytest.mark.cluster

NEVER = {"dispatch": "0 0 1 1 *", "reap": "0 0 1 1 *"}  # on 1 January
LOST_SECONDS = 20  # ten times as long as a dispatch from zero takes
TRIES = 3  # the Trigger has 2 retries
REQUESTS = 'beads_feeder_requests_total{cause="change",function="dispatch"}'


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with load.running(tmp_path_factory.mktemp("lost"), schedules=NEVER) as system:
        yield system


def assign_from_zero(system: System, bead: str) -> None:
    """No function has a pod, and the feeder has requested nothing."""
    system.namespace.until_zero()
    system.beads.insert([bead], acceptance_criteria="It is dispatched.", title="A bead", assignee="")
    system.assign([bead])


def check_lost(system: System, bead: str) -> None:
    """Everything is Ready, but the bead is not POSTed; by the next tick it is, once."""
    cluster.until_ready(system.namespace)
    time.sleep(LOST_SECONDS)
    assert bead not in system.agent.posts
    assert system.beads.row(bead)["status"] == "open"
    system.tick()
    system.agent.wait_for(bead, 60)
    check_beads(system, [bead])


def test_a_request_survives_the_death_of_the_broker(system: System) -> None:
    """Killed while the function starts from zero for the request: RabbitMQ keeps it, and what the Broker in memory has
    is sent again by the feeder. No tick is needed."""

    def unanswered() -> int:
        """How often the feeder began to send a request again."""
        lines = system.namespace.logs("feeder")
        return sum(str(line["message"]).startswith("cannot request a pass: the sink") for line in lines)

    before = unanswered()
    assign_from_zero(system, "killed")
    wait_for(lambda: system.namespace.function_pods("dispatch"), "the function starts", 30)
    delete_broker_pods(system)
    assert "killed" not in system.agent.posts  # or it died too late
    system.agent.wait_for("killed", 120)
    check_beads(system, ["killed"])
    print(f"requests that the feeder sent again: {unanswered() - before}")
    assert BROKER or unanswered() > before


def test_a_request_that_a_function_refuses_too_often(system: System) -> None:
    """It cannot use Dolt for longer than the Trigger tries: RabbitMQ drops the request. With the Broker in memory the
    feeder knows, and sends it again until it is done."""
    statement = "ALTER USER 'beads-dispatch'@'%%' IDENTIFIED BY %s"

    def refused() -> int:
        return sum(line.get("action") == "retry" for line in system.namespace.logs("dispatch"))

    system.namespace.until_zero()
    system.beads.sql(statement, "another")
    assign_from_zero(system, "refused")
    wait_for(lambda: refused() >= TRIES, "the function refuses each try", 60)
    time.sleep(1)  # the last answer is on its way
    system.beads.sql(statement, system.installation.passwords["dispatch"])
    if BROKER:
        check_lost(system, "refused")
    else:
        system.agent.wait_for("refused", 60)
        check_beads(system, ["refused"])


def test_a_request_that_no_trigger_takes_is_lost(system: System) -> None:
    """While the Trigger is not there (a Broker or a Trigger that is made again), a Broker accepts the request and
    delivers it to nobody."""
    requests = system.metric(REQUESTS)
    system.namespace.kubectl("delete", "trigger", "dispatch-requested", "--timeout=60s")
    time.sleep(5)  # until the Broker knows
    assign_from_zero(system, "unheard")
    wait_for(lambda: system.metric(REQUESTS) == requests + 1, "the Broker accepts the request", 60)
    system.installation.apply(cluster.image())
    check_lost(system, "unheard")
