"""The parts of the metrics that need no server: how lag is measured, and that no scrape waits for Dolt."""

import threading
import time
from datetime import UTC, datetime

import pytest

from beads_dispatch import store
from beads_dispatch.suspension import Suspension
from feeder import metrics
from feeder.binlog import Position

SERVER = "0d3a8f5e-0000-4000-8000-000000000001"
OTHER = "0d3a8f5e-0000-4000-8000-000000000002"

OVERVIEW = store.Overview(1, datetime.now(UTC), 2, Suspension(), store.Hold(), f"{SERVER}:1-7")


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
        release.wait(30)
        return OVERVIEW

    cache = metrics.OverviewCache(hang)
    started = time.monotonic()
    assert [cache.overview() for _ in range(20)] == [None] * 20
    assert time.monotonic() - started < 2 * metrics.PATIENCE_SECONDS + 1
    assert asked == [1]
    release.set()
    assert cache._answered.wait(15)
    assert cache.overview() is OVERVIEW


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
