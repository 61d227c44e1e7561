"""People use bd on the very beads that are being dispatched: nothing of theirs is undone, nothing of ours is lost."""

import collections
import contextlib
import functools
import json
import random
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from beads_dispatch import notes, reaper, settings, store
from beads_dispatch.bead import DispatchRecord
from beads_dispatch.outcomes import Dispatched, LostRace, Outcome
from feeder.changes import Transaction
from local.workspace import BdError
from tools import world
from tools.chaos import binlog_recorder, checks, history
from tools.chaos.checks import Check
from tools.database import AGENT
from tools.servers import Agent
from tools.world import World, meanwhile

check = functools.partial(checks.check, "concurrent_edits")

_TOLERANCE_SECONDS = 3.0  # a Dolt commit is dated when it begins, and takes long beside others


def run(here: World, chance: random.Random, *, short: bool, closing: float = 0.3) -> Iterator[Check]:
    """`closing`: the share of jobs whose agent has closed its bead before the job is recorded."""
    seconds, people, beads = (12, 2, 6) if short else (180, 4, 16)
    here.empty()
    names = [f"h-{number:02}" for number in range(beads)]
    here.add(names)
    fast = random.Random(chance.random())

    def work(bead: str) -> None:
        if fast.random() < closing:
            with contextlib.suppress(BdError):
                here.workspace.run("close", bead, "--force", actor=AGENT)

    done: collections.Counter[str] = collections.Counter()
    outcomes: list[Outcome] = []
    with Agent(on_post=work) as agent, binlog_recorder.BinlogRecorder(here.dolt) as recorder:
        editing = [functools.partial(_edit, here, random.Random(chance.random()), names, done) for _ in range(people)]
        with meanwhile(functools.partial(_dispatch, here, agent, outcomes), *editing):
            time.sleep(seconds)
        transactions = recorder.transactions()
    merged = binlog_recorder.merged_claims(transactions, AGENT)
    yield from _claims(here, agent, outcomes, f"{done.total()} bd commands by {people} people", merged)
    yield _untouched(transactions, merged)
    yield _kept(here, outcomes)


def _edit(
    here: World, chance: random.Random, names: list[str], done: collections.Counter[str], stop: threading.Event
) -> None:
    """One bd command after the other; most of them assign beads to the agent again."""
    while not stop.is_set():
        bead = chance.choice(names)
        command = chance.choice(
            [
                ("note", bead, f"a note at {time.time_ns()}"), ("assign", bead, chance.choice(["alice", "bob"])),
                ("update", bead, "--status", "blocked"), ("update", bead, "--status", "open"),
                ("close", bead, "--force"), ("update", bead, "--defer", "+1h"), ("update", bead, "--defer", ""),
                ("reopen", bead),
                ("update", bead, "--assignee", AGENT, "--status", "open"), ("assign", bead, AGENT),
                ("update", bead, "--assignee", AGENT, "--status", "open"),
            ]
        )  # fmt: skip
        with contextlib.suppress(BdError):  # refused, as closing what is closed
            here.workspace.run(*command, actor="person")
            done[command[0]] += 1


def _dispatch(here: World, agent: Agent, outcomes: list[Outcome], stop: threading.Event) -> None:
    with world.dispatcher(here.dolt, agent.url) as dispatcher:
        while not stop.is_set():
            outcomes += dispatcher.run_once()[:-1]
            reaper.run_once(dispatcher.store, settings.DispatchLimits(), datetime.now(UTC))
            time.sleep(0.05)


def _claims(here: World, agent: Agent, outcomes: list[Outcome], edits: str, merged: int) -> Iterator[Check]:
    """The claims in Dolt's history, and the agent's POSTs against them.

    `merged`: how many claims were merged with a person's change, by the binlog, where a transaction is one writer's. A
    Dolt commit may hold two writers' changes, so without one in the binlog none in the history is one.
    """
    verdict = history.verdict(here)
    kinds = collections.Counter(type(outcome).__name__ for outcome in outcomes)
    yield check(
        "claims, in Dolt's history",
        f"{edits}, {history.in_words(verdict, kinds)}",
        [line for line in verdict.broken if merged or line not in verdict.merged],
    )
    wrong = history.wrong_posts(here, agent, verdict, _TOLERANCE_SECONDS)
    yield check("POSTs for beads that people had taken", f"{len(wrong)} of {len(agent.posts)}", wrong)


def _untouched(transactions: list[Transaction], merged: int) -> Check:
    """People's writes stay, transaction by transaction."""
    ours = sum(1 for _ in binlog_recorder.our_changes(transactions))
    broken = binlog_recorder.breaches(transactions)
    figures = f"{len(broken)} in {ours} changes of ours; {merged} claims merged with a person's change and withdrawn"
    return check("closed beads opened, assignees changed, notes cut by us", figures, broken)


def _kept(here: World, outcomes: list[Outcome]) -> Check:
    """Every job is in the audit trail; the newest job of each bead in its metadata. `bd note` may remove it from the
    notes: it writes the whole column from an earlier read."""
    comments = {row["comment"] for row in here.sql("SELECT comment FROM events WHERE actor IN %s", store.OURS)}
    rows = here.rows()
    newest: dict[str, str] = {}
    lost, gone, jobs = [], 0, 0
    for outcome in outcomes:
        bead = getattr(outcome, "bead", None)
        if bead is not None and not isinstance(outcome, LostRace):
            newest.pop(bead.id, None)
        if isinstance(outcome, Dispatched):
            jobs += 1
            newest[outcome.bead.id] = outcome.job
            note = notes.dispatched(outcome.job)
            if note not in comments:
                lost.append(f"{outcome.bead.id}: {outcome.job} is not in the events table")
            gone += note not in rows[outcome.bead.id]["notes"]
    for name, job in newest.items():
        record = DispatchRecord.from_metadata(json.loads(rows[name]["metadata"] or "{}"))
        if record.job != job:
            lost.append(f"{name}: {job} is not in metadata")
    figures = f"{jobs} jobs: {len(lost)} lost; {gone} lines gone from notes (bd note rewrites them)"
    return check("our notes beside theirs", figures, lost)
