"""From `bd assign` to the agent's POST on a real cluster: python -m tools.bench.cluster [--samples N] [--image IMAGE]

N times with the function warm, and N times from zero, each beside a hello world: a function of the same image that
POSTs to the same server as soon as its event comes. Its clock starts when the event is POSTed to the Broker, ours when
bd returns, which is before the feeder can read the change.

The parts of a cold start are taken from the API server's pod events and from the function's own log lines, so the
clocks of this machine and of the node must agree.
"""

import contextlib
import pathlib
import random
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx
import yaml

from beads_dispatch import events
from local.workspace import Workspace
from tools import cluster, world
from tools.bench import report
from tools.cluster import Namespace, PodWatch
from tools.database import AGENT
from tools.servers import Agent

HELLO = pathlib.Path(__file__).parent / "hello.py"
_WAIT_SECONDS = 90
_NO_TICKS = {"dispatch": "0 0 1 1 *", "reap": "0 0 1 1 *"}  # schedules


@dataclass
class PodTimes:
    """When each dispatch pod was created and scheduled (time.time()), by the pod's name."""

    created: dict[str, float] = field(default_factory=dict)
    scheduled: dict[str, float] = field(default_factory=dict)

    def observe(self, kind: str, pod: Mapping[str, Any]) -> None:
        name, now = pod["metadata"]["name"], time.time()
        if pod["metadata"].get("labels", {}).get("serving.knative.dev/service") != "dispatch":
            return
        self.created.setdefault(name, now)
        conditions = pod["status"].get("conditions") or []
        if any(found["type"] == "PodScheduled" and found["status"] == "True" for found in conditions):
            self.scheduled.setdefault(name, now)


def main() -> int:
    options = report.options(__doc__, samples=20, image=cluster.DEFAULT_IMAGE)
    why = cluster.missing()
    if why:
        print(f"there is no cluster to measure on: {why}", file=sys.stderr)
        return 1
    with contextlib.ExitStack() as stack:
        agent = stack.enter_context(Agent())
        here = stack.enter_context(world.world())
        namespace = stack.enter_context(
            cluster.deployed(
                here.dolt, agent.server_port, image=options.image, environment={"MAX_IN_FLIGHT": str(world.MANY)},
                schedules=_NO_TICKS,
            )
        )  # fmt: skip
        broker = stack.enter_context(hello_world(namespace, options.image))
        sampler = ClusterSampler(here.workspace, agent, broker)
        rows = sampler.warm(options.samples)
        print(f"warm: {options.samples} of each measured", flush=True)
        cold, stages = sampler.from_zero(namespace, options.samples)
    figures = {name: summary(values) for name, values in (rows | cold).items()}
    report.table("to the POST, ms (dispatch: from bd assign; hello: from the event)", figures)
    parts = {name: summary(values) for name, values in stages.items()}
    report.table("where the time of dispatch from zero goes, ms", parts)
    report.write("cluster", {"unit": "ms", **figures, "parts": parts})
    return 0


class ClusterSampler:
    """Assigns beads, sends events to the hello world, and takes the time to their POSTs."""

    def __init__(self, workspace: Workspace, agent: Agent, broker: str) -> None:
        self._workspace = workspace
        self._agent = agent
        self._broker = broker
        self._client = httpx.Client(timeout=_WAIT_SECONDS, trust_env=False)

    def warm(self, samples: int) -> dict[str, list[float]]:
        """Milliseconds, by series."""
        self._assign()
        self._greet()
        found: dict[str, list[float]] = {"dispatch, warm": [], "hello, warm": []}
        for _ in range(samples):
            returned, posted = self._assign()
            found["dispatch, warm"].append((posted - returned) * 1000)
            found["hello, warm"].append(self._greet())
        return found

    def from_zero(self, namespace: Namespace, samples: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """The same with no pod there; and of dispatch, the parts of it."""
        dispatch: list[float] = []
        hello: list[float] = []
        parts: dict[str, list[float]] = {}
        times = PodTimes()
        with PodWatch(namespace, times.observe):
            for number in range(samples):
                namespace.until_zero()
                returned, posted = self._assign()
                dispatch.append((posted - returned) * 1000)
                for name, value in cold_parts(namespace, times, returned, posted).items():
                    parts.setdefault(name, []).append(value)
                namespace.until_zero()
                hello.append(self._greet())
                print(
                    f"from zero, {number + 1} of {samples}: dispatch {dispatch[-1]:.0f} ms, hello {hello[-1]:.0f} ms",
                    flush=True,
                )
        return {"dispatch, from zero": dispatch, "hello, from zero": hello}, parts

    def _assign(self) -> tuple[float, float]:
        """When bd returned and when the POST came, time.time()."""
        bead = self._workspace.create("bench", "ok")
        time.sleep(random.uniform(0.3, 0.6))  # past the create's own event, and at any phase of Dolt's poll
        self._workspace.run("assign", bead, AGENT)
        return time.time(), self._agent.wait_for(bead, _WAIT_SECONDS)

    def _greet(self) -> float:
        """Milliseconds from the event to the hello world's POST."""
        name = f"hello-{uuid.uuid4()}"
        headers, body = events.to_http(events.Event(name, "/bench", "dev.beads.bench.hello", data={"taskId": name}))
        sent = time.time()
        self._client.post(self._broker, headers=headers, content=body).raise_for_status()
        return (self._agent.wait_for(name, _WAIT_SECONDS) - sent) * 1000


def summary(samples: list[float]) -> dict[str, float]:
    """p50, p95 and max, ms."""
    return {
        "n": len(samples), "p50": round(report.percentile(samples, 50)), "p95": round(report.percentile(samples, 95)),
        "max": round(max(samples)),
    }  # fmt: skip


def cold_parts(namespace: Namespace, times: PodTimes, assigned: float, posted: float) -> dict[str, float]:
    """Milliseconds of each part of the cold start that has just ended with a POST."""
    (pod,) = namespace.function_pods("dispatch")
    lines = namespace.logs("dispatch")
    loaded = next(line for line in lines if line["message"] == "loaded")
    claimed = next(line for line in lines if line.get("action") == "claim")
    ready = _seconds(loaded["time"])
    moments = {
        "feed, check, Broker: pod created": times.created[pod],
        "scheduled": times.scheduled[pod],
        "container started": ready - loaded["ms"] / 1000,
        "Python and imports": ready,
        "request forwarded, claim": _seconds(claimed["time"]),
        "read back, POST": posted,
    }
    begun = [assigned, *moments.values()]
    return {name: (moment - since) * 1000 for (name, moment), since in zip(moments.items(), begun, strict=False)}


@contextlib.contextmanager
def hello_world(namespace: Namespace, image: str) -> Iterator[str]:
    """A hello world behind the Broker; gives the URL, on this machine, at which the Broker takes its events."""
    namespace.apply(*_hello_manifests(namespace, image))
    cluster.until_ready(namespace)
    with namespace.broker() as url:
        yield url


def _hello_manifests(namespace: Namespace, image: str) -> list[dict[str, Any]]:
    """The function, with its source in a ConfigMap, and a Trigger; scaled and secured as dispatch is."""
    source, service, trigger = yaml.safe_load_all(HELLO.with_suffix(".yaml").read_text())
    dispatch = namespace.get("ksvc", "dispatch")["spec"]["template"]
    server = namespace.get("configmap", "beads-dispatch")["data"]["BEADBOARD_URL"]
    source["data"] = {"hello.py": HELLO.read_text()}
    template = service["spec"]["template"]
    template["metadata"] = {"annotations": dispatch["metadata"]["annotations"]}
    template["spec"]["containers"][0] |= {
        "image": image, "env": [{"name": "TO", "value": server}],
        "securityContext": dispatch["spec"]["containers"][0]["securityContext"],
    }  # fmt: skip
    return [source, service, trigger]


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


if __name__ == "__main__":
    sys.exit(main())
