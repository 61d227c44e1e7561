"""A fault never stops the feed, and holds up no request: on a real Dolt and a real sink."""

import functools
import itertools
import pathlib
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from beads_dispatch import events, log, settings, store
from beads_dispatch.outcomes import AgentFailed, Dispatched, NothingEligible
from beads_dispatch.store import feed_state
from feeder import binlog, changes, emitter, gap_recovery, health
from feeder import checkpoint as checkpoints
from feeder.changes import RowChange, Transaction
from feeder.deaths import AT_ANY, DeathCounter
from feeder.emitter import EventRefused, SinkError, retry_until_accepted
from feeder.metrics import JUMPS, LAST_JUMP, REFUSED_EVENTS
from feeder.request_feed import RequestFeed
from local import processes
from local.dolt import DoltServer
from tests import support
from tests.conftest import Beads, make_workspace
from tests.integration.conftest import Clock, DispatcherFactory
from tests.integration.test_dispatch import record
from tests.integration.test_feed import Running
from tests.support import wait_for
from tools import toolchain
from tools.bench import scale
from tools.database import BeadsDatabase


@pytest.fixture
def running(beads: Beads, sink: support.Sink) -> Iterator[Running]:
    """A feed that has started."""
    with support.closing(Running(beads.dolt, sink.url)) as feed:
        feed.wait_until_started(beads)
        yield feed


def hang(until: threading.Event) -> support.Behaviour:
    """No answer until the event is set."""

    def behaviour(handler: support.Handler) -> None:
        until.wait()
        support.hangs_up(handler)

    return behaviour


def about_changes(behaviour: support.Behaviour, bead: str = "") -> Callable[[events.Event], support.Behaviour]:
    """How a sink answers change events, of one bead or of all; it accepts the others."""
    return lambda event: behaviour if event.subject and event.subject in (bead or event.subject) else support.accepted


def requested(sink: support.Sink, number: int) -> bool:
    """Whether so many passes were requested."""
    return len(sink.of_type(events.DISPATCH_REQUESTED)) >= number


def test_a_subscriber_that_hangs_delays_no_request(beads: Beads, sink: support.Sink, running: Running) -> None:
    """The change event waits for its answer; the request does not wait for the change event."""
    released = threading.Event()
    sink.choose = about_changes(hang(released))
    before = len(sink.of_type(events.DISPATCH_REQUESTED))
    try:
        for bead in ("x-1", "x-2"):
            beads.add(bead)
            before += 1
            wait_for(functools.partial(requested, sink, before), "the request for the bead")
        assert sink.of_type(events.ISSUE_CHANGED) == []
    finally:
        sink.choose = lambda event: support.accepted
        released.set()
    wait_for(lambda: sink.about("x-1") and sink.about("x-2"), "the changes, late")


def test_until_changes_are_seen_dolt_is_asked(
    beads: Beads, sink: support.Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a connect, while Dolt has sent nothing yet: it may be reading a large transaction."""
    monkeypatch.setattr(RequestFeed, "_live", lambda self: None)
    monkeypatch.setattr(RequestFeed, "_look_at", lambda self, transaction: None)
    with support.closing(Running(beads.dolt, sink.url)) as running:
        running.wait_until_started(beads)
        beads.add("x-1")
        wait_for(lambda: sink.of_type(events.DISPATCH_REQUESTED), "the request")
        assert sink.of_type(events.DISPATCH_REQUESTED)[-1].extensions["cause"] == "resume"


def test_once_changes_are_seen_dolt_is_not_asked(beads: Beads, running: Running) -> None:
    """It costs nothing while nothing happens; nor does an outage of the binlog, in which nothing comes."""
    pending = running.request_feed._pending["agent"]
    running.wait_for(beads, lambda: pending.unsure_until == 0, "the first transaction is seen")
    running.request_feed._unsure()
    assert pending.unsure_until > 0
    pending.unsure_until = 0
    running.request_feed._unsure()
    assert pending.unsure_until == 0


def test_an_event_that_the_sink_refuses_for_good_is_passed_over(
    beads: Beads,
    sink: support.Sink,
    running: Running,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After ten tries: logged with its id, counted, and what comes after it is published."""
    monkeypatch.setattr(emitter, "FIRST_DELAY_SECONDS", 0.001)
    refused = REFUSED_EVENTS._value.get()
    sink.choose = about_changes(support.answers(413), "x-odd")
    beads.add("x-odd", assignee="bob")
    beads.add("x-2", assignee="bob")
    wait_for(lambda: sink.about("x-2"), "the change after it")
    assert REFUSED_EVENTS._value.get() == refused + 1
    (logged,) = [text for record in caplog.records if "is passed over" in (text := record.getMessage())]
    assert "answered HTTP 413, 10 times in a row" in logged
    assert str(beads.sql("SELECT @@server_uuid AS id")[0]["id"]) in logged


def to_odd(change: changes.Change, database: str, *, build: Callable[..., events.Event]) -> events.Event:
    if change.bead == "x-odd":
        raise RecursionError("too deep")
    return build(change, database)


@pytest.mark.parametrize("found_by", ["the binlog", "comparing"])
def test_an_event_that_cannot_be_built_is_passed_over(
    beads: Beads,
    sink: support.Sink,
    running: Running,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    found_by: str,
) -> None:
    """Whatever it raises, however its change is found: at the second failure, and what is behind it is published."""
    refused, jumps = REFUSED_EVENTS._value.get(), JUMPS._value.get()
    seen = f"{store.STATE_DATABASE}.seen"
    if found_by == "comparing":
        beads.add("x-odd", assignee="bob")
        stored = f"SELECT COUNT(*) AS number FROM {seen} WHERE bead = 'x-odd'"
        wait_for(lambda: beads.sql(stored)[0]["number"], "its published state is stored")
        beads.sql(f"UPDATE {seen} SET assignee = 'carol' WHERE bead = 'x-odd'")
    before = len(sink.about("x-odd"))
    monkeypatch.setattr(changes, "to_event", functools.partial(to_odd, build=changes.to_event))
    if found_by == "comparing":
        another_schema(beads, monkeypatch)
    else:
        beads.add("x-odd", assignee="bob")
    running.wait_for(beads, lambda: REFUSED_EVENTS._value.get() > refused, "the change is passed over")
    beads.add("x-2", assignee="bob")
    wait_for(lambda: sink.about("x-2"), "the change behind it")
    published = f"SELECT assignee FROM {seen} WHERE bead = 'x-odd'"
    wait_for(lambda: [row["assignee"] for row in beads.sql(published)] == ["bob"], "it counts as published")
    assert (REFUSED_EVENTS._value.get(), JUMPS._value.get()) == (refused + 1, jumps)
    assert len(sink.about("x-odd")) == before
    (passed,) = [record for record in caplog.records if "is passed over: RecursionError" in record.getMessage()]
    named = log.fields(passed)
    assert named["bead"] == "x-odd" and named["event"] in passed.getMessage()
    assert named["event"].startswith("recovered:") == (found_by == "comparing")


def test_a_comparison_that_fails_is_left_to_the_next_one(
    beads: Beads,
    sink: support.Sink,
    running: Running,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever it raises: the feed goes on from where it is."""

    def fails(*_: object) -> None:
        raise RecursionError("too deep")

    jumps = JUMPS._value.get()
    running.wait_for(beads, lambda: not running.feed._gap_recovery.pending, "the first comparison")
    monkeypatch.setattr(changes, "recovered", fails)
    another_schema(beads, monkeypatch)
    running.wait_for(beads, lambda: f"comparison of {beads.dolt.database} failed" in caplog.text, "the comparison")
    beads.add("x-2", assignee="bob")
    wait_for(lambda: sink.about("x-2"), "the change behind it")
    assert JUMPS._value.get() == jumps and not running.feed._gap_recovery.pending


@pytest.mark.parametrize(("answers", "taken"), [
    ([400] * 9 + [202], True),
    ([400] * 9 + [503] + [431] * 9 + [202], True),
    ([503] * 50 + [202], True),
    ([400, 413, 431] * 3 + [400], False),
])  # fmt: skip
def test_only_ten_refusals_in_a_row_end_the_tries(answers: list[int], taken: bool) -> None:
    """Any other answer is tried again, indefinitely."""
    left = list(answers)

    def send() -> None:
        if (status := left.pop(0)) != 202:
            raise SinkError("no", status)

    if taken:
        assert retry_until_accepted(send, lambda seconds: False, lambda: None)
    else:
        with pytest.raises(EventRefused):
            retry_until_accepted(send, lambda seconds: False, lambda: None)
    assert left == []


def test_a_transaction_with_too_many_rows_is_published_as_its_net_change(
    beads: Beads, sink: support.Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are not kept; its GTID is in the metric; what comes after it is published as ever."""
    monkeypatch.setattr(binlog, "MOST_ROWS", 5)
    jumps = JUMPS._value.get()
    with support.closing(Running(beads.dolt, sink.url)) as running:
        running.wait_until_started(beads)
        names = [f"x-{number}" for number in range(6)]
        beads.insert(names, assignee="bob")  # one transaction
        running.wait_for(beads, lambda: all(sink.about(name) for name in names), "the net change")
        beads.add("y-1", assignee="bob")
        wait_for(lambda: sink.about("y-1"), "the change after it")
        assert [event.extensions.get("recovered") for name in names for event in sink.about(name)] == ["true"] * 6
        assert sink.about("y-1")[0].extensions.get("recovered") is None
    assert JUMPS._value.get() == jumps + 1
    ((gtid,),) = LAST_JUMP._metrics
    assert gtid.startswith(str(beads.sql("SELECT @@server_uuid AS id")[0]["id"]))


def test_a_position_with_a_hole_is_read_on_from(beads: Beads) -> None:
    """A large transaction may be in the log behind one with a higher number: what had not been read comes, and so does
    what is behind it."""
    before = beads.store.feed_state.executed()
    for number in range(3):
        beads.add(f"x-{number}")
    server, _, last = beads.store.feed_state.executed().rpartition("-")
    position = binlog.Position(before)
    position.add(f"{server.rpartition(':')[0]}:{last}")
    assert len(str(position).split(":")) == 3
    with support.closing(binlog.Stream(beads.dolt, position, {"issues": ("id",)})) as stream:
        found = (item for item in stream if isinstance(item, Transaction) and item.rows)
        read = [row.after for item in itertools.islice(found, 3) for row in item.rows]
    assert read == [{"id": "x-0"}, {"id": "x-1"}, {"id": "x-2"}]


def test_the_columns_of_every_type_are_passed_over(beads: Beads) -> None:
    """Whatever is in the other columns, the first and the last are read as they are; metadata so deep that the library
    cannot decode it."""
    last = str(beads.sql("SHOW COLUMNS FROM issues")[-1]["Field"])
    kept = ("id", "title", "assignee", "status", "priority", "updated_at", last)
    position = binlog.Position(beads.store.feed_state.executed())
    texts = ("", "ä🙂\0\n", "x" * 255, "y" * 60_000)
    for number, text in enumerate(texts):
        beads.add(
            f"x-{number}",
            description=text,
            title=text[:200],
            metadata='{"a": [1.5, null, "ü"]}' if number else '{"a": %s}' % ("[" * 500 + "]" * 500),
            estimated_minutes=None if number % 2 else 2**31 - 1,
            defer_until="2026-02-03 04:05:06",
        )
    written = beads.rows()
    beads.sql("UPDATE issues SET notes = %s, assignee = NULL, defer_until = NULL", "n" * 300)
    beads.sql("DELETE FROM issues WHERE id = 'x-1'")
    with support.closing(binlog.Stream(beads.dolt, position, {"issues": kept})) as stream:
        transactions = (item for item in stream if isinstance(item, Transaction) and item.rows)
        *inserts, update, delete = (found.rows for found in itertools.islice(transactions, len(texts) + 2))
    for (row,), (bead, columns) in zip(inserts, written.items(), strict=True):
        assert row.before is None and row.after == {column: columns[column] for column in kept}, bead
    assert values(update, "before", "assignee") == ["agent"] * len(texts)
    assert values(update, "after", "assignee") == [None] * len(texts)
    assert values(update, "after", "title") == [text[:200] for text in texts]
    assert values(delete, "before", "id") == ["x-1"] and delete[0].after is None


def values(rows: Sequence[RowChange], side: str, column: str) -> list[Any]:
    """A column of each row, before or after the change."""
    return [getattr(row, side)[column] for row in rows]


@pytest.mark.parametrize(("missing", "executed", "is_being_written"), [
    ("a-1:326", "a-1:1-326", True),
    ("a-1:326", "a-1:1-325", True),  # what the server reports may be behind
    ("a-1:326", "a-1:1-327", False),
    ("a-1:325-326", "a-1:1-326", False),
    ("a-1:326,b-2:1-7", "a-1:1-326,b-2:1-7", False),
    ("b-2:7", "a-1:1-326,b-2:1-7", True),
])  # fmt: skip
def test_a_transaction_that_is_being_written_is_no_gap(missing: str, executed: str, is_being_written: bool) -> None:
    """Dolt has counted it, and has not written it to its log yet: only the newest is missing, and it alone."""
    refused = binlog.PositionRefused(f"… the replica is 'a-1:1-3', and the missing transactions are '{missing}'.")
    assert refused.is_being_written(executed) == is_being_written


def test_beads_are_compared_and_copied_page_by_page(beads: Beads, monkeypatch: pytest.MonkeyPatch) -> None:
    """No page has more than PAGE beads of either side, and together they find each difference once."""
    monkeypatch.setattr(feed_state, "PAGE", 10)
    names = [f"x-{number:03}" for number in range(95)]
    beads.insert(names, assignee="bob")
    pages: list[int] = []
    beads.store.feed_state.begin("uuid:1", "start", pages.append)
    assert len(pages) == 10 and pages[-1] == 95
    beads.store.feed_state.begin("uuid:2", "start")  # once more, over what is there
    beads.insert([f"y-{number:03}" for number in range(30)], assignee="bob")
    beads.sql("DELETE FROM issues WHERE id < 'x-030'")
    beads.sql("UPDATE issues SET assignee = 'carol' WHERE id >= 'x-090'")
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        rows, after = beads.store.feed_state.unpublished(after)
        assert len(rows) <= 20
        found += [str(row["bead"]) for row in rows]
    assert sorted(found) == [*names[:30], *names[90:95], *(f"y-{number:03}" for number in range(30))]


def test_a_page_reads_its_own_beads_alone(beads: Beads, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dolt's plan of each statement has an upper bound or a limit: a page costs no more where more beads follow."""
    monkeypatch.setattr(feed_state, "PAGE", 1000)
    beads.insert([f"x-{number:05}" for number in range(5000)], assignee="bob")
    beads.store.feed_state.begin("uuid:1", "start")
    with scale.recorded_queries() as queries:
        beads.store.feed_state.unpublished("x-01000")
    assert len(queries) == 4
    for sql, params in queries.items():
        with beads.cursor() as cursor:
            cursor.execute(f"EXPLAIN PLAN {sql}", params)
            plan = "\n".join(str(line) for row in cursor.fetchall() for line in row.values())
        assert "Limit(1)" in plan or "∞" not in plan, plan
        assert "TopN" not in plan and "MergeJoin" not in plan, plan


def test_more_differences_than_are_published_at_once(beads: Beads, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison goes on where it was, and publishes each once."""
    monkeypatch.setattr(feed_state, "PAGE", 10)
    monkeypatch.setattr(gap_recovery, "AT_ONCE", 15)
    names = [f"x-{number:03}" for number in range(95)]
    beads.store.feed_state.begin(beads.store.feed_state.executed(), "start")
    beads.insert(names, assignee="bob")
    recovery = gap_recovery.GapRecovery(beads.store, lambda seconds: False)
    recovery.begin(beads.store.feed_state.executed())
    rounds: list[list[str]] = []
    while recovery.pending:
        read = binlog.Position(beads.store.feed_state.executed())
        rounds.append([change.bead for change in recovery.changes_at(read, lambda: None, idle=False)])
    assert sorted(name for found in rounds for name in found) == names
    assert max(map(len, rounds)) <= 15 + 10 and len(rounds) > 3


def drop_database(beads: Beads) -> None:
    beads.sql(f"DROP DATABASE {store.STATE_DATABASE}")


def drop_published(beads: Beads) -> None:
    beads.sql(f"DROP TABLE {store.STATE_DATABASE}.seen")


@pytest.mark.parametrize("drop", [drop_database, drop_published])
def test_the_state_that_is_dropped_is_made_again(
    beads: Beads,
    sink: support.Sink,
    running: Running,
    caplog: pytest.LogCaptureFixture,
    drop: Callable[[Beads], None],
) -> None:
    """Under a connected feed: logged once, what was published is not published again, and what comes after it is."""
    beads.add("x-1", assignee="bob")
    wait_for(lambda: sink.about("x-1"), "the change before")
    drop(beads)
    beads.add("x-2", assignee="bob")
    wait_for(lambda: sink.about("x-2"), "the change after")
    wait_for(lambda: beads.store.feed_state.position(), "a stored position")
    running.wait_for(beads, lambda: not running.feed._gap_recovery.pending, "the comparison is made")
    beads.sql("UPDATE issues SET assignee = 'carol' WHERE id = 'x-1'")
    wait_for(lambda: len(sink.about("x-1")) == 2, "another change of the first bead")
    found = [event for bead in ("x-1", "x-2") for event in sink.about(bead)]
    assert len(found) == 3 and not any(event.extensions.get("recovered") for event in found)
    logged = [record for record in caplog.records if "was lost: it is made again" in record.getMessage()]
    assert len(logged) == 1


def test_the_beads_are_restored_under_a_connected_feed(tmp_path: pathlib.Path, sink: support.Sink) -> None:
    """A backup is restored, in two ways: what that undid is published, without a restart and within seconds."""
    server = DoltServer(toolchain.dolt(), tmp_path / "dolt", processes.free_port())
    server.start()
    try:
        workspace = make_workspace("1.3.0", server, tmp_path / "workspace")
        beads, backup = Beads(workspace), f"file://{tmp_path / 'backup'}"
        (tmp_path / "backup").mkdir()
        beads.empty()
        beads.add("x-1", assignee="bob")
        beads.commit("before the backup")
        beads.sql("CALL dolt_backup('sync-url', %s)", backup)
        with support.closing(Running(beads.dolt, sink.url)) as running:
            running.wait_until_started(beads)
            for number, restore in enumerate((in_place, dropped_first), start=1):
                beads.sql("UPDATE issues SET assignee = 'agent' WHERE id = 'x-1'")
                beads.add("x-2", assignee="bob")
                beads.commit("after the backup")
                wait_for(functools.partial(published, sink, 2 * number - 1), "the changes")
                restore(beads, backup)
                wait_for(functools.partial(published, sink, 2 * number), "what the restore undid")
                assert sink.about("x-1")[-1].extensions["assignee"] == "bob"
                assert sink.about("x-1")[-1].extensions["recovered"] == "true"
                assert sink.about("x-2")[-1].data["after"]["status"] is None
        beads.store.close()
    finally:
        server.stop()


def published(sink: support.Sink, number: int) -> bool:
    """Whether each of the two beads has so many events."""
    return all(len(sink.about(bead)) == number for bead in ("x-1", "x-2"))


def in_place(beads: BeadsDatabase, backup: str) -> None:
    elsewhere(beads, "CALL dolt_backup('restore', '--force', %s, %s)", backup, beads.dolt.database)


def dropped_first(beads: BeadsDatabase, backup: str) -> None:
    elsewhere(beads, f"DROP DATABASE `{beads.dolt.database}`")
    elsewhere(beads, "CALL dolt_backup('restore', %s, %s)", backup, beads.dolt.database)


def elsewhere(beads: BeadsDatabase, statement: str, *params: str) -> None:
    """Run a statement on a connection that uses no database."""
    with support.closing(store.connect(beads.dolt, database=None)) as connection, connection.cursor() as cursor:
        cursor.execute(statement, params)


class TestDeaths:
    """Which deaths of feeders count."""

    def start(self, beads: Beads, position: str) -> tuple[DeathCounter, store.Deaths | None]:
        counter = DeathCounter(beads.store)
        return counter, counter.begin(position)

    def test_two_at_a_large_transaction(self, beads: Beads) -> None:
        """The first while it was read live, the second after a start: the third start passes over it."""
        counter, _ = self.start(beads, "uuid:1")
        counter.large("uuid:5", "uuid:1-4")
        counter, found = self.start(beads, "uuid:1-4")
        assert found is None
        counter.large("uuid:5", "uuid:1-4")
        _, found = self.start(beads, "uuid:1-4")
        assert found is not None and (found.large, found.number) == ("uuid:5", 2)

    def test_an_advance_makes_them_void(self, beads: Beads) -> None:
        """The large transaction was published before the second death."""
        counter, _ = self.start(beads, "uuid:1")
        counter.large("uuid:5", "uuid:1-4")
        self.start(beads, "uuid:1-4")
        for number in (5, 6, 7):
            assert self.start(beads, f"uuid:1-{number}")[1] is None

    def test_a_clean_stop_counts_as_none(self, beads: Beads) -> None:
        """However often, and a restart while nothing happens."""
        for _ in range(2 * AT_ANY):
            counter, found = self.start(beads, "uuid:1")
            assert found is None
            counter.large("uuid:5", "uuid:1")
            counter.stopped()

    def test_who_has_caught_up_was_not_killed_by_a_transaction(self, beads: Beads) -> None:
        """A kill of a feeder that waits, again and again."""
        for _ in range(2 * AT_ANY):
            counter, found = self.start(beads, "uuid:1")
            assert found is None
            counter.caught_up()

    def test_many_without_an_advance(self, beads: Beads) -> None:
        """Any transaction may be the cause, so also one that is not large."""
        found = [self.start(beads, "uuid:1")[1] for _ in range(AT_ANY + 1)]
        assert found[:-1] == [None] * AT_ANY
        assert found[-1] == store.Deaths("uuid:1", "", AT_ANY)


def test_a_first_start_logs_its_progress(beads: Beads, caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    """A million beads take a minute."""
    monkeypatch.setattr(feed_state, "PAGE", 10)
    monkeypatch.setattr(checkpoints, "_LOGGED", 20)
    caplog.set_level("INFO")
    beads.insert([f"x-{number:03}" for number in range(65)])
    assert checkpoints.restore(beads.store, None, health.HealthState())
    assert [text for record in caplog.records if "count as published" in (text := record.getMessage())] == [
        f"{number} beads count as published as they are now" for number in (20, 40, 60)
    ]
    assert not checkpoints.restore(beads.store, None, health.HealthState())


def test_a_second_feed_of_the_database_keeps_its_own_state(beads: Beads) -> None:
    """What one feed makes again is not the other's."""
    other = store.Store(settings.DoltSettings(**{**vars(beads.dolt), "feed_name": "other"}))
    with support.closing(other):
        assert checkpoints.restore(beads.store, None, health.HealthState())
        assert checkpoints.restore(other, None, health.HealthState())
        assert not checkpoints.restore(beads.store, None, health.HealthState())


def another_hour(beads: Beads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gap_recovery, "EVERY_SECONDS", 0.5)


def another_schema(beads: Beads, monkeypatch: pytest.MonkeyPatch) -> None:
    beads.sql("CREATE TABLE other (id INT PRIMARY KEY)")
    beads.sql("DROP TABLE other")


@pytest.mark.parametrize("then", [another_hour, another_schema])
def test_a_connected_feed_compares_again(
    beads: Beads,
    sink: support.Sink,
    running: Running,
    monkeypatch: pytest.MonkeyPatch,
    then: Callable[[Beads, pytest.MonkeyPatch], None],
) -> None:
    """Once an hour, and after a change of the schema: what no transaction held is published, once."""
    beads.add("x-1", assignee="bob")
    wait_for(lambda: sink.about("x-1"), "the change")
    seen = f"SELECT COUNT(*) AS number FROM {store.STATE_DATABASE}.seen WHERE bead = 'x-1'"
    wait_for(lambda: beads.sql(seen)[0]["number"], "its published state is stored")
    # As if the bead had been carol's when it was published last.
    beads.sql(f"UPDATE {store.STATE_DATABASE}.seen SET assignee = 'carol' WHERE bead = 'x-1'")
    then(beads, monkeypatch)
    running.wait_for(beads, lambda: len(sink.about("x-1")) == 2, "what differs is published")
    found = sink.about("x-1")[1]
    assert (found.extensions["recovered"], found.data["before"]["assignee"]) == ("true", "carol")
    stored = f"SELECT assignee FROM {store.STATE_DATABASE}.seen WHERE bead = 'x-1'"
    running.wait_for(beads, lambda: beads.sql(stored)[0]["assignee"] == "bob", "it is stored as published")
    assert len(sink.about("x-1")) == 2


def test_no_bead_is_counted_for_a_state_that_is_dropped(
    beads: Beads,
    sink: support.Sink,
    agent: support.Agent,
    make_dispatcher: DispatcherFactory,
    clock: Clock,
    running: Running,
) -> None:
    """Dispatch works without it; a hold that cannot be stored costs no bead an attempt; the feeder requests a pass for
    a bead that is assigned afterwards."""
    dispatcher = make_dispatcher(max_in_flight=9)
    beads.add("x-1")
    drop_database(beads)
    agent.behaviour = support.answers(502)
    assert isinstance(dispatcher.run_once()[0], AgentFailed)
    assert (beads.row("x-1")["status"], record(beads, "x-1").failures) == ("open", 0)
    agent.behaviour = support.job
    running.wait_for(beads, lambda: beads.store.feed_state.position() is not None, "it is made again")
    beads.sql(f"DELETE FROM {store.STATE_DATABASE}.agent_holds")  # where it could be stored; it lasts 30 s
    before = len(sink.of_type(events.DISPATCH_REQUESTED))
    beads.add("x-2")
    wait_for(functools.partial(requested, sink, before + 1), "the request")
    clock.passed += timedelta(minutes=11)  # past the retry delay
    assert [type(outcome) for outcome in dispatcher.run_once()] == [Dispatched, Dispatched, NothingEligible]
