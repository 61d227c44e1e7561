"""A writer that changes beads, by SQL and by bd. Each change is a Dolt commit, so that the history holds every one."""

import contextlib
import json
import random
import time
import uuid
from typing import Any, Self

import pymysql
from pymysql.cursors import DictCursor

from beads_dispatch import store
from local.workspace import BdError
from tools.chaos.history import Changes, Side
from tools.world import World

ASSIGNEES = ("", "alice", "bob", "carol", "dave")
STATUSES = ("open", "in_progress", "blocked", "closed", "deferred")
ACTOR = "sql-writer"


class Writer:
    """Makes one change at a time and counts them. A change that met an outage is tried again."""

    def __init__(self, world: World, chance: random.Random, beads: int, *, bd_every: int = 0) -> None:
        self.names = [f"w-{number:03}" for number in range(beads)]
        self.by_sql = self.by_bd = 0
        self._world = world
        self._chance = chance
        self._bd_every = bd_every
        self._connection: Any = None
        world.add(self.names, assignee=None)

    @property
    def changes(self) -> int:
        return self.by_sql + self.by_bd

    def step(self) -> None:
        """One command or transaction; it changes one bead, or three."""
        if self._bd_every and (self.changes + 1) % self._bd_every == 0:
            self._bd(self._chance.choice(self.names))
            return
        beads = self._chance.sample(self.names, 1 if self._chance.random() < 0.9 else 3)
        while True:
            try:
                self._sql(beads)
                return
            except (pymysql.Error, OSError):
                self._connection = None
                time.sleep(0.05)

    def write(self, changes: int) -> None:
        """Make so many changes, or two more."""
        until = self.changes + changes
        while self.changes < until:
            self.step()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            with contextlib.suppress(pymysql.Error, OSError):
                self._connection.close()

    def _sql(self, beads: list[str]) -> None:
        if self._connection is None:
            self._connection = store.connect(self._world.dolt, cursorclass=DictCursor)
        self._connection.begin()
        with self._connection.cursor() as cursor:
            for bead in beads:
                self._change(cursor, bead)
            cursor.execute("CALL DOLT_COMMIT('-Am', 'writer', '--allow-empty')")
        self._connection.commit()
        self.by_sql += len(beads)

    def _change(self, cursor: Any, bead: str) -> None:
        cursor.execute("SELECT COALESCE(assignee, '') AS assignee, status FROM issues WHERE id = %s", (bead,))
        before = after = tuple(cursor.fetchone().values())
        while after == before:
            after = (self._chance.choice(ASSIGNEES), before[1])
            if self._chance.random() < 0.5:
                after = (before[0], self._chance.choice(STATUSES))
        cursor.execute("UPDATE issues SET assignee = NULLIF(%s, ''), status = %s WHERE id = %s", (*after, bead))
        cursor.execute(
            "INSERT INTO events (id, issue_id, event_type, actor, old_value, new_value)"
            " VALUES (%s, %s, 'updated', %s, %s, %s)",
            (str(uuid.uuid4()), bead, ACTOR, json.dumps(before), json.dumps(after)),
        )

    def _bd(self, bead: str) -> None:
        commands = (
            ("assign", bead, self._chance.choice(["alice", "bob", "carol"])),
            ("update", bead, "--status", self._chance.choice(["open", "in_progress", "blocked"])),
            ("close", bead, "--force"),
            ("reopen", bead),
        )
        with contextlib.suppress(BdError):  # already closed, or Dolt is down: bd changes nothing then
            self._world.workspace.run(*self._chance.choice(commands), actor="bd-writer")
        self.by_bd += 1


def unpublished_audit_rows(world: World, published: Changes) -> list[str]:
    """The writer's changes, by its own audit rows, that are not among the published ones."""
    found = []
    for row in world.sql("SELECT issue_id, old_value, new_value FROM events WHERE actor = %s", ACTOR):
        before, after = (_side(row[name]) for name in ("old_value", "new_value"))
        if (before, after) not in published.get(row["issue_id"], []):
            found.append(f"{row['issue_id']}: in the events table and not published: {before} to {after}")
    return found


def _side(value: str) -> Side:
    assignee, status = json.loads(value)
    return assignee, status
