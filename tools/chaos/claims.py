"""One POST per claim: many dispatchers, an agent service that answers in every way, and people who take beads."""

import collections
import contextlib
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

from beads_dispatch import dispatcher, log, notes, outcomes, reaper, settings, store
from beads_dispatch.agents import beadboard
from beads_dispatch.cli import verify
from beads_dispatch.store import bead_change
from tools.chaos import binlog_recorder, mutants, report, world
from tools.chaos.report import Check
from tools.chaos.servers import Agent
from tools.chaos.world import World

PART = "claims"

# How the agent service answers a POST, and how often.
ANSWERS = {"ok": 62, "slow": 20, "cut": 6, "half": 2, "409": 3, "500": 3, "400": 4}
# A Dolt commit is dated when it begins, and beside other writers it takes a while until others see it.
_TOLERANCE_SECONDS = 2.0
_PATIENCE_SECONDS = 180  # no POST for so long, and dispatchers still run: something hangs


@dataclass(frozen=True)
class Size:
    dispatchers: int
    beads: int
    kills: int  # of dispatchers, each followed by a new one
    people: float  # beads that somebody takes, a second


SHORT = Size(dispatchers=4, beads=60, kills=2, people=4.0)
FULL = Size(dispatchers=16, beads=1000, kills=40, people=4.0)


def run(here: World, chance: random.Random, *, short: bool) -> Iterator[Check]:
    yield from competing(here, chance, SHORT if short else FULL)
    yield merged(here, 10 if short else 100)


def competing(here: World, chance: random.Random, size: Size) -> Iterator[Check]:
    """Many dispatchers on the same beads, some of them killed, while people take beads."""
    here.empty()
    names = [f"c-{number:04}" for number in range(size.beads)]
    here.add(names)
    answers = random.Random(chance.random())
    agent = Agent(lambda bead: answers.choices(list(ANSWERS), list(ANSWERS.values()))[0])
    began = time.monotonic()
    taken: list[str] = []
    stop = threading.Event()
    people = threading.Thread(target=_take, args=(here, chance, size.people, taken, stop), daemon=True)
    people.start()
    try:
        passes = _compete(here, agent, chance, size)
    finally:
        stop.set()
        people.join()
    _settle(here, agent)
    seconds = time.monotonic() - began
    history = list(verify.versions(here.dolt, here.began))
    verdict = verify.judge(history, verify.written_by_others(here.dolt))
    agent.close()
    ends = ", ".join(f"{number} {end}" for end, number in sorted(verdict.ends().items(), key=lambda item: -item[1]))
    yield report.check(
        PART, f"{size.dispatchers} dispatchers ({size.kills} killed) on {size.beads} beads, every claim in history",
        f"{len(verdict.claims)} claims: {ends}; {seconds:.0f} s, {passes['LostRace']} lost races,"
        f" {passes['Withdrawn']} withdrawn", verdict.broken,
    )  # fmt: skip
    yield _posts(agent, verdict, history, size, taken)
    unsettled = [row["id"] for row in here.sql("SELECT id FROM issues WHERE status = 'open' AND assignee = 'agent'")]
    yield report.check(PART, "beads still waiting at the end", str(len(unsettled)), unsettled)


def merged(here: World, beads: int) -> Check:
    """Somebody assigns every other bead to herself in the middle of the transaction that claims it. Dolt merges the two
    (the same second, no row_lock): such a claim is taken back and nothing is sent."""
    here.empty()
    names = [f"m-{number:03}" for number in range(beads)]
    theirs = set(names[::2])
    here.add(names)
    agent = Agent()
    one = here.dispatcher(agent.url)
    event = bead_change.BeadChange.audit

    def event_and_somebody_assigns(
        self: Any, bead: str, note: str, now: datetime, statuses: tuple[str, str] | None = None
    ) -> None:
        event(self, bead, note, now, statuses)
        if bead in theirs and note == notes.claimed(now):
            second = now.replace(tzinfo=None, microsecond=0)
            here.sql("UPDATE issues SET assignee = 'bob', updated_at = %s WHERE id = %s", second, bead)

    try:
        with (
            mock.patch.object(bead_change.BeadChange, "audit", event_and_somebody_assigns),
            binlog_recorder.Witness(here.dolt) as watching,
        ):
            one.run_once()
            found = binlog_recorder.merged_claims(watching.transactions(), world.SENTINEL)
    finally:
        one.store.close()
        agent.close()
    posted = agent.times()
    broken = [f"{bead} is bob's and was POSTed" for bead in sorted(theirs & posted.keys())]
    broken += [f"{bead} was not POSTed once" for bead in names if bead not in theirs and posted[bead] != 1]
    rows = here.sql("SELECT id, assignee, status FROM issues")
    broken += [
        f"{row['id']} is {row['status']} and {row['assignee']}'s"
        for row in rows
        if row["id"] in theirs and (row["assignee"], row["status"]) != ("bob", "open")
    ]
    broken += [] if found == len(theirs) else [f"only {found} of {len(theirs)} were merged"]
    figures = f"{found} claims merged with an assignment, {len(theirs & posted.keys())} of them POSTed"
    return report.check(PART, "a person's change in the middle of the claim", figures, broken)


def _posts(agent: Agent, verdict: verify.Verdict, history: list[verify.Version], size: Size, taken: list[str]) -> Check:
    """The agent service's own count against the claims in Dolt's history."""
    claims = collections.Counter(claim.bead for claim in verdict.claims)
    posts, jobs = agent.times(), collections.Counter(bead for _, bead in agent.accepted)
    broken = [f"{bead}: {n} POSTs and {claims[bead]} claims" for bead, n in posts.items() if n > claims[bead]]
    broken += [f"{bead}: {n} jobs" for bead, n in jobs.items() if n > 1]
    broken += verify.posts_not_ours(history, agent.posts, world.SENTINEL, _TOLERANCE_SECONDS)
    recorded = {claim.bead for claim in verdict.claims if claim.jobs}
    broken += [f"{bead}: a job in history and none at the agent service" for bead in recorded - set(jobs)]
    figures = (
        f"{len(agent.posts)} POSTs, {sum(jobs.values())} jobs, {sum(n > 1 for n in jobs.values())} beads with two,"
        f" {len(taken)} beads taken by people meanwhile"
    )
    return report.check(PART, "POSTs at the agent service against claims in history", figures, broken)


def work(dolt: settings.DoltSettings, url: str, ahead: Any, journal: pathlib.Path, flaw: str) -> None:
    """One dispatcher process: passes until nothing is left. Holds and retry times are waited for by moving the clock
    that all share, `ahead` seconds from the machine's."""
    log.configure("chaos", level="CRITICAL")
    with mutants.flawed(flaw):
        _work(dolt, url, ahead, journal)


def _work(dolt: settings.DoltSettings, url: str, ahead: Any, journal: pathlib.Path) -> None:
    def clock() -> datetime:
        return datetime.now(UTC) + timedelta(seconds=ahead.value)

    limits = settings.DispatchLimits(max_in_flight=10**6)
    service = beadboard.BeadBoard(settings.AgentSettings(url, f"{url}/health", 5.0))
    passes = dispatcher.Dispatcher(store.Store(dolt), service, limits, clock, time.sleep)
    while True:
        try:
            found = passes.run_once()
        except store.StoreError:
            continue
        with journal.open("a") as lines:
            lines.write("".join(f"{type(outcome).__name__}\n" for outcome in found))
        match found[-1]:
            case outcomes.Held(until, _):
                ahead.value = max(ahead.value, (until - datetime.now(UTC)).total_seconds())
            case outcomes.NothingEligible() if len(found) == 1:
                return


def _compete(here: World, agent: Agent, chance: random.Random, size: Size) -> collections.Counter[str]:
    """Run the dispatchers, kill some of them, and count their outcomes."""
    context = multiprocessing.get_context("spawn")
    # No lock and no queue between them: one that is killed while it holds such a thing stops all others.
    ahead = context.RawValue("d", 0.0)
    journal = here.log("outcomes")
    journal.parent.mkdir(exist_ok=True)

    def start() -> Any:
        worker = context.Process(target=work, args=(here.dolt, agent.url, ahead, journal, here.flaw))
        worker.start()
        return worker

    workers = [start() for _ in range(size.dispatchers)]
    try:
        kills, said, moved = 0, 0, time.monotonic()
        seen: tuple[int, int] | None = None
        while alive := [number for number, worker in enumerate(workers) if worker.is_alive()]:
            time.sleep(0.2)
            posted = len(agent.posts)
            if kills < size.kills and posted > (kills + 1) * size.beads / (size.kills + 2):
                victim = chance.choice(alive)
                workers[victim].kill()
                workers[victim].join()
                kills += 1
                workers[victim] = start()
            if posted >= said + 200:
                said = posted
                report.say(f"{PART}: {posted} POSTs, {kills} dispatchers killed")
            if seen != (posted, len(alive)):
                seen, moved = (posted, len(alive)), time.monotonic()
            if time.monotonic() - moved > _PATIENCE_SECONDS:
                raise world.Late(f"{len(alive)} dispatchers run, and no POST came for {_PATIENCE_SECONDS} s")
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    return collections.Counter(journal.read_text().split())


def _settle(here: World, agent: Agent) -> None:
    """What the killed ones left: ticks of both kinds on a clock that is moved, for two hours."""
    clock = world.Clock(datetime.now(UTC) + timedelta(hours=3))
    agent.behave = lambda bead: "ok"
    with contextlib.closing(store.Store(here.dolt)) as beads:
        one = here.dispatcher(agent.url, clock)
        for _ in range(6):
            reaper.run_once(beads, settings.DispatchLimits(reap_after_minutes=10**6), clock())
            one.run_once()
            clock.sleep(1300)
        one.store.close()


def _take(here: World, chance: random.Random, a_second: float, taken: list[str], stop: threading.Event) -> None:
    """Somebody takes beads or closes them, with plain SQL and a Dolt commit: those at the head of the queue, which are
    being claimed at that moment. Plain SQL writes no row_lock, so Dolt merges an assignment with a claim."""
    while not stop.wait(1 / a_second):
        sets = chance.choice(["assignee = 'bob'", "assignee = 'bob'", "assignee = 'bob'", "status = 'closed'"])
        with contextlib.suppress(pymysql.Error):
            connection = store.connect(here.dolt)
            with contextlib.closing(connection), connection.cursor() as cursor:
                connection.begin()
                cursor.execute(
                    "SELECT id FROM issues WHERE status = 'open' AND assignee = %s"
                    " ORDER BY priority, updated_at, id LIMIT 4",
                    (world.SENTINEL,),
                )
                bead = chance.choice([row[0] for row in cursor.fetchall()] or [""])
                if cursor.execute(f"UPDATE issues SET {sets} WHERE id = %s AND status = 'open'", (bead,)):
                    cursor.execute("CALL DOLT_COMMIT('-Am', %s, '--author', 'bob <bob@localhost>')", (f"bob {bead}",))
                    taken.append(bead)
                connection.commit()
