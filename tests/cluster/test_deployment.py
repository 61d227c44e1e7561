"""What `kubectl apply -k` made: everything Ready, no right more than needed, and the command in the image."""

import json

import pytest

from tests.cluster.conftest import Deployed
from tests.support import wait_for
from tools.cluster import ClusterError

pytestmark = pytest.mark.cluster


def may(deployed: Deployed, account: str, *what: str) -> bool:
    """Whether the API server lets a service account do that."""
    user = f"system:serviceaccount:{deployed.namespace.name}:{account}"
    try:
        return deployed.namespace.kubectl("auth", "can-i", *what, "--as", user).strip() == "yes"
    except ClusterError:
        return False


def test_everything_is_ready(deployed: Deployed) -> None:
    """Each object that has the condition is Ready, and every object of the base is there."""
    for kind, names in {
        "broker": {"default"},
        "trigger": {"dispatch-requested", "reap-requested", "tick-dispatch", "tick-reap"},
        "pingsource": {"dispatch", "reap"},
        "ksvc": {"console", "dispatch", "reap"},
        "sinkbinding": {"feeder"},
        "eventtype": None,
    }.items():
        items = deployed.namespace.get(kind)["items"]
        if names:
            assert {item["metadata"]["name"] for item in items} == names
        for item in items:
            ready = [found["status"] for found in item["status"]["conditions"] if found["type"] == "Ready"]
            assert ready == ["True"], (kind, item["metadata"]["name"], item["status"]["conditions"])
    assert deployed.namespace.get("networkpolicy")["items"]


def test_the_feeder_may_read_pingsources_of_its_namespace_and_nothing_else(deployed: Deployed) -> None:
    """And the functions nothing at all."""
    for verb in ("get", "list", "watch"):
        assert may(deployed, "feeder", verb, "pingsources.sources.knative.dev")
    for refused in (
        ("update", "pingsources.sources.knative.dev"),
        ("list", "secrets"),
        ("list", "pods"),
        ("get", "configmaps"),
        ("list", "pingsources.sources.knative.dev", "--all-namespaces"),
    ):
        assert not may(deployed, "feeder", *refused), refused
    for name in ("dispatch", "reap"):
        assert not may(deployed, name, "get", "pingsources.sources.knative.dev")


def test_the_pods_hold_no_more_than_they_need(deployed: Deployed) -> None:
    """No token in a function, no pip in the image, nothing writable but memory, and no process is root."""
    agent = deployed.start_agent()
    deployed.assign_new("starts a pod")
    (feeder,) = [p["metadata"]["name"] for p in deployed.namespace.get("pods", "-l", "app=feeder")["items"]]
    wait_for(lambda: agent.received, "the POST", 30)
    (dispatch,) = deployed.namespace.function_pods("dispatch")
    token = "import os; print(os.path.exists('/var/run/secrets/kubernetes.io/serviceaccount/token'))"
    for pod, container, has_token in ((feeder, "feeder", "True"), (dispatch, "dispatch", "False")):
        run = ("exec", pod, "-c", container, "--", "python", "-c")
        assert deployed.namespace.kubectl(*run, token).strip() == has_token
        assert deployed.namespace.kubectl(*run, "import os; print(os.getuid())").strip() == "65532"
        for refused in ("import pip", "open('/app/x', 'w')", "open('/tmp/x', 'w')"):
            with pytest.raises(ClusterError):
                deployed.namespace.kubectl(*run, refused)


def test_the_command_is_in_the_image(deployed: Deployed) -> None:
    """`kubectl exec deploy/feeder -- beads-dispatch status` reads the Dolt server that the pod uses."""
    run = ("exec", "deploy/feeder", "-c", "feeder", "--", "beads-dispatch", "status")
    assert "Queue, in the order of dispatch: 0" in deployed.namespace.kubectl(*run)
    assert json.loads(deployed.namespace.kubectl(*run, "--json"))["schema"] == 1
