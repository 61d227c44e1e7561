"""Databases of any size for the measurements: beads as a team's are after years, made quickly.

Of so many beads some are eligible; of the others nine in ten are closed, and the rest are other people's, in the
statuses that bd knows. Each bead has two audit rows; one in twenty depends on an older one.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from beads_dispatch import settings, store

_BATCH = 2000
_PATIENCE_SECONDS = 600
_START = datetime(2025, 1, 1)
_TEXT = "the queue waits for an agent that reads a bead and closes it when its criteria are met. "

ISSUE = (
    "id", "title", "description", "design", "acceptance_criteria", "notes", "status", "priority", "assignee",
    "created_at", "updated_at", "closed_at", "metadata",
)  # fmt: skip
EVENT = ("id", "issue_id", "event_type", "actor", "old_value", "new_value", "comment", "created_at")


def issues(number: int, eligible: int, at_work: int = 0, seed: int = 1) -> Iterator[tuple[Any, ...]]:
    """Rows of `issues` in the order of ISSUE; the eligible ones are spread over the whole."""
    chance = random.Random(seed)
    every = max(1, number // eligible) if eligible else number + 1
    left = eligible
    for index in range(number):
        created = _START + timedelta(seconds=index * 30)
        status, assignee = _of_others(chance)
        if left and index % every == 0:
            status, assignee, left = "open", "agent", left - 1
        elif at_work:
            status, assignee, at_work = "in_progress", "agent", at_work - 1
        updated = created + timedelta(minutes=chance.randrange(1, 10_000))
        text = _TEXT * chance.randrange(1, 12)
        yield (
            f"g-{index:06}", f"Bead {index}", text, "", "It works.", "", status, chance.randrange(5), assignee,
            created, updated, updated if status == "closed" else None, "{}",
        )  # fmt: skip


def fill(
    dolt: settings.DoltSettings,
    number: int,
    eligible: int,
    at_work: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Write so many beads into an empty workspace, and commit them."""
    chance = random.Random(2)
    rows = list(issues(number, eligible, at_work))
    arguments = {"init_command": "SET foreign_key_checks = 0", "read_timeout": _PATIENCE_SECONDS}
    with store.connect(dolt, **arguments) as connection, connection.cursor() as cursor:
        for at in range(0, number, _BATCH):
            batch = rows[at : at + _BATCH]
            connection.begin()
            _insert(cursor, "issues", ISSUE, batch)
            _insert(cursor, "events", EVENT, [event for row in batch for event in _events(row, chance)])
            connection.commit()  # one transaction of all would be one event in the binlog
            if (at + _BATCH) % 20_000 == 0:
                say(f"{at + _BATCH} of {number} beads")
        # The older of the two is closed mostly: such dependencies block nobody, as in a team's database.
        pairs = [(chance.randrange(max(1, index)), index) for index in range(20, number, 20)]
        target = _target(cursor)
        _insert(
            cursor,
            "dependencies",
            ("id", "issue_id", target, "type", "created_by"),
            [(_uuid(chance), rows[new][0], rows[old][0], "blocks", "bob") for old, new in pairs],
        )
        cursor.execute("CALL DOLT_COMMIT('-Am', 'beads')")


def _insert(cursor: Any, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    if rows:
        places = ", ".join(["%s"] * len(columns))
        cursor.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", rows)


def _target(cursor: Any) -> str:
    """What a dependency points at is called differently in bd's schemas; in 1.0.2 it has no id either."""
    cursor.execute("SHOW COLUMNS FROM dependencies LIKE 'depends_on_issue_id'")
    return "depends_on_issue_id" if cursor.fetchall() else "depends_on_id"


def _of_others(chance: random.Random) -> tuple[str, str | None]:
    if chance.random() < 0.9:
        return "closed", chance.choice(["agent", "bob", None])
    return chance.choice([("open", None), ("open", "bob"), ("in_progress", "bob"), ("blocked", "bob")])


def _events(row: tuple[Any, ...], chance: random.Random) -> Iterator[tuple[Any, ...]]:
    bead, created, updated = row[0], row[ISSUE.index("created_at")], row[ISSUE.index("updated_at")]
    yield _uuid(chance), bead, "created", "bob", "", "", None, created
    yield _uuid(chance), bead, "status_changed", "bob", "{}", "{}", None, updated


def _uuid(chance: random.Random) -> str:
    digits = f"{chance.getrandbits(128):032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
