"""From `bd assign` to the agent's POST, warm, beside the floor: python -m tools.bench.latency [--samples N]

Each sample assigns one bead with the real bd at a random phase and stops two clocks, started when bd returns:

- floor: a bare binlog reader (this feed's library and nothing else, in a process of its own) has the transaction
- POST: the agent has the request

Compare the percentiles of the two, not sample by sample: Dolt polls its log for each reader at a phase of the reader's
own, so that within one sample the two may differ by up to 250 ms either way.

The stages are seen from outside but for the first, which the feeder records (tools.bench.instrumented_feeder): when it
read the transaction, when the router received its request, when the agent was asked for a free slot, the claim's date
in Dolt's log, when the POST arrived. `ours` is all that comes after Dolt's poll and the reading, which are the floor's
too: far less noisy than the difference of the two percentiles, of which each varies over 250 ms.

Polling is the cron job that this system replaces, by arithmetic: a bead waits evenly between 0 and 120 s, and then for
one pass of bd (ready, update) and a POST, which is measured here. Its pod's start is not counted.
"""

import contextlib
import json
import multiprocessing
import random
import statistics
import sys
import time
import urllib.request
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

from beads_dispatch import events, settings, store
from feeder import binlog
from tools import world
from tools.bench import instrumented_feeder, report
from tools.database import AGENT
from tools.servers import Agent
from tools.world import World

CRON_SECONDS = 120.0
DOLT_POLL_SECONDS = 0.25
_CRON_PASSES = 10
_PATIENCE_SECONDS = 30


@dataclass(frozen=True)
class Sample:
    """One bead's moments, seconds since the epoch, in the order in which they come."""

    returned: float  # bd assign ended
    read: float  # the feeder has the transaction
    requested: float  # the router has the feeder's dispatch.requested
    slot: float  # the agent was asked for a free slot: suspension and hold have been read
    claimed: float  # the claim's Dolt commit
    posted: float  # the agent has the POST
    floor: float  # the bare reader has the transaction


def stages(sample: Sample) -> dict[str, float]:
    """Milliseconds from one moment to the next; they add up to the time from `returned` to `posted`."""
    names = ("Dolt's poll, read", "check, request", "hop, suspension", "slot, claim", "commit, POST")
    moments = (sample.returned, sample.read, sample.requested, sample.slot, sample.claimed, sample.posted)
    return {name: (after - before) * 1000 for name, before, after in zip(names, moments, moments[1:], strict=False)}


def polling(pass_ms: float, cron_seconds: float = CRON_SECONDS) -> dict[str, float]:
    """Percentiles in ms of a wait that is even over the period, and then a pass."""
    return {
        name: round(percent * cron_seconds * 1000 + pass_ms)
        for name, percent in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
    }


def read_binlog(dolt: settings.DoltSettings, found: Connection) -> None:
    """The bare reader's process: sends each assigned bead's id and when its transaction came out of the binlog."""
    stream = binlog.Stream(dolt, binlog.Position(store.Store(dolt).feed_state.executed()))
    found.send(("", 0.0))
    with contextlib.suppress(binlog.StreamLost):
        for item in stream:
            now = time.time()
            for row in getattr(item, "rows", ()):
                if row.table == "issues" and row.after and row.after["assignee"] == AGENT:
                    found.send((row.after["id"], now))


class BareReader:
    """The process around `read_binlog`."""

    def __init__(self, dolt: settings.DoltSettings) -> None:
        context = multiprocessing.get_context("spawn")
        self._found, end = context.Pipe(duplex=False)
        self._process = context.Process(target=read_binlog, args=(dolt, end), daemon=True)
        self._process.start()
        self.when("")

    def when(self, bead: str) -> float:
        """When the bead's assignment came out of the binlog. Raises TimedOut."""
        while self._found.poll(_PATIENCE_SECONDS):
            name, moment = self._found.recv()
            if name == bead:
                return float(moment)
        raise world.TimedOut(f"the bare reader did not read {bead or 'anything'}")

    def close(self) -> None:
        self._process.kill()
        self._process.join()


class Sampler:
    """Takes samples, one by one, of a System that `environment` and `observe` are given to."""

    def __init__(self, here: World, agent: Agent, reader: BareReader) -> None:
        self._workspace = here.workspace
        self._agent = agent
        self._reader = reader
        self._feeder_clock = here.folder / "clock"
        self._requested: list[float] = []
        self.environment = {"MAX_IN_FLIGHT": str(world.MANY), "FEEDER_CLOCK": str(self._feeder_clock)}

    def observe(self, event: events.Event) -> None:
        if event.type == events.DISPATCH_REQUESTED:
            self._requested.append(time.time())

    def warm_up(self) -> None:
        """The first pass connects, the first event too."""
        for _ in range(2):
            self._agent.wait_for(self._workspace.create("warm up", "ok", "--assignee", AGENT), _PATIENCE_SECONDS)
            time.sleep(1)

    def sample(self) -> tuple[str, Sample]:
        """One bead; its `claimed` is filled in later, from Dolt's log."""
        bead = self._workspace.create("bead", "ok")
        time.sleep(0.3 + random.uniform(0, 2 * DOLT_POLL_SECONDS))  # past the create's own event, at any phase
        self._requested.clear()
        self._agent.asked.clear()
        known = len(self._feeder_clock.read_text().splitlines())
        self._workspace.run("assign", bead, AGENT)
        returned = time.time()
        posted = self._agent.wait_for(bead, _PATIENCE_SECONDS)
        floor = self._reader.when(bead)
        read = float(self._feeder_clock.read_text().splitlines()[known])
        return bead, Sample(returned, read, self._requested[0], self._agent.asked[0], 0.0, posted, floor)


def claim_dates(dolt: settings.DoltSettings) -> dict[str, float]:
    """When each bead's claim was committed, by Dolt's log."""
    with contextlib.closing(store.Store(dolt)) as beads:
        commits = beads.history.commits_between(beads.history.first_commit().hash, "HEAD")
    claims = [commit for commit in commits if commit.message.startswith(f"{store.DISPATCHER}: claim ")]
    return {commit.message.rsplit(" ", 1)[1]: commit.at.timestamp() for commit in claims}


def measure(number: int) -> tuple[list[Sample], list[float]]:
    """The samples, and the cron job's passes in ms."""
    with Agent() as agent, world.world() as here:
        taken = []
        with contextlib.closing(BareReader(here.dolt)) as reader:
            sampler = Sampler(here, agent, reader)
            with here.system(
                agent.url, environment=sampler.environment, observe=sampler.observe,
                feeder_module=instrumented_feeder.__name__,
            ):  # fmt: skip
                sampler.warm_up()
                for index in range(1, number + 1):
                    taken.append(sampler.sample())
                    if index % 25 == 0:
                        median = statistics.median(sample.posted - sample.returned for _, sample in taken)
                        print(f"{index} of {number}: POST p50 {median * 1000:.0f} ms", flush=True)
        print("the cron job's passes", flush=True)
        passes = [cron_pass(here, agent) for _ in range(_CRON_PASSES)]
        dates = claim_dates(here.dolt)
    return [replace(sample, claimed=dates[bead]) for bead, sample in taken], passes


def cron_pass(here: World, agent: Agent) -> float:
    """One pass of the old job, in ms: find a ready bead of the agent's, claim it, POST it."""
    workspace = here.workspace
    workspace.create("for the cron job", "ok", "--assignee", AGENT)
    started = time.monotonic()
    ready = json.loads(workspace.run("ready", "--assignee", AGENT, "--json"))
    workspace.run("update", ready[0]["id"], "--status", "in_progress", "--append-notes", "claimed")
    body = json.dumps({"taskId": ready[0]["id"]}).encode()
    urllib.request.urlopen(urllib.request.Request(f"{agent.url}/api/agent-dispatch", body), timeout=10).close()
    return (time.monotonic() - started) * 1000


def rows(samples: list[Sample]) -> dict[str, dict[str, float]]:
    """The figures: floor, POST, what is between them, and the stages."""
    floor = report.summary([(sample.floor - sample.returned) * 1000 for sample in samples])
    post = report.summary([(sample.posted - sample.returned) * 1000 for sample in samples])
    table = {"floor (binlog event)": floor, "POST received": post}
    table["above the floor"] = {name: round(post[name] - floor[name], 1) for name in ("p50", "p90", "p99", "max")}
    table["ours, after Dolt's poll"] = report.summary([(sample.posted - sample.read) * 1000 for sample in samples])
    parts = [stages(sample) for sample in samples]
    for name in parts[0]:
        table[f"  {name}"] = report.summary([part[name] for part in parts])
    return table


def main() -> int:
    samples, passes = measure(report.options(__doc__, samples=500).samples)
    figures, pass_ms = rows(samples), statistics.median(passes)
    report.table("bd assign returned to …, ms", figures)
    cron, ours = polling(pass_ms), figures["POST received"]
    times = {name: round(cron[name] / ours[name]) for name in cron}
    report.table(
        f"polling every {CRON_SECONDS:.0f} s instead (a pass: {pass_ms:.0f} ms), ms",
        {"the cron job": cron, "times ours": times},
    )
    report.write("latency", {"unit": "ms", **figures, "polling": {"pass": round(pass_ms), **cron}, "times": times})
    return 0


if __name__ == "__main__":
    sys.exit(main())
