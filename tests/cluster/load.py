"""The system under load on a cluster, in a namespace of its own: 500 assignments, which go on while something is done
to it."""

import contextlib
import os
import pathlib
import re
import secrets
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
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
from tools.chaos.binlog_recorder import BinlogRecorder
from tools.cluster import Namespace
from tools.proxies import Proxy

NUMBER = 500
MOST = 700  # beads, where the action takes longer than 500 assignments
BROKER = os.environ.get("BROKER", "")
# Where the pods of the Broker are that every event goes through, by BROKER; no name: the system's own namespace.
_BROKER_PODS = {
    "": ("knative-eventing", ("eventing.knative.dev/brokerRole", "messaging.knative.dev/role=dispatcher")),
    "rabbitmq": ("", ("eventing.knative.dev/brokerRole",)),
}

Published = tuple[str, str]  # a transaction's GTID, and a bead that it changed: an event of the feeder


@dataclass
class System:
    """The system with a subscriber of change events; the agent and the subscriber are on this machine."""

    namespace: Namespace
    beads: Beads
    agent: support.Agent
    subscriber: support.Sink
    installation: cluster.Installation
    recorder: BinlogRecorder
    checked: set[Published] = field(default_factory=set)  # by the tests before

    def assign(self, names: Sequence[str], seconds: float = 0.0) -> None:
        """Assign each bead to the agent, in a transaction of its own; `seconds` are waited after each."""
        with self.beads.cursor() as cursor:
            for name in names:
                cursor.execute(
                    "UPDATE issues SET assignee = 'agent', row_lock = %s, updated_at = UTC_TIMESTAMP() WHERE id = %s",
                    (secrets.randbits(62), name),
                )
                time.sleep(seconds)

    def assigned(self) -> set[str]:
        """The beads of which an event of their assignment has arrived."""
        found = self.subscriber.of_type(events.ISSUE_CHANGED)
        return {
            str(e.subject) for e in found if e.extensions["assignee"] == "agent" and e.extensions["status"] == "open"
        }

    def changes(self) -> set[Published]:
        """Every change in the binlog that the feeder has to publish. It has published all when its lag is 0: its
        position moves on only after the Broker's 2xx."""
        return {
            (transaction.gtid, row.after["id"])
            for transaction in self.recorder.transactions()
            for row in transaction.rows
            if row.table == "issues" and row.after and _state(row.before) != _state(row.after)
        }

    def arrived(self) -> list[Published]:
        """The change events that have arrived, repeats too."""
        found = self.subscriber.of_type(events.ISSUE_CHANGED)
        return [(event.id.rpartition(":")[0], str(event.subject)) for event in found]

    def tick(self) -> None:
        """Send a tick of dispatch by hand, as the PingSource does; returns when the Broker has accepted it."""
        source = f"/apis/v1/namespaces/{self.namespace.name}/pingsources/dispatch"
        tick = events.Event(f"by-hand-{secrets.token_hex(4)}", source, events.TICK, extensions={"tick": "dispatch"})
        headers, body = events.to_http(tick)
        with self.namespace.broker() as url:
            httpx.post(url, headers=headers, content=body, timeout=120).raise_for_status()

    def metric(self, name: str) -> int:
        """The sum of one of the feeder's metrics, named with the beginning of its labels. Its pod's end resets it."""
        found = re.findall(rf"^{re.escape(name)}.* (\S+)$", self.metrics(), re.M)
        assert found, f"no metric {name}"
        return sum(int(float(value)) for value in found)

    def lag(self) -> int:
        return self.metric("beads_feeder_lag_transactions")

    def metrics(self) -> str:
        get = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8080/metrics').read().decode())"
        return self.namespace.kubectl("exec", "deployment/feeder", "--", "python", "-c", get)


def _state(row: Mapping[str, Any] | None) -> tuple[str, str]:
    """A bead's assignee and status; a new bead comes to be as an open, unassigned one."""
    return (row["assignee"] or "", row["status"]) if row else ("", "open")


@contextlib.contextmanager
def running(
    folder: pathlib.Path, image: str = "", knative: pathlib.Path = cluster.KNATIVE,
    schedules: Mapping[str, str] = SCHEDULES,
) -> Iterator[System]:  # fmt: skip
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
        yield stack.enter_context(_installed(workspace, image, knative, schedules))


@contextlib.contextmanager
def _installed(
    workspace: Workspace, image: str, knative: pathlib.Path, schedules: Mapping[str, str]
) -> Iterator[System]:
    beads, address = Beads(workspace), cluster.own_address()
    with (
        support.closing(support.Agent()) as agent,
        support.closing(support.Sink()) as subscriber,
        support.closing(Proxy(subscriber.server_port, address)) as proxy,
        cluster.installation(beads.dolt, agent.server_port, {"MAX_IN_FLIGHT": "100000"}, schedules) as installation,
        BinlogRecorder(beads.dolt) as recorder,
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
        yield System(namespace, beads, agent, subscriber, installation, recorder)


def under_load(system: System, prefix: str, action: Callable[[], None]) -> list[str]:
    """Assign beads, as fast as Dolt takes them, from before the action's begin until after its end, and wait until each
    is dispatched and each change published. Returns the beads that were assigned.

    The action runs beside the assignments, from a third of them on. Where it lasts, they go on slowly. What either
    raises is raised.
    """
    beads = [f"{prefix}-{number:03}" for number in range(MOST + 20)]
    system.beads.insert(beads, acceptance_criteria="It is dispatched.", title="A bead", assignee="")
    first = number = NUMBER // 3
    system.assign(beads[:first], 0.03)
    began = time.monotonic()
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(action)
        while not running.done():
            assert number < MOST, f"{prefix}: the action lasts longer than {MOST} assignments"
            slow = number >= NUMBER * 9 // 10
            several = 1 if slow else 10
            system.assign(beads[number : number + several], 0.7 if slow else 0.03)
            number += several
    running.result()
    print(f"{prefix}: {number - first} assignments during its {time.monotonic() - began:.0f} s", flush=True)
    assert number > first
    last = max(NUMBER, number + 20)
    system.assign(beads[number:last], 0.03)
    assigned = beads[:last]
    wait_for(lambda: {*assigned} <= {*system.agent.posts}, "every bead is POSTed", 600)
    wait_for(lambda: system.lag() == 0, "the feeder has published everything", 600)
    return assigned


def delete_broker_pods(system: System) -> None:
    """All pods of the Broker at once, their processes killed before where BROKER_KILL is the command for that."""
    namespace, labels = _BROKER_PODS[BROKER]
    where = Namespace(namespace or system.namespace.name)
    if command := os.environ.get("BROKER_KILL"):
        subprocess.run(command, shell=True, check=True)
    for label in labels:
        where.kubectl("delete", "pods", "-l", label, "--force", "--grace-period=0", "--wait=false")


def check_events(system: System, names: list[str], what: str) -> None:
    """Of the changes since the last check: each event has arrived, once or more, that of each assignment among them."""
    wait_for(lambda: {*names} <= system.assigned(), "every assignment's event arrives", 300)
    wait_for(lambda: system.lag() == 0, "the feeder has published everything", 300)  # the records of the jobs
    expected = system.changes() - system.checked
    with contextlib.suppress(AssertionError):
        wait_for(lambda: expected <= {*system.arrived()}, "every event arrives", 120)
    arrived = [event for event in system.arrived() if event in expected]
    repeated = len(arrived) - len({*arrived})
    print(f"{what}: {len(expected)} change events, {len({*arrived})} arrived, {repeated} repeats", flush=True)
    assert expected - {*arrived} == set()
    system.checked |= expected


def check_beads(system: System, names: list[str]) -> None:
    """Each dispatched once, and recorded."""
    posts = Counter(system.agent.posts)
    more = sum(posts[name] > 1 for name in names)
    print(f"{len(names)} beads: {sum(posts[name] > 0 for name in names)} POSTed, {more} twice", flush=True)
    assert {name: posts[name] for name in names if posts[name] != 1} == {}

    def unrecorded() -> dict[str, list[str]]:
        notes = {name: system.beads.notes(name) for name in names}
        return {name: found for name, found in notes.items() if not found[-1].startswith("dispatched: job=")}

    with contextlib.suppress(AssertionError):
        wait_for(lambda: not unrecorded(), "each job is recorded", 60)  # a moment after its POST
    assert unrecorded() == {}
