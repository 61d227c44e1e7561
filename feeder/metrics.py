"""What the feeder tells Prometheus at GET /metrics. The only importer of prometheus_client.

What the feeder counts itself is in REGISTRY. What only Dolt knows is asked at a scrape, by `Scrape`: at most once in
CACHE_SECONDS, and waited for no longer than PATIENCE_SECONDS. When Dolt does not answer in time, its metrics are left
out and beads_feeder_dolt_up is 0: an old number that looks like a new one would be worse than none.
"""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from beads_dispatch import log, store
from beads_dispatch.log import Action
from feeder.binlog import Position
from feeder.health import HealthState

logger = log.get("feeder")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

CACHE_SECONDS = 5.0  # less than people scrape; several scrapers cost Dolt no more than one
PATIENCE_SECONDS = 0.8  # Prometheus waits 10 s, a probe that comes meanwhile 1 s

CAUSES = ("change", "slot", "tick", "resume")

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which nobody needs
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

CHANGES = Counter(
    "beads_feeder_changes_total",
    "Assignee and status changes that the sink took. recovered: found by comparing, the binlog did not tell it.",
    ["recovered"],
    registry=REGISTRY,
)
REQUESTS = Counter(
    "beads_feeder_requests_total",
    "Passes that were asked for, by function and cause. tick: as the reply to one.",
    ["function", "cause"],
    registry=REGISTRY,
)
SINK_ERRORS = Counter(
    "beads_feeder_sink_errors_total",
    "Events that the sink did not take, each try counted; they are sent again.",
    registry=REGISTRY,
)
LAST_TICK = Gauge(
    "beads_feeder_last_tick_timestamp_seconds",
    "When the last tick of a PingSource came, suspended or not. Left out until the first.",
    ["function"],
    registry=REGISTRY,
)

# From 0 on, or the first of a kind would be no increase.
for _recovered in ("false", "true"):
    CHANGES.labels(_recovered)
for _cause in CAUSES:
    REQUESTS.labels("dispatch", _cause)
REQUESTS.labels("reap", "tick")


class OverviewCache:
    """What Dolt says, asked in a thread of its own. For any thread."""

    def __init__(self, ask: Callable[[], store.Overview]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._answered = threading.Event()
        self._answered.set()
        self._answer: store.Overview | None = None
        self._asked = float("-inf")

    def overview(self) -> store.Overview | None:
        """The newest answer, CACHE_SECONDS old at most; None when there is none in time.

        One question is under way at a time, and one that hangs is not waited for twice.
        """
        with self._lock:
            if self._answered.is_set() and time.monotonic() - self._asked > CACHE_SECONDS:
                self._answered.clear()
                self._asked = time.monotonic()
                threading.Thread(target=self._find_out, name="metrics", daemon=True).start()
            patience = self._asked + PATIENCE_SECONDS - time.monotonic()
        return self._answer if self._answered.wait(max(patience, 0.0)) else None

    def _find_out(self) -> None:
        answer = None
        try:
            answer = self._ask()
        except store.StoreError as exc:
            logger.debug(str(exc), extra=log.context(action=Action.METRICS))  # the feed says it
        finally:
            self._answer = answer
            self._answered.set()


class Lag:
    """How far the feed is behind the server, as the scrapes see it.

    A transaction's own time is not known: the binlog's timestamps are the moment of the server's start, and a bead's
    updated_at is the clock of whoever wrote it. So it is our clock, from the first scrape that saw the server ahead:
    some transaction has waited at least that long. It is 0 until a second scrape finds it still waiting.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ahead = ""  # what the server had executed when it was seen ahead
        self._since = 0.0

    def seconds(self, read: Position, executed: str, now: float) -> float:
        """`read` by the feed, `executed` by the server; `now` in seconds that only grow."""
        with self._lock:
            if not self._ahead or read.covers(self._ahead):
                self._ahead, self._since = ("" if read.covers(executed) else executed), now
            return now - self._since if self._ahead else 0.0


class Scrape(Collector):
    """Answers scrapes, in any thread."""

    def __init__(self, beads: store.Store, assignee: str, health: HealthState) -> None:
        """`beads` is its own."""
        self._health = health
        self._lag = Lag()
        self._dolt = OverviewCache(lambda: beads.overview(assignee, datetime.now(UTC)))
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def page(self) -> bytes:
        """The answer, in Prometheus' text format."""
        return generate_latest(REGISTRY) + generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Nothing: Dolt need not be asked for the registry to know that there are no doubles."""
        return []

    def collect(self) -> Iterator[Metric]:
        yield _gauge("beads_feeder_connected", "1 while the binlog is being read.", self._health.connected)
        yield _gauge(
            "beads_feeder_position_age_seconds",
            "For how long the position in Dolt has not been that of all that was read and told; 0 when it is. What came"
            " meanwhile is read again after a crash. Up to 60 while nothing is told.",
            self._health.unstored_seconds,
        )
        found = self._dolt.overview()
        yield _gauge("beads_feeder_dolt_up", "1 when Dolt answered the scrape's questions in time.", found is not None)
        if found is not None:
            yield from self._from_dolt(found)

    def _from_dolt(self, found: store.Overview) -> Iterator[Metric]:
        if self._health.position is not None:
            read = Position(self._health.position)
            yield _gauge(
                "beads_feeder_lag_transactions",
                "Transactions that the server has executed, and that are not read and told yet.",
                read.behind(found.executed),
            )
            yield _gauge(
                "beads_feeder_lag_seconds",
                "For how long, at least, one of them has waited: since the first scrape that saw it. 0 when none does.",
                self._lag.seconds(read, found.executed, time.monotonic()),
            )
        now = datetime.now(UTC)
        yield _gauge(
            "beads_waiting",
            "Beads that dispatch would take: eligible; switch, hold and slots aside. Up to 100 are counted.",
            found.eligible,
        )
        yield _gauge(
            "beads_oldest_waiting_seconds",
            "Time since the last change of the one of them that has not changed for longest; 0 when none waits.",
            max((now - found.oldest).total_seconds(), 0.0) if found.oldest else 0.0,
        )
        yield _gauge("beads_running", "Beads in progress that are assigned to the sentinel.", found.running)
        yield _gauge("beads_hold_failures", "Failures of the agent service in a row.", found.hold.failures)
        left = (found.hold.until - now).total_seconds() if found.hold.until else 0.0
        yield _gauge("beads_hold_seconds", "How long all dispatching will still wait after them.", max(left, 0.0))
        suspended = GaugeMetricFamily(
            "beads_suspended", "1 while bd's config or the PingSource says stop.", labels=["function"]
        )
        suspended.add_metric(["dispatch"], float(found.suspension.dispatch is not None))
        suspended.add_metric(["reap"], float(found.suspension.reap is not None))
        yield suspended


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=float(value))
