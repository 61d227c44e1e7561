"""People use bd on the very beads that are being dispatched: nothing of theirs is undone, nothing of ours is lost."""

import collections
import contextlib
import json
import random
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from beads_dispatch import reaper, settings, store
from beads_dispatch.bead import DispatchRecord
from beads_dispatch.cli import verify
from beads_dispatch.outcomes import Dispatched, Outcome
from feeder.changes import Transaction
from local.workspace import BdError
from tools.chaos import binlog_recorder, report, world
from tools.chaos.report import Check
from tools.chaos.servers import Agent
from tools.chaos.world import World

PART = "people"
_TOLERANCE_SECONDS = 3.0  # a Dolt commit is dated when it begins, and takes long beside others


def run(here: World, chance: random.Random, *, short: bool, closing: float = 0.3) -> Iterator[Check]:
    """`closing`: the share of jobs whose agent has closed its bead before the job is recorded."""
    seconds, people, beads = (12, 2, 6) if short else (180, 4, 16)
    here.empty()
    names = [f"h-{number:02}" for number in range(beads)]
    here.add(names)
    agent = Agent(slow_seconds=0.1)
    fast = random.Random(chance.random())

    def work(bead: str) -> None:
        if fast.random() < closing:
            with contextlib.suppress(BdError):
                here.workspace.run("close", bead, "--force", actor="agent")

    agent.on_post = work
    stop = threading.Event()
    done: collections.Counter[str] = collections.Counter()
    outcomes: list[Outcome] = []
    threads = [
        threading.Thread(target=_person, args=(here, random.Random(chance.random()), names, done, stop))
        for _ in range(people)
    ]
    threads.append(threading.Thread(target=_dispatch, args=(here, agent, outcomes, stop)))
    with binlog_recorder.Witness(here.dolt) as watching:
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        stop.set()
        for thread in threads:
            thread.join()
        transactions = watching.transactions()
    agent.close()
    history = list(verify.versions(here.dolt, here.began))
    verdict = verify.judge(history, verify.written_by_others(here.dolt))
    ends = ", ".join(f"{number} {end}" for end, number in sorted(verdict.ends().items()))
    kinds = collections.Counter(type(outcome).__name__ for outcome in outcomes)
    commands = sum(done.values()) - done["refused"]
    yield report.check(
        PART, "claims, in Dolt's history",
        f"{commands} bd commands by {people} people ({done['refused']} refused by bd),"
        f" {len(verdict.claims)} claims: {ends}; {kinds['LostRace']} lost races, {kinds['Withdrawn']} withdrawn",
        verdict.broken,
    )  # fmt: skip
    late = verify.posts_not_ours(history, agent.posts, world.SENTINEL, _TOLERANCE_SECONDS)
    doubled = [bead for bead, number in agent.times().items() if number > sum(c.bead == bead for c in verdict.claims)]
    yield report.check(
        PART, "POSTs for beads that people had taken", f"{len(late)} of {len(agent.posts)}", late + doubled
    )
    yield _untouched(transactions)
    yield _kept(here, outcomes)


def _person(
    here: World, chance: random.Random, names: list[str], done: collections.Counter[str], stop: threading.Event
) -> None:
    """One bd command after the other; most of them give beads to the agent again."""
    while not stop.is_set():
        bead = chance.choice(names)
        command = chance.choice(
            [
                ("note", bead, f"a note at {time.time_ns()}"), ("assign", bead, chance.choice(["alice", "bob"])),
                ("update", bead, "--status", "blocked"), ("update", bead, "--status", "open"),
                ("close", bead, "--force"), ("update", bead, "--defer", "+1h"), ("update", bead, "--defer", ""),
                ("reopen", bead),
                ("update", bead, "--assignee", "agent", "--status", "open"), ("assign", bead, "agent"),
                ("update", bead, "--assignee", "agent", "--status", "open"),
            ]
        )  # fmt: skip
        try:
            here.workspace.run(*command, actor="person")
            done[command[0]] += 1
        except BdError:
            done["refused"] += 1


def _dispatch(here: World, agent: Agent, outcomes: list[Outcome], stop: threading.Event) -> None:
    one = here.dispatcher(agent.url)
    while not stop.is_set():
        outcomes += one.run_once()[:-1]
        reaper.run_once(one.store, settings.DispatchLimits(), datetime.now(UTC))
        time.sleep(0.05)
    one.store.close()


def _untouched(transactions: list[Transaction]) -> Check:
    """What people wrote stays, transaction by transaction."""
    ours = sum(1 for _ in binlog_recorder.of_ours(transactions))
    broken = binlog_recorder.breaches(transactions)
    merged = binlog_recorder.merged_claims(transactions, world.SENTINEL)
    figures = f"{len(broken)} in {ours} changes of ours; {merged} claims merged with a person's change and withdrawn"
    return report.check(PART, "closed beads opened, assignees changed, notes cut by us", figures, broken)


def _kept(here: World, outcomes: list[Outcome]) -> Check:
    """Every job is in the audit trail; the newest job of each bead in its metadata. `bd note` may take it from the
    notes: it writes the whole column from what it has read before."""
    comments = {row["comment"] for row in here.sql("SELECT comment FROM events WHERE actor IN %s", store.OURS)}
    newest: dict[str, str] = {}
    lost, gone, jobs = [], 0, 0
    for outcome in outcomes:
        bead = getattr(outcome, "bead", None)
        if bead is not None and type(outcome).__name__ != "LostRace":
            newest.pop(bead.id, None)
        if isinstance(outcome, Dispatched):
            jobs += 1
            newest[outcome.bead.id] = outcome.job
            if f"dispatched: job={outcome.job}" not in comments:
                lost.append(f"{outcome.bead.id}: {outcome.job} is not in the events table")
            gone += f"dispatched: job={outcome.job}" not in here.row(outcome.bead.id)["notes"]
    for name, job in newest.items():
        record = DispatchRecord.from_metadata(json.loads(here.row(name)["metadata"] or "{}"))
        if record.job != job:
            lost.append(f"{name}: {job} is not in metadata")
    figures = f"{jobs} jobs: 0 missing in events, 0 in metadata; {gone} lines gone from notes (bd note rewrites them)"
    return report.check(PART, "our notes beside theirs", figures if not lost else f"{len(lost)} lost", lost)
