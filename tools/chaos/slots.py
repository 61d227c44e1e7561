"""max_in_flight is exact: many dispatchers, and never more jobs at once by the agent service's own log."""

import contextlib
import functools
import json
import multiprocessing
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pymysql

from beads_dispatch import agents, log, outcomes, settings, store
from beads_dispatch.dispatcher import Dispatcher
from tools import world
from tools.chaos import checks, dispatchers, mutants
from tools.chaos.checks import Check
from tools.database import AGENT
from tools.servers import Handler, HttpServer, hangs_up
from tools.world import World

check = functools.partial(checks.check, "slots")

LIMITS = (1, 3, 10)
COUNTS, COUNTS_NOT = "claude-agent-service", "beadboard"  # backends, by whether they are asked how many jobs run
_LOST = 0.04  # of the answers
_WAIT_SECONDS = 30.0  # then a check says that the limit was not tried


@dataclass(frozen=True)
class Size:
    dispatchers: int
    beads: int


SHORT = Size(dispatchers=3, beads=30)
FULL = Size(dispatchers=16, beads=300)


def run(here: World, chance: random.Random, *, short: bool) -> Iterator[Check]:
    size = SHORT if short else FULL
    for limit in LIMITS:
        # With few slots, fewer beads: the jobs come one after the other.
        yield kept(here, chance, replace(size, beads=min(size.beads, 150 * limit)), limit, COUNTS)
    yield kept(here, chance, size, LIMITS[1], COUNTS_NOT)


class Service(HttpServer):
    """claude-agent-service, or BeadBoard without it. Logs the start and the end of each job.

    A POST takes a while to become a job, some answers are lost, and each job closes its bead. Where the service counts,
    the job ends after its bead, as an agent's process does. No job ends before `limit` have run at once, however slow
    the machine is.
    """

    def __init__(self, here: World, chance: random.Random, seconds: float, limit: int) -> None:
        self.log: list[tuple[str, int]] = []  # bead, and 1 at its job's start or -1 at its end, in order
        self.lost = 0
        self._here, self._chance, self._seconds, self._limit = here, chance, seconds, limit
        self._reached = threading.Event()
        self._lock = threading.Lock()
        super().__init__(lambda handler: None)

    def running(self) -> int:
        with self._lock:
            return sum(change for _, change in self.log)

    def most(self) -> int:
        """How many jobs ran at once, at most."""
        running = most = 0
        for _, change in list(self.log):
            running += change
            most = max(most, running)
        return most

    def get(self, handler: Handler) -> None:
        counts = {"status": "ok", "active": self.running(), "queued": 0, "capacity": 99}
        found = {"/health": counts, "/api/agent-status": {"busy": False}}.get(handler.path)
        handler.answer(200 if found else 404, json.dumps(found).encode())

    def post(self, handler: Handler) -> None:
        request = json.loads(handler.body())
        counts = handler.path == "/execute"
        bead = request["metadata"]["bead"] if counts else request["taskId"]
        with self._lock:
            before, seconds, lost = self._chance.uniform(0, 0.1), self._chance.uniform(0.5, 1.5), self._chance.random()
        time.sleep(before)
        self._write(bead, 1)
        threading.Thread(target=self._work, args=(bead, seconds * self._seconds, counts), daemon=True).start()
        if lost < _LOST:
            self.lost += 1
            return hangs_up(handler)
        handler.answer(202 if counts else 200, json.dumps({"job_id": f"job-{bead}"}).encode())

    def _work(self, bead: str, seconds: float, counts: bool) -> None:
        self._reached.wait(_WAIT_SECONDS)
        time.sleep(seconds)
        if not counts:
            self._write(bead, -1)
        self._close(bead)
        if counts:
            time.sleep(seconds / 10)
            self._write(bead, -1)

    def _write(self, bead: str, change: int) -> None:
        with self._lock:
            self.log.append((bead, change))
        if self.running() >= self._limit:
            self._reached.set()

    def _close(self, bead: str) -> None:
        while True:
            # Dispatch may write the job on the bead at that moment: whoever is second starts again.
            with contextlib.suppress(pymysql.OperationalError):
                self._here.sql(
                    "UPDATE issues SET status = 'closed', row_lock = %s WHERE id = %s", secrets.randbits(62), bead
                )
                return


def kept(here: World, chance: random.Random, size: Size, limit: int, backend: str) -> Check:
    """The dispatchers on all beads, with that limit."""
    here.empty()
    names = [f"s-{number:03}" for number in range(size.beads)]
    here.add(names)
    began = time.monotonic()
    with Service(here, random.Random(chance.random()), 0.1 * limit, limit) as service:
        _compete(here, service, size, limit, backend)
        with contextlib.suppress(world.TimedOut):  # then a check below says which
            world.wait_for(lambda: not service.running() and not open_beads(here), "the end of the last jobs", 60)
    most = service.most()
    jobs = Counter(bead for bead, change in service.log if change == 1)
    broken = [f"{most} jobs at once"] if most > limit else []
    broken += [f"never more than {most} jobs at once: it was not tried"] if most < limit else []
    broken += [f"{bead}: {jobs[bead]} jobs" for bead in names if jobs[bead] != 1]
    broken += [f"{bead} is {status}" for bead, status in open_beads(here).items()]
    how = "the service counts" if backend == COUNTS else "our claims count"
    figures = (
        f"{jobs.total()} jobs, at most {most} at once, {service.lost} answers lost; {time.monotonic() - began:.0f} s"
    )
    name = f"max_in_flight {limit}, {size.dispatchers} dispatchers on {size.beads} beads, {how}"
    return check(name, figures, broken)


def open_beads(here: World) -> dict[str, str]:
    """The beads that are not closed, and their status."""
    return {bead: row["status"] for bead, row in here.rows().items() if row["status"] != "closed"}


def work(dolt: settings.DoltSettings, url: str, backend: str, limit: int, mutant: str) -> None:
    """One dispatcher process: passes until nothing is left. A lost answer's hold is lifted, as a person may do."""
    log.configure("chaos", level="CRITICAL")
    agent = agents.backend(settings.AgentSettings(url, backend=backend, timeout_seconds=30, name=AGENT))
    limits = settings.DispatchLimits(max_in_flight=limit)
    with mutants.mutated(mutant), contextlib.closing(store.Store(dolt)) as beads:
        dispatcher = Dispatcher(beads, agent, limits, lambda: datetime.now(UTC), time.sleep)
        for number in range(10**6):
            try:
                # Every other one waits for the slot, as after a bead's end.
                last = dispatcher.run_once(slot_freed=number % 2 == 1)[-1]
                if isinstance(last, outcomes.Held):
                    beads.control.set_hold(AGENT, beads.control.hold(AGENT), store.Hold())
            except store.StoreError:
                continue
            if isinstance(last, outcomes.NothingEligible):
                return


def _compete(here: World, service: Service, size: Size, limit: int, backend: str) -> None:
    context = multiprocessing.get_context("spawn")
    arguments = (here.dolt, service.url, backend, limit, mutants.active())
    workers = [context.Process(target=work, args=arguments) for _ in range(size.dispatchers)]
    for worker in workers:
        worker.start()
    patience = dispatchers.Patience()
    with dispatchers.killed(workers):
        while any(worker.is_alive() for worker in workers):
            time.sleep(0.1)
            patience.look(len(service.log), "no job began or ended")
