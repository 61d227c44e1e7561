"""From `bd assign` to the agent's POST on a real cluster: python -m tools.bench.cluster [--samples N] [--image IMAGE]

So many times with the function warm, and as often from zero, each beside a hello world: a function of the same image
that POSTs to the same server as soon as its event comes. Its clock starts when the event is POSTed to the Broker, ours
when bd returns, which is before Dolt has even told the feeder.

The parts of a cold start are taken from the API server's word of the pod and from the function's own log lines, so
they need the clocks of this machine and of the node to agree.
"""

import argparse
import contextlib
import json
import pathlib
import random
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from beads_dispatch import log
from tools import cluster
from tools.bench import report
from tools.bench.world import InstantAgent, world
from tools.cluster import Namespace, PodWatch

HELLO = pathlib.Path(__file__).parent / "hello.py"
_WAIT_SECONDS = 90


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--image", default=cluster.DEFAULT_IMAGE)
    options = parser.parse_args()
    log.configure("bench", level="ERROR")
    why = cluster.missing()
    if why:
        print(f"no cluster to measure on: {why}", file=sys.stderr)
        return 1
    agent = InstantAgent()
    with contextlib.ExitStack() as stack:
        stack.callback(agent.close)
        _, workspace, dolt = stack.enter_context(world())
        ticks = {"dispatch": "0 0 1 1 *", "reap": "0 0 1 1 *"}  # none while we measure
        namespace = stack.enter_context(
            cluster.deployed(
                dolt,
                int(agent.url.rpartition(":")[2]),
                image=options.image,
                rules={"MAX_IN_FLIGHT": "100000"},
                schedules=ticks,
            )
        )
        broker = stack.enter_context(hello_world(namespace, options.image))

        def assigned() -> tuple[float, float]:
            """When bd returned and when the POST came, time.time()."""
            bead = workspace.create("bench", "ok")
            time.sleep(random.uniform(0.3, 0.6))  # past the create's own event, and at any phase of Dolt's poll
            workspace.run("assign", bead, "agent")
            return time.time(), agent.wait_for(bead, _WAIT_SECONDS)

        def greeted() -> float:
            """Milliseconds."""
            name = f"hello-{uuid.uuid4()}"
            sent = time.time()
            post(broker, name)
            return (agent.wait_for(name, _WAIT_SECONDS) - sent) * 1000

        assigned(), greeted()
        warm: dict[str, list[float]] = {"dispatch": [], "hello": []}
        for _ in range(options.samples):
            returned, posted = assigned()
            warm["dispatch"].append((posted - returned) * 1000)
            warm["hello"].append(greeted())
        print(f"warm: {options.samples} of each measured", flush=True)
        cold: dict[str, list[float]] = {"dispatch": [], "hello": []}
        parts: dict[str, list[float]] = {}
        times = PodTimes()
        with PodWatch(namespace, times.observe):
            for number in range(options.samples):
                namespace.until_zero()
                returned, posted = assigned()
                cold["dispatch"].append((posted - returned) * 1000)
                for name, value in cold_parts(namespace, times, returned, posted).items():
                    parts.setdefault(name, []).append(value)
                namespace.until_zero()
                cold["hello"].append(greeted())
                print(
                    f"from zero, {number + 1} of {options.samples}: dispatch {cold['dispatch'][-1]:.0f} ms,"
                    f" hello {cold['hello'][-1]:.0f} ms",
                    flush=True,
                )
    rows = {
        "dispatch, warm": summary(warm["dispatch"]), "hello, warm": summary(warm["hello"]),
        "dispatch, from zero": summary(cold["dispatch"]), "hello, from zero": summary(cold["hello"]),
    }  # fmt: skip
    report.table("to the POST, ms (dispatch: from bd assign; hello: from the event)", rows)
    stages = {name: summary(values) for name, values in parts.items()}
    report.table("where the time of dispatch from zero goes, ms", stages)
    report.write("cluster", {"unit": "ms", **rows, "parts": stages})
    return 0


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
        "feed, gate, Broker: pod created": times.created[pod],
        "scheduled": times.scheduled[pod],
        "container started": ready - loaded["ms"] / 1000,
        "Python and imports": ready,
        "request let through, claim": _seconds(claimed["time"]),
        "read back, POST": posted,
    }
    begun = [assigned, *moments.values()]
    return {name: (moment - since) * 1000 for (name, moment), since in zip(moments.items(), begun, strict=False)}


@contextlib.contextmanager
def hello_world(namespace: Namespace, image: str) -> Iterator[str]:
    """A hello world behind the Broker; gives the URL, on this machine, at which the Broker takes its events."""
    dispatch = namespace.get("ksvc", "dispatch")
    template = dispatch["spec"]["template"]
    environment = namespace.get("configmap", "beads-dispatch")["data"]
    container = {
        "name": "hello", "image": image, "securityContext": template["spec"]["containers"][0]["securityContext"],
        "command": ["functions-framework", "--source", "/hello/hello.py", "--target", "hello"],
        "env": [{"name": "TO", "value": environment["BEADBOARD_URL"]}],
        "volumeMounts": [{"name": "hello", "mountPath": "/hello", "readOnly": True}],
    }  # fmt: skip
    spec = {
        "containerConcurrency": 1, "enableServiceLinks": False, "automountServiceAccountToken": False,
        "containers": [container], "volumes": [{"name": "hello", "configMap": {"name": "hello"}}],
    }  # fmt: skip
    metadata = {"annotations": template["metadata"]["annotations"]}
    namespace.apply(
        {
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "hello"},
            "data": {"hello.py": HELLO.read_text()},
        },
        {
            "apiVersion": "serving.knative.dev/v1", "kind": "Service",
            "metadata": {"name": "hello", "labels": {"networking.knative.dev/visibility": "cluster-local"}},
            "spec": {"template": {"metadata": metadata, "spec": spec}},
        },
        {
            "apiVersion": "eventing.knative.dev/v1", "kind": "Trigger", "metadata": {"name": "hello"},
            "spec": {
                "broker": "default", "filter": {"attributes": {"type": "dev.beads.bench.hello"}},
                "subscriber": {"ref": {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": "hello"}},
            },
        },
    )  # fmt: skip
    cluster.until_ready(namespace)
    forward = subprocess.Popen(
        ["kubectl", "-n", "knative-eventing", "port-forward", "service/broker-ingress", ":80"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert forward.stdout
        port = forward.stdout.readline().split()[2].rpartition(":")[2]  # Forwarding from 127.0.0.1:PORT -> 8080
        yield f"http://127.0.0.1:{port}/{namespace.name}/default"
    finally:
        forward.terminate()
        forward.wait()


def post(broker: str, name: str) -> None:
    """An event for the hello world; returns when the Broker has answered."""
    headers = {
        "Ce-Specversion": "1.0", "Ce-Type": "dev.beads.bench.hello", "Ce-Source": "/bench", "Ce-Id": name,
        "Content-Type": "application/json",
    }  # fmt: skip
    body = json.dumps({"taskId": name}).encode()
    with urllib.request.urlopen(urllib.request.Request(broker, body, headers), timeout=_WAIT_SECONDS) as answer:
        answer.read()


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


if __name__ == "__main__":
    sys.exit(main())
