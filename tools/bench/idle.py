"""What it costs to wait: python -m tools.bench.idle [--minutes M]

On a thousand beads of which none waits: first an hour's ticks one after the other (30 for dispatch, 6 for reap), then
so many quiet minutes in real time. What the feeder sends to Dolt is counted on the wire, its CPU time and memory are
what Linux says, and every event that reaches the router is looked at: a function that is asked for would show.
"""

import argparse
import sys
import time
from collections.abc import Callable

import httpx

from beads_dispatch import events, log, settings
from local import ticks
from local.system import MANIFESTS, Ports, System
from tools.bench import generate, report, resource_usage
from tools.bench.world import InstantAgent, world

BEADS = 1000
TICKS = {"dispatch": 30, "reap": 6}  # an hour's
CPU_AIM_PERCENT, MEMORY_AIM_MIB = 0.5, 60

_REQUESTS = (events.DISPATCH_REQUESTED, events.REAP_REQUESTED)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    minutes = parser.parse_args().minutes
    log.configure("bench", level="ERROR")
    agent = InstantAgent()
    asked: list[events.Event] = []
    with world() as (folder, _, dolt):
        generate.fill(dolt, BEADS, eligible=0)
        counted = resource_usage.Counted(dolt)
        with System(
            settings.DoltSettings("127.0.0.1", counted.port, dolt.user, dolt.password, dolt.database),
            agent.url,
            Ports.free(),
            folder / "log",
            environment={"AGENT_HEALTH_URL": f"{agent.url}/health"},
            observe=lambda event: asked.append(event) if event.type in _REQUESTS else None,
            tick_seconds={name: 10**6 for name in TICKS},
        ) as system:
            feeder = system.processes["feeder"].pid
            functions = [pid for name in TICKS for pid in resource_usage.children(system.processes[name].pid)]
            time.sleep(3)  # past its start
            hour = _cost(counted, feeder, lambda: _tick(f"http://127.0.0.1:{system.ports.router}/"))
            print(f"{minutes:g} quiet minutes", flush=True)
            before = sum(map(resource_usage.cpu_seconds, functions))
            quiet = _cost(counted, feeder, lambda: _wait(minutes * 60))
            functions_cpu = sum(map(resource_usage.cpu_seconds, functions)) - before
            memory = round(resource_usage.rss_mib(feeder), 1)
        counted.close()
    agent.close()
    percent = round(quiet["CPU s"] / (minutes * 60) * 100, 3)
    # An hour's ticks, and an hour of waiting for them.
    whole = {
        "core %": round((hour["CPU s"] + quiet["CPU s"] * 60 / minutes) / 3600 * 100, 3),
        "queries/h": round(hour["queries"] + quiet["queries"] * 60 / minutes),
        "MiB": memory,
        "invocations": len(asked),
    }
    report.table("the feeder while nothing waits", {"an hour's ticks": hour, f"{minutes:g} quiet minutes": quiet})
    report.table(
        f"together (aims: {CPU_AIM_PERCENT} % of a core, {MEMORY_AIM_MIB} MiB, 0 invocations)", {"idle": whole}
    )
    figures = {"beads": BEADS, "ticks": hour, "minutes": minutes, "quiet": {**quiet, "core %": percent}, **whole}
    report.write("idle", {**figures, "functions' CPU s": round(functions_cpu, 2)})
    return 1 if asked else 0


def _cost(counted: resource_usage.Counted, pid: int, during: Callable[[], None]) -> dict[str, float]:
    """What the process used while `during` ran."""
    before, cpu = counted.counts(), resource_usage.cpu_seconds(pid)
    during()
    after = counted.counts()
    return {
        **{name: after[name] - before[name] for name in after},
        "CPU s": round(resource_usage.cpu_seconds(pid) - cpu, 2),
    }


def _tick(broker: str) -> None:
    sources = {source.name: source for source in ticks.load_sources(MANIFESTS)}
    with httpx.Client(timeout=60, trust_env=False) as client:
        for name, number in TICKS.items():
            for _ in range(number):
                headers, body = events.to_http(sources[name].tick())
                client.post(broker, headers=headers, content=body).raise_for_status()


def _wait(seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(30, left))
        print(f"{max(0.0, end - time.monotonic()):.0f} s to go", flush=True)


if __name__ == "__main__":
    sys.exit(main())
