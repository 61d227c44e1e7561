"""From the cluster's own Broker to RabbitMQ's, as knative/overlays/rabbitmq says: the old Broker is deleted, the
overlay applied, and everything else stays.
"""

import os
import pathlib

import pytest

from tests.cluster import load
from tests.cluster.load import BROKER, System, check_beads
from tests.support import wait_for
from tools import cluster

pytestmark = pytest.mark.cluster


def dispatched(system: System, bead: str) -> None:
    """The bead is POSTed once after its assignment, and the event of that arrives."""
    system.beads.insert([bead], acceptance_criteria="It is dispatched.", title="A bead", assignee="")
    system.assign([bead])
    system.agent.wait_for(bead, 60)
    check_beads(system, [bead])
    wait_for(lambda: bead in system.assigned(), "the subscriber gets the change event", 30)


def test_the_triggers_stay_when_the_class_is_changed(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of the system's own Triggers and a subscriber's; an assignment is dispatched, and its event arrives."""
    if BROKER or not os.environ.get("RABBITMQ_URL"):
        pytest.skip("needs RABBITMQ_URL, and BROKER unset")
    with load.running(tmp_path) as system:
        dispatched(system, "before")
        triggers = {one["metadata"]["name"]: one["metadata"]["uid"] for one in system.namespace.get("trigger")["items"]}
        system.namespace.kubectl("delete", "sinkbinding/feeder", "broker/default", "--timeout=60s")
        monkeypatch.setenv("BROKER", "rabbitmq")
        cluster.prepare_rabbitmq(system.namespace)
        system.installation.apply(cluster.image())
        assert system.namespace.get("broker", "default")["spec"]["config"]["kind"] == "RabbitmqBrokerConfig"
        after = {one["metadata"]["name"]: one["metadata"]["uid"] for one in system.namespace.get("trigger")["items"]}
        assert after == triggers
        dispatched(system, "after")
