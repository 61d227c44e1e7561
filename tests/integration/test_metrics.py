"""What is scraped, from a real feed on a real Dolt."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from unittest import mock

import pymysql
import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from beads_dispatch import notes, reaper, settings, store
from feeder import deaths, metrics
from feeder.health import HealthState
from tests import support
from tests.conftest import Beads
from tests.integration.conftest import Clock, DispatcherFactory
from tests.integration.test_feed import Running
from tests.support import wait_for

Samples = dict[str, float]


def samples(page: bytes) -> Samples:
    """Each sample's value, by its name and labels: `beads_suspended{function="reap"}`."""
    found = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def of(found: Samples, name: str, agent: str = "agent") -> float:
    """One agent's value."""
    return found[f'{name}{{agent="{agent}"}}']


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scrape waits for Dolt's answer, however slow the machine: without it the metrics tested here are left out."""
    monkeypatch.setattr(metrics, "PATIENCE_SECONDS", support.PATIENCE_SECONDS)


@pytest.fixture
def scrape(beads: Beads) -> Iterator[Callable[[], Samples]]:
    """Scrapes with a Dolt that is asked anew each time."""
    with support.closing(store.Store(beads.dolt)) as own:
        yield lambda: samples(metrics.Scrape(own, [settings.DispatchLimits()], HealthState()).page())


def test_the_state_is_as_the_beads_are(beads: Beads, scrape: Callable[[], Samples]) -> None:
    """Waiting is what dispatch would take, and since when; running is what the agent has in progress."""
    nothing = scrape()
    empty = ("beads_waiting", "beads_oldest_waiting_seconds", "beads_running")
    assert [of(nothing, name) for name in empty] == [0, 0, 0]
    now = datetime.now(UTC).replace(microsecond=0)  # Dolt would round, up as well
    beads.add("x-1", updated_at=now - timedelta(minutes=10))
    beads.add("x-2", updated_at=now - timedelta(minutes=40))
    beads.add("x-3", updated_at=now - timedelta(minutes=90), acceptance=" ")
    beads.add("x-4", updated_at=now - timedelta(minutes=90), assignee="bob")
    beads.add("x-5", status="in_progress")
    beads.add("x-6", status="in_progress", assignee="bob")
    beads.add("x-7", updated_at=now - timedelta(minutes=90), metadata='{"dispatch": {"retry_at": "2100-01-01"}}')
    found = scrape()
    assert (of(found, "beads_waiting"), of(found, "beads_running")) == (2, 1)
    assert 40 * 60 <= of(found, "beads_oldest_waiting_seconds") < 45 * 60
    assert found["beads_feeder_dolt_up"] == 1


def test_a_blocked_bead_is_not_counted(beads: Beads, scrape: Callable[[], Samples]) -> None:
    """Not even when it is the only candidate: the view decides."""
    first, second = beads.workspace.create("first", "ok"), beads.workspace.create("second", "ok")
    beads.workspace.run("dep", "add", second, first)
    beads.sql("UPDATE issues SET assignee = 'agent' WHERE id = %s", second)
    assert of(scrape(), "beads_waiting") == 0
    beads.workspace.run("close", first)
    assert of(scrape(), "beads_waiting") == 1


def test_a_long_queue_costs_no_more(beads: Beads, scrape: Callable[[], Samples]) -> None:
    """100 are counted, and the oldest is the oldest of all."""
    beads.sql(
        "INSERT INTO issues (id, title, description, design, acceptance_criteria, notes, assignee, updated_at)"
        " WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150)"
        " SELECT CONCAT('x-', i), 't', '', '', 'ok', '', 'agent', UTC_TIMESTAMP() - INTERVAL i HOUR FROM n"
    )
    found = scrape()
    assert of(found, "beads_waiting") == 100
    assert of(found, "beads_oldest_waiting_seconds") // 3600 == 150


def test_hold_and_suspension_are_shown(beads: Beads, scrape: Callable[[], Samples]) -> None:
    """Each suspension alone; how many failures in a row, and how long they hold dispatch."""
    assert of(scrape(), "beads_hold_failures") == of(scrape(), "beads_hold_seconds") == 0
    beads.store.control.set_hold(
        "agent", store.Hold(), store.Hold(3, datetime.now(UTC) + timedelta(minutes=5), "HTTP 502")
    )
    beads.store.control.mirror_pingsource("reap", True)
    found = scrape()
    assert of(found, "beads_hold_failures") == 3
    assert 200 < of(found, "beads_hold_seconds") <= 300
    assert [found[f'beads_suspended{{function="{name}"}}'] for name in ("dispatch", "reap")] == [0, 1]
    beads.store.control.set_configured(dispatch=True, reap=False)
    found = scrape()
    assert [found[f'beads_suspended{{function="{name}"}}'] for name in ("dispatch", "reap")] == [1, 1]
    beads.store.control.set_hold(
        "agent", store.Hold(3), store.Hold(4, datetime.now(UTC) - timedelta(minutes=5), "HTTP 502")
    )
    assert of(scrape(), "beads_hold_seconds") == 0


def test_since_when_it_is_suspended_survives_the_feeder(beads: Beads, scrape: Callable[[], Samples]) -> None:
    """The moment at which it was found first, by whichever process and way; gone when it is resumed, and new then."""
    since = 'beads_suspended_since_timestamp_seconds{function="%s"}'
    assert not [name for name in scrape() if name.startswith("beads_suspended_since")]
    begun = datetime.now(UTC).replace(microsecond=0)
    beads.store.control.mirror_pingsource("dispatch", True)
    first = scrape()[since % "dispatch"]
    assert begun.timestamp() <= first < begun.timestamp() + support.PATIENCE_SECONDS
    beads.sql(f"UPDATE {store.STATE_DATABASE}.suspended SET since = since - INTERVAL 60 HOUR")
    with support.closing(store.Store(beads.dolt)) as another:
        found = samples(metrics.Scrape(another, [settings.DispatchLimits()], HealthState()).page())
    assert found[since % "dispatch"] == pytest.approx(first - 60 * 3600, abs=1)
    beads.store.control.set_configured(dispatch=False, reap=True)
    both = scrape()
    assert both[since % "dispatch"] == found[since % "dispatch"] and both[since % "reap"] >= begun.timestamp()
    beads.store.control.mirror_pingsource("dispatch", False)
    assert since % "dispatch" not in scrape()
    beads.store.control.mirror_pingsource("dispatch", True)
    assert scrape()[since % "dispatch"] >= begun.timestamp()


def test_the_longest_inactivity_is_shown(beads: Beads, scrape: Callable[[], Samples]) -> None:
    """Of the beads that reap looks at, by the activity that reap looks at; beside it, when reap blocks."""
    found = scrape()
    assert (of(found, "beads_inactive_seconds"), of(found, "beads_reap_after_seconds")) == (0, 30 * 60)
    now = datetime.now(UTC).replace(microsecond=0)
    beads.add("x-1", status="in_progress", updated_at=now - timedelta(minutes=40))
    beads.add("x-2", status="in_progress", updated_at=now - timedelta(hours=8))
    beads.add("x-3", status="in_progress", updated_at=now - timedelta(hours=9), assignee="bob")
    assert 8 * 3600 <= of(scrape(), "beads_inactive_seconds") < 8 * 3600 + 300
    beads.sql(
        "INSERT INTO comments (id, issue_id, author, text, created_at) VALUES (UUID(), 'x-2', 'agent', 'on it', %s)",
        now,
    )
    assert 40 * 60 <= of(scrape(), "beads_inactive_seconds") < 45 * 60
    limits = settings.DispatchLimits(reap_after_minutes=120, reap_only_ours=True)
    with support.closing(store.Store(beads.dolt)) as own:
        ours = samples(metrics.Scrape(own, [limits], HealthState()).page())
        running = samples(metrics.Scrape(own, [settings.DispatchLimits()], HealthState(), lambda: {("", "x-1")}).page())
    assert (of(ours, "beads_inactive_seconds"), of(ours, "beads_reap_after_seconds")) == (0, 120 * 60)
    assert of(running, "beads_inactive_seconds") < 5 * 60


def test_each_agent_has_its_own(beads: Beads) -> None:
    """Beads, limits and hold by agent, one series each, from one connection; of nobody else."""
    now = datetime.now(UTC).replace(microsecond=0)
    agents = [settings.DispatchLimits(), settings.DispatchLimits(assignee="bob", reap_after_minutes=60)]
    beads.add("x-1", updated_at=now - timedelta(hours=1))
    beads.add("x-2", updated_at=now - timedelta(hours=2), assignee="bob")
    beads.add("x-3", updated_at=now - timedelta(hours=3), assignee="bob")
    beads.add("x-4", updated_at=now - timedelta(hours=4), assignee="bob", status="in_progress")
    beads.add("x-5", updated_at=now - timedelta(hours=9), assignee="eve")
    until = datetime.now(UTC) + timedelta(minutes=5)
    beads.store.control.set_hold("bob", store.Hold(), store.Hold(2, until, "HTTP 502"))
    with support.closing(store.Store(beads.dolt)) as own:
        scraping = metrics.Scrape(own, agents, HealthState())
        with mock.patch.object(pymysql, "connect", wraps=pymysql.connect) as connect:
            found = samples(scraping.page())
    assert connect.call_count == 1
    expected = {"beads_waiting": (1, 2), "beads_running": (0, 1), "beads_hold_failures": (0, 2)}
    expected["beads_reap_after_seconds"] = (30 * 60, 60 * 60)
    assert {name: (of(found, name), of(found, name, "bob")) for name in expected} == expected
    assert of(found, "beads_oldest_waiting_seconds") // 3600 == 1
    assert of(found, "beads_oldest_waiting_seconds", "bob") // 3600 == 3
    assert (of(found, "beads_inactive_seconds"), of(found, "beads_inactive_seconds", "bob") // 3600) == (0, 4)
    assert of(found, "beads_hold_seconds") == 0 < of(found, "beads_hold_seconds", "bob") <= 300
    assert not [name for name in found if '"eve"' in name]


def test_with_dolt_down_the_feeders_own_metrics_remain(beads: Beads) -> None:
    """No server: the page is there, without what only Dolt knows."""
    nowhere = settings.DoltSettings("127.0.0.1", 9, "root", "", "x")
    found = samples(metrics.Scrape(store.Store(nowhere), [settings.DispatchLimits()], HealthState()).page())
    assert (found["beads_feeder_dolt_up"], found["beads_feeder_connected"]) == (0, 0)
    assert "beads_feeder_sink_errors_total" in found
    assert not [name for name in found if name.startswith(("beads_waiting", "beads_hold", "beads_feeder_lag"))]


@pytest.fixture
def feed(beads: Beads, sink: support.Sink) -> Iterator[Running]:
    with support.closing(Running(beads.dolt, sink.url)) as running:
        running.wait_until_started(beads)
        yield running


def test_changes_requests_and_the_sinks_errors_are_counted(beads: Beads, sink: support.Sink, feed: Running) -> None:
    """As they happen, and only what the sink took; meanwhile the lag grows, and then it is gone."""
    scraping = metrics.Scrape(store.Store(beads.dolt), [settings.DispatchLimits()], feed.health)

    def now() -> Samples:
        scraping._cache._asked = float("-inf")
        return samples(scraping.page())

    changes, requests = 'beads_feeder_changes_total{recovered="false"}', "beads_feeder_requests_total"
    before = wait_for(lambda: (found := now())["beads_feeder_lag_transactions"] == 0 and found, "all read")
    assert before["beads_feeder_connected"] == 1 and before["beads_feeder_lag_seconds"] == 0
    sink.behaviour = support.answers(503)
    beads.add("x-1")
    wait_for(lambda: now()["beads_feeder_sink_errors_total"] > before["beads_feeder_sink_errors_total"], "an error")
    waiting = wait_for(lambda: (found := now())["beads_feeder_lag_seconds"] > 0.5 and found, "the lag")
    assert waiting["beads_feeder_lag_transactions"] >= 1
    assert waiting[changes] == before[changes]
    sink.behaviour = support.accepted
    wait_for(lambda: now()[changes] == before[changes] + 1, "the change")
    caused = f'{requests}{{cause="change",function="dispatch"}}'
    wait_for(lambda: now()[caused] > before[caused], "the request")
    wait_for(lambda: (now()["beads_feeder_lag_transactions"], now()["beads_feeder_lag_seconds"]) == (0, 0), "no lag")
    wait_for(lambda: now()["beads_feeder_position_age_seconds"] == 0, "the position is stored")


COUNTERS = ("claims", "dispatched", "refused", "unknown", "reaped", "blocked")


def counted(agent: str = "agent") -> dict[str, float]:
    """Each outcome so far, and how often the time to a POST was measured."""
    found = samples(generate_latest(metrics.REGISTRY))
    names = {name: f"beads_{name}_total" for name in COUNTERS} | {"timed": "beads_assign_to_post_seconds_count"}
    return {name: found[f'{metric}{{agent="{agent}"}}'] for name, metric in names.items()}


def test_each_outcome_is_counted_once(
    beads: Beads,
    agent: support.Agent,
    feed: Running,
    make_dispatcher: DispatcherFactory,
    clock: Clock,
) -> None:
    """As dispatch and reap record it on the bead; the time to the POST once for each assignment."""
    now = dict.fromkeys((*COUNTERS, "timed"), 0.0)
    start, other_start = counted(), counted("other")

    def more(step: str, **counts: int) -> None:
        now.update({name: now[name] + number for name, number in counts.items()})
        expected = {name: start[name] + number for name, number in now.items()}
        feed.wait_for(beads, lambda: counted() == expected, f"{step}: {now}")

    bead = beads.workspace.create("do it", "ok")
    beads.workspace.run("assign", bead, "agent")
    make_dispatcher().run_once()
    more("dispatched", claims=1, dispatched=1, timed=1)
    beads.workspace.run("close", bead, actor="agent")
    agent.behaviour = support.answers(400)
    refused = beads.add("x-2")
    make_dispatcher().run_once()
    more("refused", claims=1, refused=1, timed=1)
    clock.passed += timedelta(minutes=3)
    make_dispatcher().run_once()
    more("refused again", claims=1, refused=1)
    beads.workspace.run("close", refused, actor="agent")
    beads.add("x-3", metadata='{"dispatch": {"failures": 4}}')
    make_dispatcher().run_once()
    more("refused for the fifth time", claims=1, refused=1, blocked=1, timed=1)
    agent.behaviour = support.hangs_up
    beads.add("x-4")
    make_dispatcher().run_once()
    more("unknown", claims=1, unknown=1, timed=1)
    clock.passed += timedelta(minutes=31)
    reaper.run_once(beads.store, settings.DispatchLimits(), clock())
    more("reaped", reaped=1, blocked=1)
    beads.workspace.run("update", "x-4", "--status", "open")
    beads.workspace.run("update", "x-4", "--status", "blocked")  # by a person: not counted
    agent.behaviour = support.job
    beads.add("x-5", assignee="eve")
    make_dispatcher(assignee="eve").run_once()
    feed.wait_for(beads, lambda: counted("other")["dispatched"] == other_start["dispatched"] + 1, "another agent's")
    assert counted() == {name: start[name] + number for name, number in now.items()}
    assert '"eve"' not in generate_latest(metrics.REGISTRY).decode()


def test_since_when_an_agent_fails_outlives_the_process(beads: Beads, scrape: Callable[[], Samples]) -> None:
    """From its first failure on, whatever the next hold is; gone with it, and for configured agents only."""
    name, at = "beads_held_since_timestamp_seconds", datetime.now(UTC)
    assert not [found for found in scrape() if found.startswith(name)]
    until = at + timedelta(seconds=30)
    for agent in ("agent", "eve"):
        beads.store.control.set_hold(agent, store.Hold(), store.Hold(1, until, "HTTP 502"))
    since = of(scrape(), name)
    assert at.timestamp() - 1 <= since <= datetime.now(UTC).timestamp()
    beads.sql(f"UPDATE {store.STATE_DATABASE}.held SET since = since - INTERVAL 1 HOUR")
    beads.store.control.set_hold("agent", store.Hold(1), store.Hold(2, until, "HTTP 502"))
    found = scrape()
    assert since - 3602 < of(found, name) < since - 3598 and f'{name}{{agent="eve"}}' not in found
    beads.store.control.set_hold("agent", store.Hold(2), store.Hold())
    assert not [found for found in scrape() if found.startswith(name)]
    assert beads.sql(f"SELECT name FROM {store.STATE_DATABASE}.held") == [{"name": "eve"}]


def test_deaths_of_feeders_are_shown(beads: Beads) -> None:
    """Of those before this one that did not stop as they should, in a row."""
    for number in range(3):
        counter = deaths.DeathCounter(beads.store)
        counter.begin("s:1-9")
        counter.begin("s:1-9")
        assert samples(generate_latest(metrics.REGISTRY))["beads_feeder_deaths"] == number
    counter.stopped()
    deaths.DeathCounter(beads.store).begin("s:1-9")
    assert samples(generate_latest(metrics.REGISTRY))["beads_feeder_deaths"] == 0


def test_a_position_that_cannot_be_stored_grows_old(beads: Beads, sink: support.Sink, feed: Running) -> None:
    """As long as Dolt refuses it, from the first transaction that it does not cover."""
    # A table that is missing would be made again.
    state, refusal = store.STATE_DATABASE, "BEGIN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'; END"
    beads.sql(f"CREATE TRIGGER {state}.refusing BEFORE INSERT ON {state}.positions FOR EACH ROW {refusal}")
    try:
        beads.add("x-1", assignee="bob")
        wait_for(lambda: sink.about("x-1"), "the change")
        wait_for(lambda: feed.health.unstored_seconds > 1.5, "its age")
    finally:
        beads.sql(f"DROP TRIGGER {state}.refusing")
    wait_for(lambda: feed.health.unstored_seconds == 0, "the stored position")


def test_the_overview_agrees_with_the_eligibility_check(beads: Beads) -> None:
    """One predicate: a retry delay that ends makes a bead eligible, at the same second."""
    now = datetime.now(UTC)
    beads.add("x-1", metadata=f'{{"dispatch": {{"retry_at": "{notes.timestamp(now)}"}}}}')
    for moment, count in ((now - timedelta(seconds=5), 0), (now + timedelta(seconds=1), 1)):
        overview = beads.store.overview([settings.DispatchLimits()], moment).agents["agent"]
        assert overview.eligible == beads.store.eligible.count("agent", moment) == count
