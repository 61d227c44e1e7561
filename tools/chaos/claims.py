"""One POST per claim: many dispatchers, an agent that answers in every way, and people who take beads."""

import collections
import contextlib
import functools
import multiprocessing
import pathlib
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import pymysql

from beads_dispatch import log, notes, outcomes, reaper, settings, store
from beads_dispatch.cli import verify
from beads_dispatch.store.bead_change import BeadChange
from tools import world
from tools.chaos import binlog_recorder, checks, dispatchers, history, mutants
from tools.chaos.checks import Check
from tools.database import AGENT
from tools.servers import HALF_A_JOB, Agent, answers, hangs_up, job, slow_job
from tools.world import SimulatedClock, World, meanwhile

check = functools.partial(checks.check, "claims")

# How the agent answers a POST, and how often.
ANSWERS = {
    job: 62, slow_job: 20, hangs_up: 6, HALF_A_JOB: 2, answers(409): 3, answers(500): 3, answers(400): 4,
}  # fmt: skip
# A Dolt commit is dated when it begins, and beside other writers it takes a while until others see it.
_TOLERANCE_SECONDS = 2.0


@dataclass(frozen=True)
class Competition:
    dispatchers: int
    beads: int
    kills: int  # of dispatchers, each followed by a new one
    taken_a_second: float = 4.0  # beads that people take


SHORT = Competition(dispatchers=4, beads=60, kills=2)
FULL = Competition(dispatchers=16, beads=1000, kills=40)


def run(here: World, chance: random.Random, *, short: bool) -> Iterator[Check]:
    yield from competing(here, chance, SHORT if short else FULL)
    yield merged(here, 10 if short else 100)


def competing(here: World, chance: random.Random, size: Competition) -> Iterator[Check]:
    """Many dispatchers on the same beads, some of them killed, while people take beads."""
    here.empty()
    here.add([f"c-{number:04}" for number in range(size.beads)])
    choice = random.Random(chance.random())
    began = time.monotonic()
    taken: list[str] = []
    with Agent() as agent:
        agent.choose = lambda bead: choice.choices(list(ANSWERS), list(ANSWERS.values()))[0]
        with meanwhile(functools.partial(_take, here, chance, size.taken_a_second, taken)):
            passes = _compete(here, agent, chance, size)
        _settle(here, agent)
    seconds = time.monotonic() - began
    verdict = history.verdict(here)
    yield check(
        f"{size.dispatchers} dispatchers ({size.kills} killed) on {size.beads} beads, every claim in history",
        f"{history.in_words(verdict, passes)}; {seconds:.0f} s",
        verdict.broken,
    )
    yield _posts(here, agent, verdict, taken)
    left = [bead for bead, row in here.rows().items() if (row["status"], row["assignee"]) == ("open", AGENT)]
    yield check("beads still in the queue at the end", str(len(left)), left)


def merged(here: World, beads: int) -> Check:
    """Somebody assigns every other bead to bob in the middle of the transaction that claims it. Dolt merges the two
    (the same second, no row_lock): such a claim is withdrawn and nothing is sent."""
    here.empty()
    names = [f"m-{number:03}" for number in range(beads)]
    theirs = set(names[::2])
    here.add(names)
    audit = BeadChange.audit

    def audit_and_assign(
        self: BeadChange, bead: str, note: str, now: datetime, statuses: tuple[str, str] | None = None
    ) -> None:
        audit(self, bead, note, now, statuses)
        if bead in theirs and note == notes.claimed(now):
            second = now.replace(tzinfo=None, microsecond=0)
            here.sql("UPDATE issues SET assignee = 'bob', updated_at = %s WHERE id = %s", second, bead)

    with (
        Agent() as agent,
        world.dispatcher(here.dolt, agent.url) as dispatcher,
        mock.patch.object(BeadChange, "audit", audit_and_assign),
        binlog_recorder.BinlogRecorder(here.dolt) as recorder,
    ):
        dispatcher.run_once()
        found = binlog_recorder.merged_claims(recorder.transactions(), AGENT)
    posted = collections.Counter(agent.posts)
    broken = [f"{bead} is bob's and was POSTed" for bead in sorted(theirs & posted.keys())]
    broken += [f"{bead} was not POSTed once" for bead in names if bead not in theirs and posted[bead] != 1]
    broken += [
        f"{bead} is {row['status']} and {row['assignee']}'s"
        for bead, row in here.rows().items()
        if bead in theirs and (row["assignee"], row["status"]) != ("bob", "open")
    ]
    broken += [] if found == len(theirs) else [f"only {found} of {len(theirs)} were merged"]
    figures = f"{found} claims merged with an assignment, {len(theirs & posted.keys())} of them POSTed"
    return check("a person's change in the middle of the claim", figures, broken)


def _posts(here: World, agent: Agent, verdict: verify.Verdict, taken: list[str]) -> Check:
    """The agent's own count against the claims in Dolt's history."""
    broken = history.wrong_posts(here, agent, verdict, _TOLERANCE_SECONDS)
    broken += [f"{bead}: {n} jobs" for bead, n in agent.jobs.items() if n > 1]
    recorded = {claim.bead for claim in verdict.claims if claim.jobs}
    broken += [f"{bead}: a job in history and none at the agent" for bead in recorded if not agent.jobs[bead]]
    figures = (
        f"{len(agent.posts)} POSTs, {agent.jobs.total()} jobs, {sum(n > 1 for n in agent.jobs.values())} beads with"
        f" two, {len(taken)} beads taken by people meanwhile"
    )
    return check("POSTs at the agent against claims in history", figures, broken)


def work(dolt: settings.DoltSettings, url: str, ahead: Any, journal: pathlib.Path, mutant: str) -> None:
    """One dispatcher process: passes until nothing is left. Holds and retry delays are skipped by moving the clock that
    all share, `ahead` seconds from the machine's."""
    log.configure("chaos", level="CRITICAL")

    def clock() -> datetime:
        return datetime.now(UTC) + timedelta(seconds=ahead.value)

    with mutants.mutated(mutant), world.dispatcher(dolt, url, clock) as dispatcher:
        while True:
            try:
                found = dispatcher.run_once()
            except store.StoreError:
                continue
            with journal.open("a") as lines:
                lines.write("".join(f"{type(outcome).__name__}\n" for outcome in found))
            match found[-1]:
                case outcomes.Held(until, _):
                    ahead.value = max(ahead.value, (until - datetime.now(UTC)).total_seconds())
                case outcomes.NothingEligible() if len(found) == 1:
                    return


def _compete(here: World, agent: Agent, chance: random.Random, size: Competition) -> collections.Counter[str]:
    """Run the dispatchers, kill some of them, and count their outcomes."""
    context = multiprocessing.get_context("spawn")
    # No lock and no queue between them: one that is killed while it holds such a thing stops all others.
    ahead = context.RawValue("d", 0.0)
    journal = here.log("outcomes")
    journal.parent.mkdir(exist_ok=True)

    def start() -> Any:
        worker = context.Process(target=work, args=(here.dolt, agent.url, ahead, journal, mutants.active()))
        worker.start()
        return worker

    workers = [start() for _ in range(size.dispatchers)]
    kills, shown, patience = 0, 0, dispatchers.Patience()
    with dispatchers.killed(workers):
        while alive := [number for number, worker in enumerate(workers) if worker.is_alive()]:
            time.sleep(0.2)
            posted = len(agent.received)
            if kills < size.kills and posted > (kills + 1) * size.beads / (size.kills + 2):
                victim = chance.choice(alive)
                workers[victim].kill()
                workers[victim].join()
                kills += 1
                workers[victim] = start()
            if posted // 200 > shown // 200:
                checks.progress(f"claims: {posted} POSTs, {kills} dispatchers killed")
            shown = posted
            patience.look((posted, len(alive)), f"{len(alive)} dispatchers run, and no POST came")
    return collections.Counter(journal.read_text().split())


def _settle(here: World, agent: Agent) -> None:
    """Settle what the killed dispatchers left: ticks of both kinds on a simulated clock, for two hours."""
    clock = SimulatedClock(datetime.now(UTC) + timedelta(hours=3))
    agent.choose = lambda bead: job
    with world.dispatcher(here.dolt, agent.url, clock) as dispatcher:
        for _ in range(6):
            reaper.run_once(dispatcher.store, settings.DispatchLimits(reap_after_minutes=10**6), clock())
            dispatcher.run_once()
            clock.sleep(1300)


def _take(here: World, chance: random.Random, a_second: float, taken: list[str], stop: threading.Event) -> None:
    """Somebody takes beads or closes them, with plain SQL and a Dolt commit: those at the head of the queue, which are
    being claimed at that moment. Plain SQL writes no row_lock, so Dolt merges an assignment with a claim."""
    while not stop.wait(1 / a_second):
        sets = chance.choice(["assignee = 'bob'", "assignee = 'bob'", "assignee = 'bob'", "status = 'closed'"])
        with contextlib.suppress(pymysql.Error), here.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute(
                "SELECT id FROM issues WHERE status = 'open' AND assignee = %s"
                " ORDER BY priority, updated_at, id LIMIT 4",
                (AGENT,),
            )
            bead = chance.choice([row["id"] for row in cursor.fetchall()] or [""])
            if cursor.execute(f"UPDATE issues SET {sets} WHERE id = %s AND status = 'open'", (bead,)):
                cursor.execute("CALL DOLT_COMMIT('-Am', %s, '--author', 'bob <bob@localhost>')", (f"bob {bead}",))
                taken.append(bead)
            cursor.execute("COMMIT")
