"""What waiting costs: python -m tools.bench.idle [--minutes M]

On a thousand beads of which none is eligible: first an hour's ticks one after the other (30 for dispatch, 6 for reap),
then M quiet minutes in real time. The feeder's statements are counted on the wire, its CPU time and memory are read
from /proc, and every event that reaches the router is checked: it must not be a request for a pass.
"""

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import httpx

from beads_dispatch import events
from local import ticks
from local.system import MANIFESTS
from tools import world
from tools.bench import generate, report, resource_usage
from tools.proxies import CountingProxy
from tools.servers import Agent

BEADS = 1000
TICKS = {"dispatch": 30, "reap": 6}  # an hour's
CPU_AIM_PERCENT, MEMORY_AIM_MIB = 0.5, 60

_REQUESTS = (events.DISPATCH_REQUESTED, events.REAP_REQUESTED)


def measure(here: world.World, minutes: float) -> dict[str, dict[str, float]]:
    """What an hour's ticks and the quiet minutes cost the feeder, and what it holds at the end."""
    requests: list[events.Event] = []
    with (
        Agent() as agent,
        contextlib.closing(CountingProxy(here.dolt.port)) as proxy,
        here.system(
            agent.url, replace(here.dolt, port=proxy.port),
            observe=lambda event: requests.append(event) if event.type in _REQUESTS else None,
        ) as system,
    ):  # fmt: skip
        feeder = system.processes["feeder"].pid
        functions = [pid for name in TICKS for pid in resource_usage.children(system.processes[name].pid)]
        time.sleep(3)  # past its start
        hour = _cost(proxy, feeder, lambda: _tick(f"http://127.0.0.1:{system.ports.router}/"))
        print(f"{minutes:g} quiet minutes", flush=True)
        before = sum(map(resource_usage.cpu_seconds, functions))
        quiet = _cost(proxy, feeder, lambda: _wait(minutes * 60))
        end = {
            "MiB": round(resource_usage.rss_mib(feeder), 1), "requests": len(requests),
            "functions' CPU s": round(sum(map(resource_usage.cpu_seconds, functions)) - before, 2),
        }  # fmt: skip
    return {"ticks": hour, "quiet": quiet, "end": end}


def main() -> int:
    minutes = report.options(__doc__, minutes=10.0).minutes
    with world.world() as here:
        generate.fill(here, BEADS, eligible=0)
        hour, quiet, end = measure(here, minutes).values()
    # An hour's ticks, and an hour without them.
    whole = {
        "core %": round((hour["CPU s"] + quiet["CPU s"] * 60 / minutes) / 3600 * 100, 3),
        "queries/h": round(hour["queries"] + quiet["queries"] * 60 / minutes),
        "MiB": end["MiB"],
        "requests": end["requests"],
    }
    report.table("the feeder without eligible beads", {"an hour's ticks": hour, f"{minutes:g} quiet minutes": quiet})
    report.table(f"together (aims: {CPU_AIM_PERCENT} % of a core, {MEMORY_AIM_MIB} MiB, 0 requests)", {"idle": whole})
    percent = round(quiet["CPU s"] / (minutes * 60) * 100, 3)
    figures = {"beads": BEADS, "ticks": hour, "minutes": minutes, "quiet": {**quiet, "core %": percent}, **end, **whole}
    report.write("idle", figures)
    return 1 if end["requests"] or quiet["connections"] else 0  # the feed's connection lives on heartbeats


def _cost(proxy: CountingProxy, pid: int, during: Callable[[], None]) -> dict[str, float]:
    """What the process used while `during` ran."""
    before, cpu = proxy.counts(), resource_usage.cpu_seconds(pid)
    during()
    after = proxy.counts()
    spent = {"CPU s": round(resource_usage.cpu_seconds(pid) - cpu, 2)}
    return {name: after[name] - before[name] for name in after} | spent


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
