"""knative/users.sql, run as in the runbook: each user can do the work of its process, and nothing else."""

import pathlib
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pymysql
import pytest

from beads_dispatch import events, reaper, settings, store, suspension
from beads_dispatch.agents import beadboard
from beads_dispatch.dispatcher import Dispatcher
from beads_dispatch.outcomes import AgentFailed, Dispatched, NothingEligible
from feeder import ownership, preflight
from local.workspace import Workspace
from tests import support
from tests.conftest import Beads
from tests.integration.conftest import Clock
from tests.integration.test_feed import Running
from tests.support import wait_for
from tools import toolchain

USERS_SQL = pathlib.Path(__file__).parents[2] / "knative" / "users.sql"
NAMES = ("feeder", "dispatch", "reap", "operator")

As = Callable[[str], settings.DoltSettings]


@pytest.fixture(scope="module")
def users(workspace: Workspace) -> None:
    """The users of the file, on this workspace's database; it is run twice, the second time with other passwords. Their
    names have a suffix, with the file's own sed."""
    dolt = settings.dolt({"BEADS_DIR": str(workspace.beads_dir)})
    (command,) = [line for line in USERS_SQL.read_text().splitlines() if line.startswith("--   sed -e 's/`beads`")]
    sed = [word.replace("yours", dolt.database) for word in shlex.split(command.removeprefix("--"))]
    text = subprocess.run([*sed, USERS_SQL], text=True, check=True, capture_output=True).stdout
    where = ["--host", dolt.host, "--port", str(dolt.port), "--user", "root", "--password", "", "--no-tls"]
    for secret in ("old secret of", "secret of"):
        whole = text
        for name in NAMES:
            whole = whole.replace(f"{name.upper()}_PASSWORD", f"{secret} {name}")
        subprocess.run([toolchain.dolt(), *where, "sql"], input=whole, text=True, check=True)


@pytest.fixture
def as_user(beads: Beads, users: None) -> As:
    """The connection settings of one of the users."""
    suffix = beads.dolt.database
    return lambda name: replace(beads.dolt, user=f"beads-{name}-{suffix}", password=f"secret of {name}")


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


def test_the_functions_know_of_feeders_and_clones(beads: Beads, as_user: As, clock: Clock) -> None:
    """They read when the feeder reported, and whether this is the clone that dispatches."""
    owner = ownership.Owner(beads.dolt, threading.Event())
    beads.store.feed_state.report(owner.beat())
    beads.sql("REPLACE INTO config (`key`, value) VALUES (%s, 'another')", suspension.REPLICA_KEY)
    try:
        for name in ("dispatch", "reap"):
            with support.closing(store.Store(as_user(name))) as ours:
                assert ours.feeders.find() is not None
                beats = datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=8)
                beads.sql(f"UPDATE {store.STATE_DATABASE}.feeders SET beat_at = %s, resumed_at = NULL", beats)
                ours.feeders.resume()
                (row,) = beads.sql(f"SELECT resumed_at FROM {store.STATE_DATABASE}.feeders")
                assert (row["resumed_at"] is not None) == (name == "reap")
                assert "is another, and this clone is" in (ours.control.suspension().reap or "")
    finally:
        beads.sql("DELETE FROM config WHERE `key` = %s", suspension.REPLICA_KEY)


def test_the_feeder_can_do_its_work(
    beads: Beads, as_user: As, sink: support.Sink, caplog: pytest.LogCaptureFixture
) -> None:
    """On a server without its tables: make them, read the binlog, publish, request a pass, store the position."""
    for table in ("positions", "seen", "switches", "agent_holds", "feeders"):
        beads.sql(f"DROP TABLE {store.STATE_DATABASE}.{table}")
    feeder = Running(as_user("feeder"), sink.url)
    try:
        feeder.wait_until_started(beads)
        with support.closing(store.Store(as_user("feeder"))) as ours:
            owner = ownership.Owner(as_user("feeder"), threading.Event(), wait_seconds=0)
            assert owner.take()
            ours.feed_state.report(owner.beat())
            owner.close()
            preflight.log_warnings(ours)
            ours.control.mirror_pingsource("reap", True)
            assert ours.feed_state.unpublished("") == ([], None)
            assert ours.overview([settings.DispatchLimits()], datetime.now(UTC)).agents["agent"].running == 0
        beads.add("x-1")
        wait_for(lambda: sink.of_type(events.DISPATCH_REQUESTED), "the request")
        wait_for(lambda: [event.subject for event in sink.of_type(events.ISSUE_CHANGED)] == ["x-1"], "the change")
    finally:
        feeder.close()
    assert "cannot be checked" not in caplog.text
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
        "CALL dolt_branch('x')", "UPDATE beads_dispatch.feeders SET replica = ''", "CREATE USER eve",
    ],
    "reap": [
        "DELETE FROM %s.issues", "UPDATE %s.config SET value = ''", "DROP TABLE %s.issues",
        "UPDATE beads_dispatch.switches SET suspended = FALSE",
        "SELECT * FROM beads_dispatch.positions", "CALL dolt_reset('--hard')", "CREATE USER eve",
    ],
    "operator": [
        "UPDATE %s.issues SET status = 'closed'", "INSERT INTO %s.events (id) VALUES ('x')", "DELETE FROM %s.issues",
        "REPLACE INTO %s.config VALUES ('a', 'b')", "DELETE FROM beads_dispatch.agent_holds",
        "UPDATE beads_dispatch.switches SET suspended = FALSE", "CREATE TABLE beads_dispatch.other (i INT)",
        "CALL dolt_add('-A')", "CALL dolt_commit('-Am', 'x')", "CALL dolt_reset('--hard')", "CALL dolt_branch('x')",
        "SELECT * FROM mysql.user", "CREATE USER eve",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "statement"), [(name, s) for name, all_of in REFUSED.items() for s in all_of])
def test_everything_else_is_refused(beads: Beads, as_user: As, name: str, statement: str) -> None:
    """The server refuses it."""
    connection = store.connect(as_user(name))
    with support.closing(connection), connection.cursor() as cursor, pytest.raises(pymysql.Error, match="denied"):
        cursor.execute(statement.replace("%s", f"`{beads.dolt.database}`"))


def test_the_feeder_names_what_makes_its_database_again(
    beads: Beads, sink: support.Sink, as_user: As, caplog: pytest.LogCaptureFixture
) -> None:
    """Dolt lets only a user who may create any database create this one. With it, all goes on without a restart."""
    with support.closing(Running(as_user("feeder"), sink.url)) as running:
        running.wait_until_started(beads)
        beads.sql(f"DROP DATABASE {store.STATE_DATABASE}")
        fix = f"run as an administrator: CREATE DATABASE {store.STATE_DATABASE}"
        wait_for(lambda: fix in caplog.text, "the words in the log")
        beads.sql(f"CREATE DATABASE {store.STATE_DATABASE}")
        beads.add("x-1")
        wait_for(lambda: sink.about("x-1") and beads.store.feed_state.position(), "the feed goes on")
    with support.closing(store.Store(as_user("dispatch"))) as dispatch:
        dispatch.control.set_hold("agent", store.Hold(), store.Hold(1, None, "the agent was down"))
        assert beads.store.control.hold("agent").failures == 1
