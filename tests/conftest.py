"""The real parts that tests stand on: one Dolt server a session, one bd workspace for each bd version."""

import os
import pathlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import hypothesis
import pytest
from pymysql.cursors import DictCursor

from beads_dispatch import settings, store, suspension
from local import processes
from local.dolt import DoltServer
from local.workspace import Workspace
from tests import support
from tools import toolchain

# A busy machine is not a failure: a benchmark is never a timed test.
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.load_profile("here")

# A shell that starts the tests in the background has them ignore Ctrl-C, and every child would inherit that.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The newest bd, and the one whose schema BeadBoard needs.
BD_VERSIONS = ("1.3.0", "1.0.2")


@dataclass
class Beads:
    """One workspace, emptied for each test."""

    workspace: Workspace
    dolt: settings.DoltSettings
    store: store.Store

    def sql(self, statement: str, *params: Any) -> list[dict[str, Any]]:
        """Plain SQL, as anybody could run it."""
        connection = store.connect(self.dolt, cursorclass=DictCursor)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, params)
                return list(cursor.fetchall())
        finally:
            connection.close()

    def add(self, bead: str, *, acceptance: str = "It works.", assignee: str | None = "agent", **columns: Any) -> str:
        """A bead by SQL, ready to be dispatched by default."""
        row = {
            "id": bead,
            "title": f"Bead {bead}",
            "description": "",
            "design": "",
            "acceptance_criteria": acceptance,
            "notes": "",
            "assignee": assignee,
            "updated_at": datetime(2026, 1, 1),
            **columns,
        }
        names = ", ".join(row)
        self.sql(f"INSERT INTO issues ({names}) VALUES ({', '.join(['%s'] * len(row))})", *row.values())
        return bead

    def row(self, bead: str) -> dict[str, Any]:
        """The bead's row in `issues`."""
        return self.sql("SELECT * FROM issues WHERE id = %s", bead)[0]

    def notes(self, bead: str) -> list[str]:
        return str(self.row(bead)["notes"]).splitlines()

    def actors(self, bead: str) -> list[str]:
        """Who is in the bead's audit trail, oldest first."""
        rows = self.sql("SELECT actor FROM events WHERE issue_id = %s ORDER BY created_at", bead)
        return [row["actor"] for row in rows]


@pytest.fixture(scope="session")
def dolt_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DoltServer]:
    """A Dolt server with its binlog on, for the whole session."""
    server = DoltServer(toolchain.dolt(), tmp_path_factory.mktemp("dolt"), processes.free_port())
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session", params=BD_VERSIONS, ids=lambda version: f"bd-{version}")
def workspace(
    request: pytest.FixtureRequest, dolt_server: DoltServer, tmp_path_factory: pytest.TempPathFactory
) -> Workspace:
    """A bd workspace; everything that uses it runs on each bd version."""
    return make_workspace(request.param, dolt_server, tmp_path_factory.mktemp("workspace"))


@pytest.fixture
def beads(workspace: Workspace) -> Iterator[Beads]:
    """The workspace without beads, without suspension, without a hold."""
    dolt = settings.dolt({"BEADS_DIR": str(workspace.beads_dir)})
    beads = Beads(workspace, dolt, store.Store(dolt))
    beads.store.feed_state.prepare()
    # bd exports to this file and imports from it: it would bring back what is deleted here.
    (workspace.beads_dir / "issues.jsonl").unlink(missing_ok=True)
    beads.sql("DELETE FROM dependencies")
    beads.sql("DELETE FROM issues")
    if beads.sql("SHOW TABLES LIKE 'leases'"):  # not bound to issues by a foreign key
        beads.sql("DELETE FROM leases")
    beads.sql("DELETE FROM config WHERE `key` = %s", suspension.CONFIG_KEY)
    for table in ("positions", "switches", "holds"):
        beads.sql(f"DELETE FROM {store.STATE_DATABASE}.{table}")
    beads.sql("CALL DOLT_COMMIT('-Am', 'empty', '--allow-empty')")
    yield beads
    beads.store.close()


@pytest.fixture
def agent() -> Iterator[support.Agent]:
    with support.closing(support.Agent()) as service:
        yield service


@pytest.fixture
def sink() -> Iterator[support.Sink]:
    with support.closing(support.Sink()) as sink:
        yield sink


@pytest.fixture
def now() -> datetime:
    """The present, for a pass."""
    return datetime.now(UTC)


def make_workspace(version: str, server: DoltServer, folder: pathlib.Path) -> Workspace:
    workspace = Workspace(toolchain.bd(version), folder)
    workspace.init(server.port, f"t{version.replace('.', '')}")
    return workspace


@pytest.fixture(autouse=True)
def _no_ambient_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer's shell sets must not reach the tests."""
    for name in list(os.environ):
        if name.startswith(("DOLT_", "BEADS_", "BEADBOARD_", "AGENT_", "K_")) and name != "DOLT_DISABLE_EVENT_FLUSH":
            monkeypatch.delenv(name)
