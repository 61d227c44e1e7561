"""From `bd assign` to the POST on the cluster: from zero, once, and when a part is missing."""

import contextlib
import time

import pytest

from beads_dispatch import events
from tests import support
from tests.cluster.conftest import TICK_SECONDS, Deployed, wait_for_tick
from tests.support import wait_for
from tools.cluster import own_address
from tools.proxies import Proxy

pytestmark = pytest.mark.cluster


def test_a_bead_is_dispatched_from_zero_and_the_function_ends_again(deployed: Deployed) -> None:
    """One pod, one POST; then no pod again."""
    agent = deployed.start_agent()
    assert deployed.namespace.function_pods() == []
    bead = deployed.assign_new("from zero")
    wait_for(lambda: agent.received, "the POST", 30)
    assert [name for _, name in agent.received] == [bead]
    wait_for(lambda: any("dispatched: job=" in note for note in deployed.beads.notes(bead)), "the job's note", 30)
    deployed.namespace.until_zero()


def test_one_event_is_one_delivery(deployed: Deployed) -> None:
    """The empty 204 counts as success: the pass for the event is in the log once, a minute later too."""
    agent = deployed.start_agent()
    deployed.assign_new("one delivery")
    wait_for(lambda: agent.received, "the POST", 30)
    wait_for(lambda: deployed.passes("dispatch"), "the pass in the log", 30)
    (event,) = {str(line["event"]) for line in deployed.passes("dispatch")}
    # More beads keep the pod running, so that its log can be read; their passes have other events.
    for number in range(4):
        time.sleep(4)
        deployed.assign_new(f"keeps the pod running {number}")
    assert len(deployed.passes("dispatch", event)) == 1
    events_of_passes = [str(line["event"]) for line in deployed.passes("dispatch")]
    assert len(events_of_passes) == len(set(events_of_passes))


def test_without_the_feeder_the_tick_dispatches_and_later_the_feeder_publishes_the_gap(
    deployed: Deployed, sink: support.Sink
) -> None:
    """The tick is the function's dead letter; the change is published when the feeder is back."""
    agent = deployed.start_agent()
    address = own_address()
    with contextlib.closing(Proxy(int(sink.url.rsplit(":", 1)[1].strip("/")), address)) as proxy:
        trigger = {
            "apiVersion": "eventing.knative.dev/v1", "kind": "Trigger", "metadata": {"name": "changes"},
            "spec": {
                "broker": "default", "filter": {"attributes": {"type": events.ISSUE_CHANGED}},
                "subscriber": {"uri": f"http://{address}:{proxy.port}/"},
            },
        }  # fmt: skip
        deployed.namespace.apply(trigger)
        try:
            deployed.namespace.kubectl("wait", "--for=condition=Ready", "trigger/changes", "--timeout=120s")
            deployed.namespace.kubectl("scale", "deployment/feeder", "--replicas=0")
            deployed.namespace.kubectl("wait", "--for=delete", "pod", "-l", "app=feeder", "--timeout=60s")
            bead = deployed.assign_new("without a feeder")
            assigned = time.time()
            wait_for(lambda: agent.received, "the POST by the tick", 2 * TICK_SECONDS)
            assert agent.received[0][1] == bead
            assert agent.received[0][0] - assigned < TICK_SECONDS + 15
            assert not sink.about(bead)
        finally:
            deployed.namespace.kubectl("scale", "deployment/feeder", "--replicas=1")
            deployed.namespace.kubectl("rollout", "status", "deployment/feeder", "--timeout=120s")
        wait_for(lambda: len(sink.about(bead)) >= 2, "what the feeder missed", 60)
        published = [(event.extensions.get("assignee"), event.extensions.get("status")) for event in sink.about(bead)]
        assert ("agent", "open") in published and ("agent", "in_progress") in published
        deployed.namespace.kubectl("delete", "trigger", "changes")


def test_ticks_with_an_empty_queue_start_no_pod(deployed: Deployed) -> None:
    """The feeder answers them; the long form is test_idle."""
    deployed.start_agent()
    wait_for_tick()
    assert deployed.namespace.function_pods() == []
