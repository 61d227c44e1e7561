"""Several databases of one server: one feeder, one queue for each agent, and none holds up another."""

import contextlib
import os
import pathlib
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from beads_dispatch import agents, events, reaper, settings, suspension
from beads_dispatch.agents import beadboard
from beads_dispatch.cli import main
from beads_dispatch.dispatcher import Dispatcher
from beads_dispatch.outcomes import Dispatched, NoSlot, NothingEligible, Outcome, StillRunning
from beads_dispatch.settings import DispatchLimits
from beads_dispatch.store import FeedLock, Rows, feed_state
from beads_dispatch.store.databases import Databases
from beads_dispatch.store.errors import StoreError
from feeder import binlog, checkpoint, gap_recovery
from feeder.health import HealthState
from feeder.ownership import Owner
from local import processes
from local.dolt import DoltServer
from local.processes import Process
from local.system import environment_of
from local.workspace import Workspace
from tests import support
from tests.agent_servers import JobSinkService
from tests.conftest import Beads
from tests.integration import test_users
from tests.integration.test_feed import Running
from tests.integration.test_users import USERS_SQL
from tests.support import wait_for
from tools import toolchain

NAMES = ("alpha", "beta", "gamma")
LONG_AGO = (datetime.now(UTC) - timedelta(hours=2)).replace(tzinfo=None)
ORPHANED = f'{{"dispatch": {{"claim": "some", "attempt": 1, "at": "{LONG_AGO:%Y-%m-%dT%H:%M:%SZ}"}}}}'


@dataclass
class Server:
    """A Dolt server with several databases."""

    dolt: settings.DoltSettings  # of all of them
    beads: dict[str, Beads]
    folder: pathlib.Path
    port: int

    def make(self, name: str) -> Beads:
        workspace = Workspace(toolchain.bd("1.3.0"), self.folder / name)
        workspace.init(self.port, name)
        self.beads[name] = Beads(workspace)
        return self.beads[name]

    def environment(self, **more: str) -> dict[str, str]:
        return {**environment_of(next(iter(self.beads.values())).dolt), "DOLT_DATABASE": "*", **more}


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("several")
    dolt = DoltServer(toolchain.dolt(), folder, processes.free_port())
    dolt.start()
    server = Server(replace(dolt.connection(), databases=("*",)), {}, folder, dolt.port)
    for name in NAMES:
        server.make(name)
    yield server
    dolt.stop()


@pytest.fixture
def server(one_server: Server) -> Iterator[Server]:
    """Without beads; the databases that a test adds are dropped."""
    for name in NAMES:
        one_server.beads[name].empty()
    yield one_server
    for name in {*one_server.beads} - {*NAMES}:
        one_server.beads["alpha"].sql(f"DROP DATABASE `{one_server.beads[name].dolt.database}`")
        del one_server.beads[name]
    for beads in one_server.beads.values():
        beads.store.close()


@pytest.fixture
def store(server: Server) -> Iterator[Databases]:
    with contextlib.closing(Databases(server.dolt)) as store:
        yield store


def run_once(store: Databases, agent: support.Agent, limit: int = 100) -> list[Outcome]:
    backend = beadboard.BeadBoard(settings.AgentSettings(agent.url))
    limits = DispatchLimits(max_in_flight=limit)
    return Dispatcher(store, backend, limits, lambda: datetime.now(UTC), lambda seconds: None).run_once()


def test_databases_take_turns_within_a_priority(server: Server, store: Databases, agent: support.Agent) -> None:
    """The best priority first, wherever it is; then one bead of each database after the other, in the next pass too."""
    server.beads["alpha"].add("a-1")
    server.beads["alpha"].add("a-2")
    server.beads["beta"].add("b-1")
    server.beads["gamma"].add("g-1", priority=0)
    found = run_once(store, agent, limit=3)
    assert agent.posts == ["g-1", "a-1", "b-1"] and isinstance(found[-1], NoSlot)
    server.beads["gamma"].add("g-2")
    run_once(store, agent)
    assert agent.posts[3:] == ["g-2", "a-2"]
    assert [each.bead.database for each in found if isinstance(each, Dispatched)] == ["gamma", "alpha", "beta"]
    for name, bead in (("alpha", "a-1"), ("beta", "b-1"), ("gamma", "g-1")):
        assert server.beads[name].notes(bead)[-1].startswith("dispatched: job=")


def test_beads_of_equal_ids_are_two_beads(server: Server, store: Databases, agent: support.Agent) -> None:
    """While the job of the one runs, although that bead was opened again, the other is dispatched."""
    server.beads["alpha"].add("x-1", priority=0)
    backend = beadboard.BeadBoard(settings.AgentSettings(agent.url, jobs_url=agent.url))
    dispatch = Dispatcher(store, backend, DispatchLimits(max_in_flight=9), lambda: datetime.now(UTC), lambda _: None)
    assert isinstance(dispatch.run_once()[0], Dispatched)
    server.beads["alpha"].workspace.run("update", "x-1", "--status", "open")
    server.beads["beta"].add("x-1")
    found = dispatch.run_once()
    assert [(type(each), each.bead.key) for each in found if isinstance(each, StillRunning | Dispatched)] == [
        (StillRunning, ("alpha", "x-1")), (Dispatched, ("beta", "x-1")),
    ]  # fmt: skip


def test_the_limit_is_that_of_all_together(server: Server, store: Databases, agent: support.Agent) -> None:
    for name in NAMES:
        server.beads[name].add(f"{name}-1")
    assert isinstance(run_once(store, agent, limit=1)[-1], NoSlot) and len(agent.posts) == 1
    assert isinstance(run_once(store, agent, limit=1)[-1], NoSlot) and len(agent.posts) == 1
    with contextlib.closing(Databases(server.dolt)) as other:  # another process
        assert isinstance(run_once(other, agent, limit=2)[-1], NoSlot) and len(agent.posts) == 2


@pytest.mark.parametrize("broken", NAMES)
def test_a_database_that_cannot_be_used_holds_up_no_other(
    server: Server, store: Databases, agent: support.Agent, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is named once, and served again within seconds."""
    for name in NAMES:
        server.beads[name].add(f"{name}-1")
    store.find_databases()
    server.beads[broken].sql("RENAME TABLE issues TO away")
    for _ in range(3):
        assert isinstance(run_once(store, agent)[-1], NothingEligible)
    assert {*agent.posts} == {f"{name}-1" for name in NAMES if name != broken}
    assert len([line for line in caplog.messages if f"the database {broken} is left out" in line]) == 1
    server.beads[broken].sql("RENAME TABLE away TO issues")
    wait_for(lambda: run_once(store, agent) and f"{broken}-1" in agent.posts, "it is served again")
    assert len(agent.posts) == 3


def test_a_database_that_does_not_answer_holds_up_no_other(
    server: Server, agent: support.Agent, caplog: pytest.LogCaptureFixture
) -> None:
    """It costs a pass one statement's time, and then none; a server that does not answer is waited for."""
    for name in NAMES:
        server.beads[name].add(f"{name}-1")
    server.beads["alpha"].sql("RENAME TABLE issues TO away")
    server.beads["alpha"].sql("CREATE VIEW issues AS SELECT away.* FROM away WHERE SLEEP(5) = 0")
    with contextlib.closing(Databases(server.dolt, statement_seconds=1)) as hasty:
        try:
            assert isinstance(run_once(hasty, agent)[-1], NothingEligible)
            assert {*agent.posts} == {"beta-1", "gamma-1"}
            assert len([line for line in caplog.messages if "the database alpha is left out" in line]) == 1
            started = time.monotonic()
            run_once(hasty, agent)
            assert time.monotonic() - started < 1
        finally:
            server.beads["alpha"].sql("DROP VIEW issues")
            server.beads["alpha"].sql("RENAME TABLE away TO issues")
        cut = StoreError("cut", 2013)
        with pytest.raises(StoreError, match="cut"):
            hasty.leave_out("beta", cut)


@pytest.fixture
def restricted(server: Server) -> Iterator[Databases]:
    """Of a user who may not write in alpha."""
    beads = server.beads["alpha"]
    beads.sql("CREATE USER IF NOT EXISTS 'some'@'%%' IDENTIFIED BY 'x'")
    beads.sql("GRANT SELECT ON *.* TO 'some'@'%%'")
    beads.sql("GRANT INSERT, UPDATE, DELETE ON `beads_dispatch`.* TO 'some'@'%%'")
    for name in ("beta", "gamma"):
        beads.sql(f"GRANT INSERT, UPDATE, EXECUTE ON `{name}`.* TO 'some'@'%%'")
    with contextlib.closing(Databases(replace(server.dolt, user="some", password="x"))) as store:
        yield store


def test_a_database_that_cannot_be_written_holds_up_no_other(
    server: Server, restricted: Databases, agent: support.Agent, caplog: pytest.LogCaptureFixture
) -> None:
    """Its beads stay in the queue."""
    for name in NAMES:
        server.beads[name].add(f"{name}-1")
    run_once(restricted, agent)
    assert agent.posts == ["beta-1", "gamma-1"]
    assert "the database alpha is left out" in caplog.text
    assert server.beads["alpha"].row("alpha-1")["status"] == "open"


@pytest.mark.parametrize("metadata", ["{}", ORPHANED], ids=["inactive", "orphaned"])
def test_reap_goes_on_where_a_database_cannot_be_written(
    server: Server, restricted: Databases, caplog: pytest.LogCaptureFixture, metadata: str
) -> None:
    """Whatever it would write: the beads of the others are reaped."""
    for name in NAMES:
        server.beads[name].add(f"{name}-1", status="in_progress", updated_at=LONG_AGO, metadata=metadata)
    found = reaper.run_once(restricted, DispatchLimits(), datetime.now(UTC))
    assert sorted(found.blocked + found.reopened) == ["beta-1", "gamma-1"] and "alpha-1" in found.left_alone
    assert server.beads["alpha"].row("alpha-1")["status"] == "in_progress"
    assert "the database alpha is left out" in caplog.text


def test_a_suspended_database_is_passed_over(server: Server, store: Databases, agent: support.Agent) -> None:
    """The others go on; all of them suspended is as one suspended."""
    for name in NAMES:
        server.beads[name].add(f"{name}-1")
    for name in ("alpha", "beta"):
        server.beads[name].sql("REPLACE INTO config (`key`, value) VALUES (%s, 'true')", suspension.KV_KEY)
    run_once(store, agent)
    assert agent.posts == ["gamma-1"] and store.control.suspension().dispatch is None
    assert store.eligible.count("agent", datetime.now(UTC)) == 0
    server.beads["gamma"].sql("REPLACE INTO config (`key`, value) VALUES (%s, 'dispatch')", suspension.KV_KEY)
    found = store.control.suspension()
    assert found.dispatch and found.reap is None


def test_only_a_database_that_changed_is_asked_again(server: Server, store: Databases) -> None:
    asked: list[list[str]] = []

    def count(names: Sequence[str]) -> dict[str, int]:
        asked.append(list(names))
        return store.each(lambda one: one.eligible.count_assigned("agent"), names)

    def counts() -> dict[str, int]:
        asked.clear()
        return store.remembered("beads", NAMES, count)

    server.beads["alpha"].add("a-1")
    assert (counts(), asked) == ({"alpha": 1, "beta": 0, "gamma": 0}, [[*NAMES]])
    assert (counts(), asked) == ({"alpha": 1, "beta": 0, "gamma": 0}, [])
    server.beads["beta"].add("b-1")
    server.beads["beta"].add("b-2")
    assert (counts(), asked) == ({"alpha": 1, "beta": 2, "gamma": 0}, [["beta"]])
    store.leave_out("beta", StoreError("it is migrated", 1105, refused=True))
    assert (counts(), asked) == ({"alpha": 1, "gamma": 0}, [])


def test_a_database_may_have_an_odd_name(server: Server, store: Databases, agent: support.Agent) -> None:
    name = "Team_working"
    server.make(name)
    run_once(store, agent)
    for bead in ("o-1", "o-2"):
        server.beads[name].add(bead)
        run_once(store, agent)
    assert agent.posts == ["o-1", "o-2"]


def test_reap_looks_in_each(server: Server, store: Databases) -> None:
    """Inactive beads are blocked where they are; not in a database whose config suspends reap."""
    for name in NAMES:
        server.beads[name].add(f"{name}-1", status="in_progress", updated_at=LONG_AGO)
    server.beads["beta"].sql("REPLACE INTO config (`key`, value) VALUES (%s, 'reap')", suspension.KV_KEY)
    found = reaper.run_once(store, DispatchLimits(), datetime.now(UTC))
    assert sorted(found.blocked) == ["alpha-1", "gamma-1"]
    assert [server.beads[name].row(f"{name}-1")["status"] for name in NAMES] == ["blocked", "in_progress", "blocked"]


def test_reap_marks_what_is_dated_ahead_in_each(server: Server, store: Databases) -> None:
    """On the bead of that database: 30 minutes later it is blocked."""
    metadata = '{"dispatch": {"claim": "c", "job": "j", "at": "2026-07-15T09:30:00Z"}}'
    for name in ("alpha", "beta"):
        server.beads[name].insert(["x-1"], status="in_progress", metadata=metadata, updated_at=datetime(2100, 1, 1))
    now = datetime.now(UTC)
    assert reaper.run_once(store, DispatchLimits(), now).blocked == []
    assert reaper.dated_ahead(store, DispatchLimits(), now) == []
    assert reaper.run_once(store, DispatchLimits(), now + timedelta(minutes=31)).blocked == ["x-1", "x-1"]


def test_each_user_works_where_users_sql_was_run(server: Server, store: Databases, agent: support.Agent) -> None:
    """Run once for each of two databases, with the same passwords; the third one is left out."""
    text = USERS_SQL.read_text()
    for name in test_users.NAMES:
        text = text.replace(f"{name.upper()}_PASSWORD", f"secret of {name}")
    where = ["--host", server.dolt.host, "--port", str(server.port), "--user", "root", "--password", "", "--no-tls"]
    for database in ("alpha", "beta"):
        script = text.replace("`beads`.", f"`{database}`.")
        subprocess.run([toolchain.dolt(), *where, "sql"], input=script, text=True, check=True)
    store.feed_state.prepare()

    def as_user(name: str) -> settings.DoltSettings:
        return replace(server.dolt, user=f"beads-{name}", password=f"secret of {name}")

    for name in NAMES:
        server.beads[name].add(f"{name}-1")
        server.beads[name].add(f"{name}-2", status="in_progress", updated_at=LONG_AGO)
    with contextlib.closing(Databases(as_user("dispatch"))) as own:
        run_once(own, agent)
    assert {*agent.posts} == {"alpha-1", "beta-1"}
    with contextlib.closing(Databases(as_user("reap"))) as own:
        assert sorted(reaper.run_once(own, DispatchLimits(), datetime.now(UTC)).blocked) == ["alpha-2", "beta-2"]
    owner = Owner(as_user("feeder"), threading.Event())
    with contextlib.closing(Databases(as_user("feeder"))) as own, contextlib.closing(owner):
        assert checkpoint.wait_for_position(own, HealthState(), threading.Event(), owner)
        assert [*own.each(lambda one: one.versions())] == ["alpha", "beta"]


def test_beads_of_the_same_id_are_told_apart(server: Server, store: Databases, tmp_path: pathlib.Path) -> None:
    """The job of one runs; the other is inactive, and is blocked."""
    server.beads["alpha"].add("x-1")
    command = {"command": "until [ -e ended ]; do sleep 0.1; done", "folder": str(tmp_path)}
    backend = agents.backend(settings.AgentSettings("", backend="command", options=command))
    outcomes = Dispatcher(store, backend, DispatchLimits(), lambda: datetime.now(UTC), lambda seconds: None).run_once()
    assert isinstance(outcomes[0], Dispatched)
    server.beads["beta"].add("x-1", status="in_progress", updated_at=LONG_AGO)
    now = datetime.now(UTC)
    assert len(store.overview([DispatchLimits()], now + timedelta(minutes=1)).agents["agent"].in_progress) == 2
    found = reaper.run_once(store, DispatchLimits(), now + timedelta(hours=1), backend)
    assert found.blocked == ["x-1"]
    (tmp_path / "ended").touch()
    assert [server.beads[name].row("x-1")["status"] for name in ("alpha", "beta")] == ["in_progress", "blocked"]


def test_a_job_is_told_of_its_database(server: Server, store: Databases, tmp_path: pathlib.Path) -> None:
    server.beads["beta"].add("b-1")
    command = {"command": "echo in $BEAD_DATABASE > told", "folder": str(tmp_path)}
    backend = agents.backend(settings.AgentSettings("", backend="command", options=command))
    Dispatcher(store, backend, DispatchLimits(), lambda: datetime.now(UTC), lambda seconds: None).run_once()
    found = server.beads["beta"].store.claims.read_back("b-1")
    assert found and found.record.job
    wait_for(lambda: backend.state(found.record.job or "").phase is not agents.Phase.RUNNING, "it ends")
    assert (tmp_path / "told").read_text() == "in beta\n"


def test_a_job_that_reap_starts_is_told_of_its_database(server: Server, store: Databases) -> None:
    """JobSink finds the job of a lost answer by starting it."""
    with support.closing(JobSinkService()) as service:
        backend = agents.backend(settings.AgentSettings(service.url, backend="jobsink"))
        server.beads["beta"].add("b-1", status="in_progress", metadata=ORPHANED[:-2] + ', "outcome": "unknown"}}')
        reaper.run_once(store, DispatchLimits(), datetime.now(UTC), backend)
        assert [event["data"] for event in service.started] == [{"bead": "b-1", "actor": "agent", "database": "beta"}]


@pytest.fixture
def feeder(server: Server, sink: support.Sink, tmp_path: pathlib.Path) -> Iterator[list[Process]]:
    """Feeder processes; see start."""
    running: list[Process] = []
    yield running
    for process in running:
        process.kill()


def start(server: Server, sink: support.Sink, tmp_path: pathlib.Path, running: list[Process], **more: str) -> Process:
    port = str(processes.free_port())
    name = f"feeder-{len(running)}"
    environment = server.environment(K_SINK=sink.url, PORT=port, **more)
    running.append(Process(name, processes.python("-m", "feeder"), tmp_path / f"{name}.log", environment))
    return running[-1]


def started(server: Server, sink: support.Sink, tmp_path: pathlib.Path, running: list[Process], **more: str) -> Process:
    """As start, once it reads the binlog."""
    process = start(server, sink, tmp_path, running, **more)
    wait_for(lambda: "reading the binlog" in process.log.read_text(), "the feeder reads")
    return process


def test_one_feeder_serves_all_databases_as_they_come_and_go(
    server: Server, sink: support.Sink, tmp_path: pathlib.Path, feeder: list[Process]
) -> None:
    """Events name theirs, one of a bead id in two databases too; after a restart nothing comes again, and what came
    meanwhile does."""
    process = started(server, sink, tmp_path, feeder)
    server.beads["alpha"].add("x-1")
    server.beads["beta"].add("x-1", assignee="bob")
    wait_for(lambda: len(sink.about("x-1")) == 2, "both changes")
    changed = {event.source: event.extensions for event in sink.about("x-1")}
    assert {source: (one["database"], one["assignee"]) for source, one in changed.items()} == {
        "/dolt/alpha": ("alpha", "agent"), "/dolt/beta": ("beta", "bob"),
    }  # fmt: skip
    (request,) = wait_for(lambda: sink.of_type(events.DISPATCH_REQUESTED), "a pass is requested")[-1:]
    assert request.extensions["agent"] == "agent"
    server.make("delta").add("d-1", assignee="bob")
    wait_for(lambda: sink.about("d-1"), "a change of a new database")
    server.beads["delta"].sql("DROP DATABASE delta")
    del server.beads["delta"]
    server.beads["gamma"].add("g-1", assignee="bob")
    wait_for(lambda: sink.about("g-1"), "a change after that")
    process.kill()
    before = len(sink.received)
    server.beads["gamma"].add("g-2", assignee="bob")
    again = start(server, sink, tmp_path, feeder)
    wait_for(lambda: sink.about("g-2"), "what came meanwhile")
    repeated = {event.id for event in sink.received[:before]} & {event.id for event in sink.received[before:]}
    assert len(repeated) <= 1, again.log.read_text()  # the last one, where its position was not stored yet


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The databases whose comparison has begun."""
    begun: list[str] = []
    begin = gap_recovery.GapRecovery.begin

    def recorded(self: gap_recovery.GapRecovery, executed: str) -> None:
        begun.extend(self._beads.databases())
        begin(self, executed)

    monkeypatch.setattr(gap_recovery.GapRecovery, "begin", recorded)
    return begun


def test_a_change_of_one_database_compares_no_other(
    server: Server, sink: support.Sink, compared: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its schema, or one with too many rows; none is compared where the feed does not serve it."""
    monkeypatch.setattr(binlog, "MOST_ROWS", 5)
    alpha, beta, gamma = (server.beads[name] for name in NAMES)
    with contextlib.closing(Running(server.dolt, sink.url)) as running:
        running.wait_until_started(alpha)
        running.wait_for(alpha, lambda: not running.feed._gap_recovery.pending, "the first comparison")

        def compared_after(bead: str) -> set[str]:
            """The databases whose comparison begins until a bead that is added now is published."""
            alpha.add(bead, assignee="bob")
            wait_for(lambda: sink.about(bead), "the change behind it")
            found = {*compared}
            compared.clear()
            return found

        assert compared_after("a-1") == {*NAMES}
        for statement in ("CREATE DATABASE unserved", "CREATE TABLE unserved.issues (id INT PRIMARY KEY)",
                          "ALTER TABLE unserved.issues ADD more INT", "DROP DATABASE unserved"):  # fmt: skip
            alpha.sql(statement)
        assert compared_after("a-2") == set()
        alpha.sql("CREATE TABLE beta.other (id INT PRIMARY KEY)")
        beta.sql("DROP TABLE other")
        assert compared_after("a-3") == {"beta"}
        gamma.insert([f"g-{number}" for number in range(6)], assignee="bob")
        assert compared_after("a-4") == {"gamma"}
        server.make("eta")
        assert compared_after("a-5") == {"eta"}
        alpha.sql("DROP DATABASE eta")
        alpha.sql("CALL dolt_undrop('eta')")  # a restore, as the binlog shows it
        assert compared_after("a-6") == {"eta"}
        alpha.sql("CREATE TABLE beads_dispatch.other (id INT PRIMARY KEY)")
        alpha.sql("DROP TABLE beads_dispatch.other")
        assert compared_after("a-7") == {*NAMES, "eta"}
        wait_for(lambda: all(sink.about(f"g-{number}") for number in range(6)), "the net change")


def test_change_events_are_published_while_databases_are_compared(
    server: Server, sink: support.Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is committed while a page is compared is published before the next page, of any database, is."""
    monkeypatch.setattr(gap_recovery, "AT_ONCE_SECONDS", 0)
    monkeypatch.setattr(feed_state, "PAGE", 10)
    server.beads["alpha"].insert([f"a-{number:03}" for number in range(25)], assignee="bob")
    pages: list[tuple[str, bool]] = []
    unpublished = feed_state.FeedState.unpublished

    def recorded(self: feed_state.FeedState, after: str) -> tuple[Rows, str | None]:
        found = unpublished(self, after)
        pages.append(
            (self._published.partition("/")[0], all(sink.about(f"g-{number}") for number in range(len(pages))))
        )
        server.beads["gamma"].add(f"g-{len(pages) - 1}", assignee="bob")
        return found

    monkeypatch.setattr(feed_state.FeedState, "unpublished", recorded)
    with contextlib.closing(Running(server.dolt, sink.url)) as running:
        running.wait_for(server.beads["beta"], lambda: len(pages) >= 5, "all are compared")
        wait_for(lambda: not running.feed._gap_recovery.pending, "the comparison ends")
    assert pages == [("alpha", True)] * 3 + [("beta", True), ("gamma", True)]
    assert not any(event.extensions.get("recovered") for event in sink.of_type(events.ISSUE_CHANGED))


def test_a_database_has_one_feeder(
    server: Server, sink: support.Sink, tmp_path: pathlib.Path, feeder: list[Process]
) -> None:
    """Of its own, or of all; and the next one goes on from what the one before published."""
    alone = started(server, sink, tmp_path, feeder, DOLT_DATABASE="beta")
    server.beads["beta"].add("b-1", assignee="bob")
    wait_for(lambda: sink.about("b-1"), "the change")
    refused = start(server, sink, tmp_path, feeder)
    wait_for(lambda: not refused.running, "the second one ends", 30)
    assert refused.kill() == os.EX_CONFIG and "the feed 'beta' belongs to another feeder" in refused.log.read_text()
    alone.stop()
    server.beads["beta"].sql("UPDATE issues SET assignee = 'carol' WHERE id = 'b-1'")
    started(server, sink, tmp_path, feeder)
    (recovered,) = wait_for(lambda: sink.about("b-1")[1:], "what came between them")
    assert (recovered.extensions["assignee"], recovered.extensions["recovered"]) == ("carol", "true")


def test_a_database_that_is_not_there_yet_holds_up_no_other(
    server: Server, sink: support.Sink, tmp_path: pathlib.Path, feeder: list[Process]
) -> None:
    """Of those that DOLT_DATABASE names; its beads of the time before count as published."""
    started(server, sink, tmp_path, feeder, DOLT_DATABASE="alpha,later")
    server.beads["alpha"].add("a-1", assignee="bob")
    wait_for(lambda: sink.about("a-1"), "a change of the other")
    server.make("later").add("l-1", assignee="bob")
    wait_for(lambda: sink.about("l-1"), "a change of the new one")


def test_a_database_that_comes_later_is_locked_too(
    server: Server, sink: support.Sink, tmp_path: pathlib.Path, feeder: list[Process], caplog: pytest.LogCaptureFixture
) -> None:
    """Within a minute; where a feeder of its own was first, that is said."""
    stop = threading.Event()
    owner = Owner(server.dolt, stop)
    with contextlib.closing(owner):
        assert owner.take()
        server.make("epsilon")
        owner._store.find_databases()
        owner._take_new_ones()
        refused = start(server, sink, tmp_path, feeder, DOLT_DATABASE="epsilon")
        wait_for(lambda: not refused.running, "the second one ends", 30)
        assert "the feed 'epsilon' belongs to another feeder" in refused.log.read_text()
        server.make("zeta")
        with contextlib.closing(FeedLock(server.dolt.of("zeta"))) as other:
            assert other.add("zeta")
            owner._store.find_databases()
            owner._take_new_ones()
        assert "the database zeta has a feeder of its own" in caplog.text


def test_the_command_looks_at_one(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.beads["beta"].add("b-1")
    env = server.environment()
    assert main.run(["status"], env) == 1 and "--database" in capsys.readouterr().err
    assert main.run(["status", "--json", "--database", "beta"], env) == 0
    assert "b-1" in capsys.readouterr().out
    assert main.run(["status", "--database", "other"], {**env, "DOLT_DATABASE": "alpha,beta"}) == 1
    assert "the databases are alpha, beta" in capsys.readouterr().err


@pytest.mark.parametrize("written", ["a,", "a,a", "*,a", ",", "a,,b"])
def test_names_that_are_none_are_refused(written: str) -> None:
    with pytest.raises(settings.SettingsError, match="expected a database, several different ones"):
        settings.server({"DOLT_HOST": "h", "DOLT_DATABASE": written})


def test_what_needs_one_refuses_several() -> None:
    with pytest.raises(settings.SettingsError, match="one database is needed"):
        settings.dolt({"DOLT_HOST": "h", "DOLT_DATABASE": "a,b"})
    found = settings.server({"DOLT_HOST": "h", "DOLT_DATABASE": "a, b", "FEED_NAME": "team"})
    assert (found.databases, found.feed, found.of("b").published_feed) == (("a", "b"), "*/team", "b/team")


def test_the_console_shows_one(server: Server) -> None:
    """With the state of the feed of all; that of CONSOLE_DATABASE, or of the workspace."""
    workspace = {"BEADS_DIR": str(server.beads["beta"].workspace.beads_dir), "DOLT_DATABASE": "*"}
    for env, name in ((workspace, "beta"), ({**workspace, "CONSOLE_DATABASE": "alpha"}, "alpha")):
        found = settings.console({**env, "DOLT_PORT": str(server.port)})
        assert (found.database, found.feed) == (name, "*")
    for env, words in (
        ({"DOLT_DATABASE": "*"}, "Set CONSOLE_DATABASE"),
        ({"DOLT_DATABASE": "a,b", "CONSOLE_DATABASE": "c"}, "the databases are a, b"),
    ):
        with pytest.raises(settings.SettingsError, match=words):
            settings.console({"DOLT_HOST": "h", **env})
