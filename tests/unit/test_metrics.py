"""The parts of the metrics that need no server: how lag is measured, and that no scrape waits for Dolt."""

import threading

import pytest

from beads_dispatch import store
from beads_dispatch.suspension import Suspension
from feeder import metrics
from feeder.binlog import Position
from tests import support

SERVER = "0d3a8f5e-0000-4000-8000-000000000001"
OTHER = "0d3a8f5e-0000-4000-8000-000000000002"

OVERVIEW = store.Overview({}, Suspension(), {}, f"{SERVER}:1-7")


@pytest.mark.parametrize(
    ("read", "executed", "behind"),
    [
        (f"{SERVER}:1-7", f"{SERVER}:1-7", 0),
        (f"{SERVER}:1-7", f"{SERVER}:1-9", 2),
        (f"{SERVER}:1-7", f"{SERVER}:1-7,{OTHER}:1-3", 3),
        (f"{SERVER}:1-3:5-7", f"{SERVER}:1-8", 2),
        (f"{SERVER}:1-9", f"{SERVER}:1-7", 0),
        ("", f"{SERVER}:1-4", 4),
        (f"{SERVER}:1-7", "", 0),
    ],
)
def test_transactions_behind_are_counted(read: str, executed: str, behind: int) -> None:
    """What the server has executed and the feed has not read, whichever server's it is."""
    assert Position(read).behind(executed) == behind


@pytest.mark.parametrize(
    ("read", "sent"),
    [
        (f"{SERVER}:1-7", f"{SERVER}:1-7"),
        (f"{SERVER}:1-1124:1126", f"{SERVER}:1-1124"),
        (f"{SERVER}:5-7:9-12:14,{OTHER}:1-3", f"{SERVER}:5-7,{OTHER}:1-3"),
        ("", ""),
    ],
)
def test_a_position_is_sent_without_its_holes(read: str, sent: str) -> None:
    """Dolt refuses a set with one; what is behind it comes again, and is known to have been read."""
    position = Position(read)
    assert position.without_holes() == sent
    assert all(position.has(f"{SERVER}:{number}") == position.covers(f"{SERVER}:{number}") for number in range(1, 16))


def test_the_lag_counts_from_the_first_scrape_that_saw_the_server_ahead() -> None:
    """0 at that scrape; then the time since, until what was executed then is read; newer transactions count anew."""
    lag = metrics.Lag()

    def seconds(read: int, executed: int, now: float) -> float:
        return lag.seconds(Position(f"{SERVER}:1-{read}"), f"{SERVER}:1-{executed}", now)

    assert seconds(7, 7, 100) == 0
    assert seconds(7, 9, 115) == 0
    assert seconds(8, 12, 130) == 15
    assert seconds(9, 12, 145) == 0  # 9 are read; the server is still ahead, of what came later
    assert seconds(9, 12, 160) == 15
    assert seconds(12, 12, 175) == 0


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer is waited for until it comes, and does not grow old while this test runs, however slow the machine."""
    monkeypatch.setattr(metrics, "PATIENCE_SECONDS", support.PATIENCE_SECONDS)
    monkeypatch.setattr(metrics, "CACHE_SECONDS", 3600.0)


@pytest.mark.usefixtures("unhurried")
def test_dolt_is_asked_once_however_many_ask() -> None:
    """An answer is good for some seconds, for all scrapers."""
    asked = []

    def ask() -> store.Overview:
        asked.append(1)
        return OVERVIEW

    cache = metrics.OverviewCache(ask)
    threads = [threading.Thread(target=cache.overview) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.overview() is OVERVIEW
    assert asked == [1]


def test_a_dolt_that_hangs_delays_one_scrape_and_not_for_long() -> None:
    """The first scrape waits a little, those after it not at all; when the answer is there it is used."""
    release = threading.Event()
    asked = []

    def hang() -> store.Overview:
        asked.append(1)
        release.wait()
        return OVERVIEW

    cache = metrics.OverviewCache(hang)
    cache._answered = patience = Patience()
    assert [cache.overview() for _ in range(20)] == [None] * 20
    assert asked == [1]
    # Not by the clock: a machine that is busy adds its own seconds.
    assert len(patience.seconds) == 20 and sum(patience.seconds) <= metrics.PATIENCE_SECONDS
    release.set()
    assert cache._answered.wait(support.PATIENCE_SECONDS)
    assert cache.overview() is OVERVIEW


class Patience(threading.Event):
    """An event that has happened before, and keeps how long each waits for the next."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.set()

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(float("inf") if timeout is None else timeout)
        return super().wait(timeout)


@pytest.mark.usefixtures("unhurried")
def test_a_dolt_that_is_down_is_asked_again_when_the_answer_is_old() -> None:
    """No answer is an answer too: it is kept as long, and no longer."""
    answers: list[store.Overview | None] = [None, OVERVIEW]

    def ask() -> store.Overview:
        found = answers.pop(0)
        if found is None:
            raise store.StoreError("cannot reach Dolt")
        return found

    cache = metrics.OverviewCache(ask)
    assert cache.overview() is None
    assert cache.overview() is None and len(answers) == 1
    cache._asked -= metrics.CACHE_SECONDS
    assert cache.overview() is OVERVIEW


def test_while_dolt_takes_long_its_last_answer_is_shown_and_none_when_it_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some 30 large databases take longer than a scrape waits, each time."""
    monkeypatch.setattr(metrics, "CACHE_SECONDS", 0.0)
    monkeypatch.setattr(metrics, "PATIENCE_SECONDS", 0.2)
    answers = [store.Overview({}, Suspension(), {}, gtids) for gtids in ("1", "2")]
    released = threading.Event()

    def ask() -> store.Overview:
        if asked := len(calls):
            released.wait(10)
        calls.append(asked)
        return answers[asked]

    calls: list[int] = []
    cache = metrics.OverviewCache(ask)
    assert cache.overview() is answers[0]
    assert cache.overview() is answers[0]
    monkeypatch.setattr(metrics, "HANGS_SECONDS", 0.0)
    assert cache.overview() is None
    monkeypatch.setattr(metrics, "CACHE_SECONDS", 60.0)
    monkeypatch.setattr(metrics, "PATIENCE_SECONDS", 10.0)
    released.set()
    assert cache.overview() is answers[1]
