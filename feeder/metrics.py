"""What the feeder answers Prometheus at GET /metrics. The only importer of prometheus_client.

The feeder's own counters are in REGISTRY. What only Dolt knows is asked at a scrape, by `Scrape`: at most once in
CACHE_SECONDS. A scrape waits for PATIENCE_SECONDS; where many databases take longer, it shows the answer before. When
Dolt does not answer within HANGS_SECONDS, its metrics are left out and beads_feeder_dolt_up is 0: an old number that
looks like a new one would be worse than none.
"""

import functools
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from beads_dispatch import log, store
from beads_dispatch.log import Action
from beads_dispatch.settings import DispatchLimits
from feeder.binlog import Position
from feeder.health import HealthState

logger = log.get("feeder")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

CACHE_SECONDS = 5.0  # less than the usual scrape interval; several scrapers cost Dolt no more than one
PATIENCE_SECONDS = 0.8  # Prometheus waits 10 s, a probe that comes meanwhile 1 s
HANGS_SECONDS = 10.0
_OLD_SECONDS = 90.0  # three scrapes at the usual interval

CAUSES = ("change", "slot", "due", "tick", "resume")  # of a dispatch request

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which nobody needs
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

_counter = functools.partial(Counter, registry=REGISTRY)

CHANGES = _counter(
    "beads_feeder_changes_total", "Published changes. recovered: found by comparing, not in the binlog.", ["recovered"]
)
REQUESTS = _counter(
    "beads_feeder_requests_total", "Requested passes. cause=tick: in the reply to a tick.", ["function", "cause"]
)
JUMPS = _counter(
    "beads_feeder_jumps_total",
    "Transactions that could not be read or are too large, and were passed over; their net change is published.",
)
LAST_JUMP = Gauge(
    "beads_feeder_last_jump_timestamp_seconds",
    "When a transaction was passed over last; gtid names it where it is known. Left out until the first.",
    ["gtid"],
    registry=REGISTRY,
)
DEATHS = Gauge(
    "beads_feeder_deaths",
    "Feeders that ended without a clean stop where this one began to read, in a row; it does not change afterwards.",
    registry=REGISTRY,
)
REFUSED_EVENTS = _counter(
    "beads_feeder_refused_events_total",
    "Change events that are not sent again: the sink refused them for good, or they failed twice unexpectedly.",
)
SINK_ERRORS = _counter(
    "beads_feeder_sink_errors_total", "Events that the sink did not accept, each try counted; they are sent again."
)
LAST_TICK = Gauge(
    "beads_feeder_last_tick_timestamp_seconds",
    "When the last tick of a PingSource came, suspended or not. Left out until the first.",
    ["function"],
    registry=REGISTRY,
)

# By feeder/outcome_metrics.py.
OTHER = "other"  # as the label `agent`: an assignee that is no agent of this deployment
OUTCOMES = {
    name: _counter(f"beads_{name}_total", text, ["agent"])
    for name, text in {
        "claims": "Beads that dispatch claimed.",
        "dispatched": "Beads for which the agent has a job.",
        "refused": "POSTs that the agent refused, or that did not reach it; the bead is open again, or blocked.",
        "unknown": "POSTs without a usable answer.",
        "reaped": "Beads that reap opened again or blocked.",
        "blocked": "Beads that dispatch or reap blocked.",
    }.items()
}
ASSIGN_TO_POST = Histogram(
    "beads_assign_to_post_seconds",
    "From an assignment, whatever the bead had to wait for, to its first POST.",
    ["agent"],
    registry=REGISTRY,
    buckets=(0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 30, 60, 120, 300, 900, 3600),
)

# From 0 on, or the first of a kind would not be an increase.
for _recovered in ("false", "true"):
    CHANGES.labels(_recovered)
for _cause in CAUSES:
    REQUESTS.labels("dispatch", _cause)
REQUESTS.labels("reap", "tick")
REQUESTS.labels("reap", "job")


def count_jump(gtid: str) -> None:
    """Count a transaction that was passed over; an empty `gtid` where it is not known."""
    JUMPS.inc()
    LAST_JUMP.clear()
    LAST_JUMP.labels(gtid).set_to_current_time()


# What is known of each agent.
_OF_AGENT = {
    "beads_waiting": "Eligible beads; suspension, hold and slots aside. At most 100.",
    "beads_oldest_waiting_seconds": "Since the oldest of them changed; 0 without one.",
    "beads_running": "Beads in progress that are assigned to the agent.",
    "beads_inactive_seconds": "The longest inactivity of a bead in progress; not of one whose job is known to run.",
    "beads_reap_after_seconds": "At which reap blocks a bead.",
    "beads_hold_failures": "The agent's failures in a row.",
    "beads_hold_seconds": "For how long dispatch is still held after them.",
}


def _values(
    one: store.AgentOverview, limits: DispatchLimits, running: Collection[tuple[str, str]], now: datetime
) -> dict[str, float]:
    held = one.hold.active_at(now)
    active = min((at for bead, at in one.in_progress.items() if bead not in running), default=now)
    return {
        "beads_waiting": one.eligible,
        "beads_oldest_waiting_seconds": (now - (one.oldest or now)).total_seconds(),
        "beads_running": one.running,
        "beads_inactive_seconds": (now - active).total_seconds(),
        "beads_reap_after_seconds": limits.reap_after.total_seconds(),
        "beads_hold_failures": one.hold.failures,
        "beads_hold_seconds": ((one.hold.until or now) - now).total_seconds() if held else 0.0,
    }


class OverviewCache:
    """Dolt's answer, asked for in a thread of its own. For any thread."""

    def __init__(self, ask: Callable[[], store.Overview]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._answered = threading.Event()
        self._answered.set()
        self._answer: store.Overview | None = None
        self._answered_at = float("-inf")
        self._asked = float("-inf")

    def overview(self) -> store.Overview | None:
        """The newest answer, CACHE_SECONDS old at most, or the one before it while Dolt takes long; None where it
        hangs.

        One question is asked at a time, and nobody waits twice for one that hangs.
        """
        with self._lock:
            if self._answered.is_set() and time.monotonic() - self._asked > CACHE_SECONDS:
                self._answered.clear()
                self._asked = time.monotonic()
                threading.Thread(target=self._find_out, name="metrics", daemon=True).start()
            patience = self._asked + PATIENCE_SECONDS - time.monotonic()
        if self._answered.wait(max(patience, 0.0)):
            return self._answer
        now = time.monotonic()
        return self._answer if now - self._asked < HANGS_SECONDS and now - self._answered_at < _OLD_SECONDS else None

    def _find_out(self) -> None:
        answer = None
        try:
            answer = self._ask()
        except store.StoreError as exc:
            logger.debug(str(exc), extra=log.context(action=Action.METRICS))  # the feed logs it
        finally:
            self._answer, self._answered_at = answer, time.monotonic()
            self._answered.set()


class Lag:
    """How far the feed is behind the server, as the scrapes see it.

    When a transaction was committed is not known: the binlog's timestamps are the server's start time, and a bead's
    updated_at is the clock of whoever wrote it. So the feeder's clock counts, from the first scrape that saw the server
    ahead: some transaction has waited at least that long. The lag is 0 until a second scrape finds it still waiting.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ahead = ""  # what the server had executed when it was found ahead
        self._since = 0.0

    def seconds(self, read: Position, executed: str, now: float) -> float:
        """`read` by the feed, `executed` by the server; `now` by a monotonic clock."""
        with self._lock:
            if not self._ahead or read.covers(self._ahead):
                self._ahead, self._since = ("" if read.covers(executed) else executed), now
            return now - self._since if self._ahead else 0.0


class Scrape(Collector):
    """Answers scrapes, in any thread."""

    def __init__(
        self,
        beads: store.Store,
        agents: Sequence[DispatchLimits],
        health: HealthState,
        running: Callable[[], Collection[tuple[str, str]]] = tuple,
    ) -> None:
        """`beads` is its own; `agents` are all of them; `running` returns the keys of the beads whose job is known to
        run."""
        self._agents = agents
        self._health = health
        self._running = running
        self._lag = Lag()
        self._cache = OverviewCache(lambda: beads.overview(agents, datetime.now(UTC)))
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def page(self) -> bytes:
        """The answer, in Prometheus' text format."""
        return generate_latest(REGISTRY) + generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Nothing: the registry needs no answer from Dolt to know that no metric stands twice."""
        return []

    def collect(self) -> Iterator[Metric]:
        yield _gauge("beads_feeder_connected", self._health.connected, "1 while the binlog is being read.")
        yield _gauge(
            "beads_feeder_position_age_seconds",
            self._health.unstored_seconds,
            "For how long the stored position has been behind what is published; 0 when it is not. A crash repeats what"
            " came meanwhile. Up to 60 while no change is published.",
        )
        found = self._cache.overview()
        yield _gauge("beads_feeder_dolt_up", found is not None, "1 when Dolt answered in time.")
        if found is not None:
            yield from self._from_dolt(found)

    def _from_dolt(self, found: store.Overview) -> Iterator[Metric]:
        if self._health.position is not None:
            yield from self._lag_behind(Position(self._health.position), found.executed)
        yield from self._of_agents(found.agents)
        suspended = GaugeMetricFamily("beads_suspended", "1 while it is suspended.", labels=["function"])
        suspended.add_metric(["dispatch"], float(found.suspension.dispatch is not None))
        suspended.add_metric(["reap"], float(found.suspension.reap is not None))
        yield suspended
        yield _since(
            "beads_suspended_since_timestamp_seconds",
            "When it was first found suspended, also by an earlier process; left out while it is not.",
            "function",
            found.suspended_since,
        )
        yield _since(
            "beads_held_since_timestamp_seconds",
            "When the agent's failures in a row were first found, also by an earlier process; left out without any.",
            "agent",
            {agent: moment for agent, moment in found.held_since.items() if agent in found.agents},
        )

    def _of_agents(self, found: Mapping[str, store.AgentOverview]) -> Iterator[Metric]:
        now, running = datetime.now(UTC), self._running()
        families = {name: GaugeMetricFamily(name, text, labels=["agent"]) for name, text in _OF_AGENT.items()}
        for limits in self._agents:
            for name, value in _values(found[limits.assignee], limits, running, now).items():
                families[name].add_metric([limits.assignee], max(float(value), 0.0))
        yield from families.values()

    def _lag_behind(self, read: Position, executed: str) -> Iterator[Metric]:
        yield _gauge(
            "beads_feeder_lag_transactions",
            read.behind(executed),
            "Transactions that the server has executed and the feed has not published yet.",
        )
        yield _gauge(
            "beads_feeder_lag_seconds",
            self._lag.seconds(read, executed, time.monotonic()),
            "For how long, at least, one of them has waited: since the first scrape that saw it. 0 without one.",
        )


def _since(name: str, help_text: str, label: str, moments: Mapping[str, datetime]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help_text, labels=[label])
    for value, moment in sorted(moments.items()):
        family.add_metric([value], moment.timestamp())
    return family


def _gauge(name: str, value: float, help_text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help_text, value=float(value))
