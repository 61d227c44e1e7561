"""Somebody who changes beads, by SQL and by bd. Each change is a Dolt commit, so that history holds every one."""

import contextlib
import json
import random
import time
import uuid
from typing import Any

import pymysql
from pymysql.cursors import DictCursor

from beads_dispatch import store
from local.workspace import BdError
from tools.chaos.world import World

PEOPLE = (None, "alice", "bob", "carol", "dave")
STATUSES = ("open", "in_progress", "blocked", "closed", "deferred")
ACTOR = "sql-writer"


class Writer:
    """One change at a time. Counts what it did; a change that met an outage is tried again."""

    def __init__(self, world: World, chance: random.Random, beads: int, *, bd_every: int) -> None:
        self.names = [f"w-{number:03}" for number in range(beads)]
        self.by_sql = self.by_bd = self.refused = 0
        self._world = world
        self._chance = chance
        self._bd_every = bd_every
        self._state: dict[str, tuple[str | None, str]] = dict.fromkeys(self.names, (None, "open"))
        self._connection: Any = None
        world.add(self.names, assignee=None)

    @property
    def changes(self) -> int:
        return self.by_sql + self.by_bd

    def step(self) -> None:
        """One command or transaction; it changes one bead, or a few."""
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

    def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(pymysql.Error, OSError):
                self._connection.close()

    def _sql(self, beads: list[str]) -> None:
        if self._connection is None:
            self._connection = store.connect(self._world.dolt, cursorclass=DictCursor)
        self._connection.begin()
        with self._connection.cursor() as cursor:
            changed = sum([self._change(cursor, bead) for bead in beads])
            cursor.execute("CALL DOLT_COMMIT('-Am', 'writer', '--allow-empty')")
        self._connection.commit()
        self.by_sql += changed

    def _change(self, cursor: Any, bead: str) -> int:
        cursor.execute("SELECT assignee, status FROM issues WHERE id = %s", (bead,))
        found = cursor.fetchone()
        before = (found["assignee"] or None, found["status"])
        after = before
        while after == before:
            after = (self._chance.choice(PEOPLE), before[1])
            if self._chance.random() < 0.5:
                after = (before[0], self._chance.choice(STATUSES))
        cursor.execute("UPDATE issues SET assignee = %s, status = %s WHERE id = %s", (*after, bead))
        cursor.execute(
            "INSERT INTO events (id, issue_id, event_type, actor, old_value, new_value)"
            " VALUES (%s, %s, %s, %s, %s, %s)",
            (str(uuid.uuid4()), bead, "updated", ACTOR, _json(before), _json(after)),
        )
        return 1

    def _bd(self, bead: str) -> None:
        what = self._chance.choice(["assign", "status", "close", "reopen"])
        commands = {
            "assign": ("assign", bead, self._chance.choice(["alice", "bob", "carol"])),
            "status": ("update", bead, "--status", self._chance.choice(["open", "in_progress", "blocked"])),
            "close": ("close", bead, "--force"),
            "reopen": ("reopen", bead),
        }
        try:
            self._world.workspace.run(*commands[what], actor="bd-writer")
        except BdError:
            self.refused += 1  # closed already, or Dolt away: bd says so and changes nothing
        self.by_bd += 1


def _json(side: tuple[str | None, str]) -> str:
    return json.dumps({"assignee": side[0], "status": side[1]})


def in_events_table(world: World) -> list[tuple[str, tuple[str, str], tuple[str, str]]]:
    """What the audit rows say of the writer's changes: bead, before and after."""
    found = []
    for row in world.sql("SELECT issue_id, old_value, new_value FROM events WHERE actor = %s", ACTOR):
        sides = [json.loads(row[name]) for name in ("old_value", "new_value")]
        before, after = ((side["assignee"] or "", side["status"]) for side in sides)
        found.append((row["issue_id"], before, after))
    return found
