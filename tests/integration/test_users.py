"""knative/users.sql, run as in the runbook: each user can do the work of its process, and nothing else."""

import pathlib
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pymysql
import pytest

from beads_dispatch import events, reaper, settings, store
from beads_dispatch.agents import beadboard
from beads_dispatch.dispatcher import Dispatcher
from beads_dispatch.outcomes import AgentFailed, Dispatched, NothingEligible
from local.workspace import Workspace
from tests import support
from tests.conftest import Beads
from tests.integration.conftest import Clock
from tests.integration.test_feed import Running
from tests.support import wait_for
from tools import toolchain

USERS_SQL = pathlib.Path(__file__).parents[2] / "knative" / "users.sql"
NAMES = ("feeder", "dispatch", "reap")

As = Callable[[str], settings.DoltSettings]


@pytest.fixture(scope="module")
def users(workspace: Workspace) -> None:
    """The users of the file, on this workspace's database; it is run twice, the second time with other passwords."""
    dolt = settings.dolt({"BEADS_DIR": str(workspace.beads_dir)})
    text = USERS_SQL.read_text().replace("`beads`.", f"`{dolt.database}`.")
    where = ["--host", dolt.host, "--port", str(dolt.port), "--user", "root", "--password", "", "--no-tls"]
    for secret in ("old secret of", "secret of"):
        whole = text
        for name in NAMES:
            whole = whole.replace(f"{name.upper()}_PASSWORD", f"{secret} {name}")
        subprocess.run([toolchain.dolt(), *where, "sql"], input=whole, text=True, check=True)


@pytest.fixture
def as_user(beads: Beads, users: None) -> As:
    """The connection settings of one of the three users."""
    return lambda name: replace(beads.dolt, user=f"beads-{name}", password=f"secret of {name}")


@pytest.fixture
def dispatcher(as_user: As, agent: support.Agent, clock: Clock) -> Iterator[Dispatcher]:
    backend = beadboard.BeadBoard(settings.AgentSettings(agent.url, None, support.PATIENCE_SECONDS))
    with support.closing(store.Store(as_user("dispatch"))) as beads:
        yield Dispatcher(beads, backend, settings.DispatchLimits(), clock, clock.sleep)


def test_dispatch_can_do_its_work(beads: Beads, dispatcher: Dispatcher, agent: support.Agent, clock: Clock) -> None:
    """Claim, POST, record; when the agent fails, set the hold and release the claim; then clear the hold."""
    beads.add("x-1")
    beads.store.control.mirror_pingsource("dispatch", False)
    agent.behaviour = support.answers(502)
    assert isinstance(dispatcher.run_once()[0], AgentFailed)
    assert beads.row("x-1")["status"] == "open" and beads.store.control.hold("agent").failures == 1
    agent.behaviour = support.job
    clock.passed += timedelta(minutes=11)
    assert [type(outcome) for outcome in dispatcher.run_once()] == [Dispatched, NothingEligible]
    assert beads.row("x-1")["status"] == "in_progress" and beads.store.control.hold("agent").failures == 0


def test_reap_can_do_its_work(beads: Beads, as_user: As, dispatcher: Dispatcher, clock: Clock) -> None:
    """Release an orphaned claim, and block an inactive bead."""
    beads.add("x-1")
    dispatcher.run_once()
    beads.add("x-2")
    (queued,) = beads.store.eligible.first("agent", clock(), 1)
    beads.store.claims.claim(queued, clock())
    with support.closing(store.Store(as_user("reap"))) as ours:
        clock.passed += timedelta(minutes=31)
        result = reaper.run_once(ours, settings.DispatchLimits(), clock())
    assert (result.reopened, result.blocked) == (["x-2"], ["x-1"])


def test_the_feeder_can_do_its_work(beads: Beads, as_user: As, sink: support.Sink) -> None:
    """On a server without its tables: make them, read the binlog, publish, request a pass, store the position."""
    for table in ("positions", "seen", "switches", "holds"):
        beads.sql(f"DROP TABLE {store.STATE_DATABASE}.{table}")
    feeder = Running(as_user("feeder"), sink.url)
    try:
        feeder.wait_until_started(beads)
        with support.closing(store.Store(as_user("feeder"))) as ours:
            ours.control.mirror_pingsource("reap", True)
            assert ours.feed_state.unpublished(1) == []
            assert ours.overview("agent", datetime.now(UTC)).running == 0
        beads.add("x-1")
        wait_for(lambda: sink.of_type(events.DISPATCH_REQUESTED), "the request")
        wait_for(lambda: [event.subject for event in sink.of_type(events.ISSUE_CHANGED)] == ["x-1"], "the change")
    finally:
        feeder.close()
    assert beads.store.feed_state.position() is not None and beads.store.control.suspension().reap


# What an intruder in a process would try. %s stands for the beads' database.
REFUSED = {
    "feeder": [
        "UPDATE %s.issues SET status = 'closed'", "INSERT INTO %s.events (id) VALUES ('x')", "DELETE FROM %s.issues",
        "DROP TABLE beads_dispatch.positions", "CREATE DATABASE other", "CREATE TABLE %s.other (i INT)",
        "CALL dolt_commit('-Am', 'x')", "CALL dolt_reset('--hard')", "CREATE USER eve",
    ],
    "dispatch": [
        "DELETE FROM %s.issues", "INSERT INTO %s.issues (id) VALUES ('x')", "UPDATE %s.config SET value = ''",
        "UPDATE %s.events SET actor = ''", "DELETE FROM %s.events", "DROP TABLE %s.issues",
        "UPDATE beads_dispatch.switches SET suspended = FALSE", "DELETE FROM beads_dispatch.holds",
        "SELECT * FROM beads_dispatch.positions", "CALL dolt_reset('--hard')", "CALL dolt_push('origin')",
        "CALL dolt_branch('x')", "CREATE USER eve",
    ],
    "reap": [
        "DELETE FROM %s.issues", "UPDATE %s.config SET value = ''", "DROP TABLE %s.issues",
        "UPDATE beads_dispatch.switches SET suspended = FALSE", "UPDATE beads_dispatch.holds SET failures = 0",
        "SELECT * FROM beads_dispatch.positions", "CALL dolt_reset('--hard')", "CREATE USER eve",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "statement"), [(name, s) for name, all_of in REFUSED.items() for s in all_of])
def test_everything_else_is_refused(beads: Beads, as_user: As, name: str, statement: str) -> None:
    """The server refuses it."""
    connection = store.connect(as_user(name))
    with support.closing(connection), connection.cursor() as cursor, pytest.raises(pymysql.Error, match="denied"):
        cursor.execute(statement.replace("%s", f"`{beads.dolt.database}`"))
