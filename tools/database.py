"""A bd workspace's database as anybody may change it: plain SQL. For the tests and the tools."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from pymysql.cursors import DictCursor

from beads_dispatch import settings, store, suspension
from local.workspace import Workspace

AGENT = "agent"  # the name that beads are assigned to

_STATEMENT_SECONDS = 300


class BeadsDatabase:
    """One workspace and its database."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        # Not the port file: a test or tool may put a proxy's port in place of this one.
        self.dolt = replace(settings.dolt({"BEADS_DIR": str(workspace.beads_dir)}), port_file=None)

    @contextlib.contextmanager
    def cursor(self, **more: Any) -> Iterator[DictCursor]:
        """A cursor on a connection of its own; each statement commits by itself."""
        arguments = {"cursorclass": DictCursor, "read_timeout": _STATEMENT_SECONDS, **more}
        with contextlib.closing(store.connect(self.dolt, **arguments)) as connection, connection.cursor() as cursor:
            yield cursor

    def sql(self, statement: str, *params: Any) -> list[dict[str, Any]]:
        """Run one statement; returns its rows."""
        with self.cursor() as cursor:
            cursor.execute(statement, params)
            return list(cursor.fetchall())

    def insert(self, beads: Sequence[str], **columns: Any) -> None:
        """Insert beads, which are eligible unless `columns` say otherwise. No Dolt commit."""
        row = {
            "id": "", "title": "a bead", "description": "", "design": "", "acceptance_criteria": "It works.",
            "notes": "", "assignee": AGENT, "updated_at": datetime(2026, 1, 1), **columns,
        }  # fmt: skip
        with self.cursor() as cursor:
            insert_rows(cursor, "issues", list(row), [tuple({**row, "id": bead}.values()) for bead in beads])

    def rows(self) -> dict[str, dict[str, Any]]:
        """Every bead's row in `issues`, by id."""
        return {row["id"]: row for row in self.sql("SELECT * FROM issues ORDER BY id")}

    def row(self, bead: str) -> dict[str, Any]:
        """The bead's row in `issues`."""
        return self.sql("SELECT * FROM issues WHERE id = %s", bead)[0]

    def commit(self, message: str) -> str:
        """Make a Dolt commit of everything; returns its hash."""
        return str(self.sql("CALL DOLT_COMMIT('-Am', %s, '--allow-empty')", message)[0]["hash"])

    def empty(self) -> str:
        """Remove the beads, the suspension, and the feeder's state; returns the Dolt commit that has none of it."""
        with contextlib.closing(store.Store(self.dolt)) as beads:
            beads.feed_state.prepare()
        # bd exports to this file and imports from it: it would bring back what is deleted here.
        (self.workspace.beads_dir / "issues.jsonl").unlink(missing_ok=True)
        with self.cursor() as cursor:
            cursor.execute("SHOW TABLES")
            known = sorted(table for row in cursor.fetchall() for table in row.values())
            # Not bound to issues by a foreign key; not in each bd.
            more = [table for table in known if table == "leases" or table.startswith("wisp")]
            cursor.execute(f"SHOW TABLES FROM {store.STATE_DATABASE}")
            tables = {table for row in cursor.fetchall() for table in row.values()} - {"layout"}
            state = [f"{store.STATE_DATABASE}.{table}" for table in sorted(tables)]
            for table in ("dependencies", "comments", "events", "issues", *more, *state):
                cursor.execute(f"DELETE FROM {table}")
            cursor.execute("DELETE FROM config WHERE `key` IN %s", (suspension.SUSPEND_KEYS,))
        return self.commit("empty")


def insert_rows(cursor: DictCursor, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    """INSERT rows. PyMySQL makes one statement, so one transaction, of each megabyte of them."""
    places = ", ".join(["%s"] * len(columns))
    cursor.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", rows)
