"""Fills a database with any number of beads, such as a team has after years.

Some of them are eligible; of the others 99 in 100 are closed, and the rest are other people's, in the statuses that bd
knows. Each bead has two audit rows; one in twenty depends on an older one.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from tools.database import AGENT, BeadsDatabase, insert_rows

_START = datetime(2025, 1, 1)
_AT_ONCE = 20_000  # rows held in memory
_TEXT = "the queue holds a bead until an agent reads it and closes it when its criteria are met. "

ISSUE = (
    "id", "title", "description", "design", "acceptance_criteria", "notes", "status", "priority", "assignee",
    "created_at", "updated_at", "closed_at", "metadata",
)  # fmt: skip
EVENT = ("id", "issue_id", "event_type", "actor", "old_value", "new_value", "comment", "created_at")


def issues(number: int, eligible: int, in_progress: int = 0, seed: int = 1) -> Iterator[tuple[Any, ...]]:
    """Rows of `issues` in the order of ISSUE; the eligible ones are spread over the whole."""
    chance = random.Random(seed)
    every = max(1, number // eligible) if eligible else number + 1
    left = eligible
    for index in range(number):
        created = _START + timedelta(seconds=index * 30)
        status, assignee = _of_others(chance)
        if left and index % every == 0:
            status, assignee, left = "open", AGENT, left - 1
        elif in_progress:
            status, assignee, in_progress = "in_progress", AGENT, in_progress - 1
        updated = created + timedelta(minutes=chance.randrange(1, 10_000))
        text = _TEXT * chance.randrange(1, 12)
        yield (
            _name(index), f"Bead {index}", text, "", "It works.", "", status, chance.randrange(5), assignee,
            created, updated, updated if status == "closed" else None, "{}",
        )  # fmt: skip


def fill(database: BeadsDatabase, number: int, eligible: int, in_progress: int = 0) -> None:
    """Write that many beads into an empty workspace, and commit them."""
    chance = random.Random(2)
    all_rows = issues(number, eligible, in_progress)
    with database.cursor(init_command="SET foreign_key_checks = 0") as cursor:
        while rows := list(itertools.islice(all_rows, _AT_ONCE)):
            insert_rows(cursor, "issues", ISSUE, rows)
            insert_rows(cursor, "events", EVENT, [event for row in rows for event in _events(row, chance)])
        # The older of the two is closed nearly always: such dependencies block nothing, as in a team's database.
        pairs = [(chance.randrange(max(1, index)), index) for index in range(20, number, 20)]
        depend(database, [(_name(new), _name(old)) for old, new in pairs])
    database.commit("beads")


def fill_blocked(database: BeadsDatabase, number: int) -> str:
    """Add that many blocked beads of the agent at the head of the queue, and one behind them that is free; returns its
    id."""
    blocked = [f"blocked-{index:06}" for index in range(number)]
    database.insert(["blocker"], assignee="bob")
    database.insert(blocked, priority=0, is_blocked=1)  # as bd keeps its column
    depend(database, [(bead, "blocker") for bead in blocked])
    database.insert(["free"], priority=4)
    database.commit("blocked beads")
    return "free"


def depend(database: BeadsDatabase, pairs: Sequence[tuple[str, str]]) -> None:
    """Have beads depend on others."""
    chance = random.Random(pairs[-1][0])
    columns = ("id", "issue_id", "depends_on_issue_id", "type", "created_by")
    rows = [(_uuid(chance), bead, other, "blocks", "bob") for bead, other in pairs]
    with database.cursor(init_command="SET foreign_key_checks = 0") as cursor:
        insert_rows(cursor, "dependencies", columns, rows)


def _name(index: int) -> str:
    return f"g-{index:07}"


def _of_others(chance: random.Random) -> tuple[str, str | None]:
    if chance.random() < 0.99:
        return "closed", chance.choice([AGENT, "bob", None])
    return chance.choice([("open", None), ("open", "bob"), ("in_progress", "bob"), ("blocked", "bob")])


def _events(row: tuple[Any, ...], chance: random.Random) -> Iterator[tuple[Any, ...]]:
    bead, created, updated = row[0], row[ISSUE.index("created_at")], row[ISSUE.index("updated_at")]
    yield _uuid(chance), bead, "created", "bob", "", "", None, created
    yield _uuid(chance), bead, "status_changed", "bob", "{}", "{}", None, updated


def _uuid(chance: random.Random) -> str:
    digits = f"{chance.getrandbits(128):032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
