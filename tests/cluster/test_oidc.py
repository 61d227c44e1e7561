"""Events are authenticated where the cluster does it: docs/security.md's commands, under the running system."""

import os
import pathlib
import re
import uuid
from collections.abc import Iterator

import httpx
import pytest

from beads_dispatch import events
from local.stand_in_agent import StandInAgent
from tests.cluster.conftest import Deployed
from tests.support import wait_for
from tools.cluster import Namespace

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(os.environ.get("BROKER")), reason="only Knative's own Broker verifies tokens"),
]

KNATIVE = Namespace("knative-eventing")
FEATURE = "authentication-oidc"
SECURITY = (pathlib.Path(__file__).parents[2] / "docs" / "security.md").read_text()
POLICY = re.findall(r"```yaml\n(apiVersion: eventing.knative.dev/v1alpha1\n.*?)```", SECURITY, re.DOTALL)


def audience(deployed: Deployed) -> str:
    """Of the Broker; empty where tokens are not verified."""
    found: str = deployed.namespace.get("broker", "default")["status"]["address"].get("audience", "")
    return found


def token_mounted(deployed: Deployed) -> bool:
    """In the feeder that runs, as soon as it is the only one."""
    deployed.namespace.kubectl("rollout", "status", "deployment/feeder", "--timeout=240s")
    volumes = deployed.namespace.get("deployment", "feeder")["spec"]["template"]["spec"].get("volumes", [])
    return any(volume["name"] == "oidc-token" for volume in volumes)


@pytest.fixture
def authenticated(deployed: Deployed) -> Iterator[Deployed]:
    """The cluster verifies tokens; afterwards it is as before."""
    before = KNATIVE.get("configmap", "config-features").get("data", {}).get(FEATURE, "disabled")
    set_feature("enabled")
    try:
        wait_for(lambda: audience(deployed) and token_mounted(deployed), "the feeder has a token", 240)
        yield deployed
    finally:
        deployed.namespace.kubectl("delete", "eventpolicy", "--all")
        set_feature(before)
        wait_for(lambda: before == "enabled" or not token_mounted(deployed), "the feeder as before", 240)


def posted(agent: StandInAgent) -> list[str]:
    return [bead for _, bead in agent.received]


def set_feature(value: str) -> None:
    KNATIVE.kubectl("patch", "configmap", "config-features", "--type=merge", f'-p={{"data":{{"{FEATURE}":"{value}"}}}}')


def post(url: str, token: str = "") -> int:
    """A change event from somebody else: the HTTP status of the Broker's answer."""
    headers = {
        "ce-specversion": "1.0", "ce-type": events.ISSUE_CHANGED, "ce-source": "/somebody", "ce-id": str(uuid.uuid4()),
        "content-type": "application/json",
    } | ({"authorization": f"Bearer {token}"} if token else {})  # fmt: skip
    return httpx.post(url, headers=headers, content="{}", timeout=20).status_code


def test_events_without_a_token_are_refused(authenticated: Deployed) -> None:
    with authenticated.namespace.broker() as url:
        assert [post(url), post(url, "nonsense")] == [401, 401]


def test_ticks_are_admitted(authenticated: Deployed) -> None:
    """A PingSource has a token of its own: with the policy its pass still comes."""
    assert len(POLICY) == 1
    authenticated.namespace.kubectl("apply", "-f", "-", stdin=POLICY[0])
    authenticated.namespace.kubectl("wait", "--for=condition=Ready", "--timeout=60s", "eventpolicy", "--all")
    agent = authenticated.start_agent()
    authenticated.namespace.kubectl("scale", "deployment/feeder", "--replicas=0")
    try:
        bead = authenticated.beads.add("tick-1")
        wait_for(lambda: bead in posted(agent), "the tick dispatches it", 150)
    finally:
        authenticated.namespace.kubectl("scale", "deployment/feeder", "--replicas=1")
