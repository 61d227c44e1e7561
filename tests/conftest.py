"""The real parts that tests stand on: one Dolt server a session, one bd workspace for each bd version."""

import itertools
import os
import pathlib
import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import hypothesis
import pytest

from beads_dispatch import store
from local import processes
from local.dolt import DoltServer
from local.workspace import Workspace
from tests import support
from tests.certificates import Certificates
from tools import toolchain
from tools.database import BeadsDatabase

# A busy machine is not a failure: a benchmark is never a timed test.
hypothesis.settings.register_profile("here", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("here")

# A shell that starts the tests in the background has them ignore Ctrl-C, and every child would inherit that.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Between the choice of a port and the bind others may choose, too: so each worker of pytest-xdist has a share of them.
_PORTS = (processes._EPHEMERAL_PORTS - processes._LOWEST_PORT) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
processes._LOWEST_PORT += _PORTS * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
processes._EPHEMERAL_PORTS = processes._LOWEST_PORT + _PORTS

# What an application reads from its environment, or a make passes on to a make that a test runs.
AMBIENT = (
    "AGENT_", "BD_", "BEADBOARD_", "BEADS_", "CLAIM_TIMEOUT_SECONDS=", "DOLT_", "HOST=", "K_", "LOCAL_PORT=", "MAKE",
    "MAX_IN_FLIGHT=", "MFLAGS=", "PORT=", "REAP_AFTER_MINUTES=", "SINK_TIMEOUT_SECONDS=", "SLOT_SILENCE_MINUTES=",
    "STAND_IN_AGENT=", "WEBHOOK_URL_FILE=",
)  # fmt: skip

# The newest bd, and the one whose schema BeadBoard needs.
BD_VERSIONS = ("1.3.0", "1.0.2")


_numbers = itertools.count(1)


class Beads(BeadsDatabase):
    """One workspace, emptied for each test, and a store on it."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(workspace)
        self.store = store.Store(self.dolt)

    def add(self, bead: str, *, acceptance: str = "It works.", **columns: Any) -> str:
        """Insert a bead, which is eligible unless `columns` say otherwise; returns its id."""
        self.insert([bead], acceptance_criteria=acceptance, **{"title": f"Bead {bead}", **columns})
        return bead

    def depend(self, *edges: tuple[str, str, str]) -> None:
        """Add dependencies by SQL, in either schema: a bead, what it depends on, and how."""
        split = not self.sql("SHOW COLUMNS FROM dependencies LIKE 'depends_on_id'")
        columns, first = ("id, depends_on_issue_id", "UUID(), ") if split else ("depends_on_id", "")
        for bead, other, kind in edges:
            self.sql(
                f"INSERT INTO dependencies ({columns}, issue_id, type, created_by) VALUES ({first}%s, %s, %s, 't')",
                other, bead, kind,
            )  # fmt: skip
        self.recompute_blocked()

    def recompute_blocked(self) -> None:
        """After plain SQL: have bd compute its column, where it has one."""
        if self.sql("SHOW COLUMNS FROM issues LIKE 'is_blocked'"):
            self.commit("before bd computes its column")
            self.workspace.run("recompute-blocked")

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
    beads = Beads(workspace)
    beads.empty()
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


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def now() -> datetime:
    """The present, for a pass."""
    return datetime.now(UTC)


def make_workspace(version: str, server: DoltServer, folder: pathlib.Path) -> Workspace:
    """A workspace with a database of its own: what one test does to it (migrate it, say) reaches no other."""
    workspace = Workspace(toolchain.bd(version), folder)
    workspace.init(server.port, f"t{version.replace('.', '')}n{next(_numbers)}")
    return workspace


@pytest.fixture(scope="session", autouse=True)
def _no_ambient_settings() -> Iterator[None]:
    """What the developer's shell sets must not reach the tests, nor the processes that outlive a single one."""
    with pytest.MonkeyPatch.context() as environment:
        for name in list(os.environ):
            if f"{name}=".startswith(AMBIENT) and name != "DOLT_DISABLE_EVENT_FLUSH":
                environment.delenv(name)
        yield
