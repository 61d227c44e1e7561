"""The system under load on a cluster, in a namespace of its own: 500 assignments, some 25 a second, while something is
done to it."""

import contextlib
import pathlib
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from beads_dispatch import events
from local import processes
from local.dolt import DoltServer
from local.workspace import Workspace
from tests import support
from tests.cluster.conftest import SCHEDULES
from tests.conftest import Beads, make_workspace
from tests.support import wait_for
from tools import cluster, toolchain
from tools.cluster import Namespace
from tools.proxies import Proxy

NUMBER = 500


@dataclass
class System:
    """The system with a subscriber of change events; the agent and the subscriber are on this machine."""

    namespace: Namespace
    beads: Beads
    agent: support.Agent
    subscriber: support.Sink
    installation: cluster.Installation

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


@contextlib.contextmanager
def running(folder: pathlib.Path, image: str = "", knative: pathlib.Path = cluster.KNATIVE) -> Iterator[System]:
    """The system on a Dolt server of its own, since an installation sets its users' passwords; `image` and `knative`:
    another version's. Skips where there is no cluster."""
    reason = cluster.missing()
    if reason:
        pytest.skip(reason)
    server = DoltServer(toolchain.dolt(), folder / "dolt", processes.free_port())
    server.start()
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        workspace = make_workspace("1.3.0", server, folder / "workspace")
        yield stack.enter_context(_installed(workspace, image, knative))


@contextlib.contextmanager
def _installed(workspace: Workspace, image: str, knative: pathlib.Path) -> Iterator[System]:
    beads, address = Beads(workspace), cluster.own_address()
    with (
        support.closing(support.Agent()) as agent,
        support.closing(support.Sink()) as subscriber,
        support.closing(Proxy(subscriber.server_port, address)) as proxy,
        cluster.installation(beads.dolt, agent.server_port, {"MAX_IN_FLIGHT": "100000"}, SCHEDULES) as installation,
    ):
        installation.apply(image or cluster.image(), knative)
        namespace = installation.namespace
        namespace.apply({
            "apiVersion": "eventing.knative.dev/v1", "kind": "Trigger", "metadata": {"name": "changes"},
            "spec": {
                "broker": "default", "filter": {"attributes": {"type": events.ISSUE_CHANGED}},
                "subscriber": {"uri": f"http://{address}:{proxy.port}/"},
                "delivery": {"retry": 8, "backoffPolicy": "exponential", "backoffDelay": "PT1S"},
            },
        })  # fmt: skip
        namespace.kubectl("wait", "--for=condition=Ready", "--timeout=240s", "trigger/changes")
        yield System(namespace, beads, agent, subscriber, installation)


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

    def unrecorded() -> dict[str, list[str]]:
        notes = {name: system.beads.notes(name) for name in names}
        return {name: found for name, found in notes.items() if not found[-1].startswith("dispatched: job=")}

    with contextlib.suppress(AssertionError):
        wait_for(lambda: not unrecorded(), "each job is recorded", 60)  # a moment after its POST
    assert unrecorded() == {}
