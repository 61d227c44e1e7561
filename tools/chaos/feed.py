"""Every change is published: the feeder is killed, Dolt and the sink fail, and each change arrives all the same."""

import contextlib
import functools
import math
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

from tools.chaos import checks, history
from tools.chaos.checks import Check
from tools.chaos.writer import Writer, unpublished_audit_rows
from tools.proxies import FaultyProxy
from tools.servers import Sink, answers, stalls, trickles
from tools.world import World, meanwhile

check = functools.partial(checks.check, "feed")

Steps = Sequence[Callable[[], object]]  # of a fault, one after the other


@dataclass(frozen=True)
class FeedSize:
    kills: int
    changes: int
    bd_every: int
    fault_seconds: float
    long_seconds: float
    sink_seconds: float  # before it accepts an event, as a Broker: long enough for a kill meanwhile; then it is dropped
    slow_faults: bool  # Dolt takes 20 s to stop beside a reader of its binlog; a lost connection is noticed after 65
    patience_seconds: float = 120  # a change that is not published by then after an outage is missed


SHORT = FeedSize(
    kills=6, changes=120, bd_every=20, fault_seconds=1.5, long_seconds=2, sink_seconds=0.1, slow_faults=False
)
FULL = FeedSize(
    kills=120, changes=3000, bd_every=15, fault_seconds=20, long_seconds=60, sink_seconds=0.02, slow_faults=True
)


def run(here: World, chance: random.Random, *, short: bool) -> Iterator[Check]:
    size = SHORT if short else FULL
    yield killed(here, chance, size)
    yield from failing(here, chance, size)


def killed(here: World, chance: random.Random, size: FeedSize) -> Check:
    """kill -9 of the feeder at random moments while beads change."""
    here.empty()
    log, deaths = here.log("feeder-killed"), 0
    with Sink() as sink, Writer(here, chance, 50, bd_every=size.bd_every) as writer:
        sink.delay_seconds = size.sink_seconds

        def change() -> None:
            while writer.changes < size.changes:
                # Spread over all feeders.
                if writer.changes <= size.changes * (deaths + 1) / size.kills:
                    writer.step()
                else:
                    time.sleep(0.01)

        feeder = here.feeder(sink.url, log=log)
        try:
            feeder.wait_until_reading()
            start = here.commit("start")
            changing = threading.Thread(target=change, daemon=True)
            changing.start()
            while deaths < size.kills:
                time.sleep(chance.uniform(0, 2.5))
                feeder.kill()
                deaths += 1
                feeder = here.feeder(sink.url, log=log)
                if deaths % 20 == 0:
                    checks.progress(f"feed: {deaths} kills, {writer.changes} changes, {len(sink.received)} events")
            changing.join()
            found = history.compare(here, start, sink, size.patience_seconds)
        finally:
            feeder.stop()
    return check(
        f"{size.kills} x kill -9, {writer.by_sql} by SQL, {writer.by_bd} by bd",
        _figures(found),
        found.broken + unpublished_audit_rows(here, found.published.changes),
    )


def failing(here: World, chance: random.Random, size: FeedSize) -> Iterator[Check]:
    """One feeder through every outage of Dolt, the network and the sink; each time all is published in the end."""
    here.empty()
    with (
        contextlib.ExitStack() as afterwards, Sink() as sink, Writer(here, chance, 20) as writer,
        contextlib.closing(FaultyProxy(here.server.port)) as proxy, here.feeder(sink.url, port=proxy.port) as feeder,
    ):  # fmt: skip
        afterwards.callback(_restore_one_uuid, here)
        feeder.wait_until_reading()
        for name, fault in _faults(here, sink, proxy, size):
            start = here.commit("start")
            sink.received.clear()
            with meanwhile(functools.partial(_change_until, writer)):
                for step in fault:
                    step()
            found = history.compare(here, start, sink, size.patience_seconds)
            yield check(name, _figures(found), found.broken)
        broken = ["a traceback in the feeder's log"] if "Traceback" in feeder.printed() else []
        broken += [] if feeder.running else ["it died"]
        yield check("one process through all of it", f"alive, {len(feeder.printed().splitlines())} log lines", broken)


def _change_until(writer: Writer, stop: threading.Event) -> None:
    while not stop.wait(0.1):
        writer.step()


def _restore_one_uuid(here: World) -> None:
    """Start a server with two UUIDs in its GTID set anew: Dolt 2.2.0 refuses it ("unexpected GTID format") until its
    binlog is removed."""
    here.server.kill()
    for name in ("data/.dolt/binlog", "data/.doltcfg/binlog-position"):
        found = here.folder / "dolt" / name
        shutil.rmtree(found) if found.is_dir() else found.unlink(missing_ok=True)
    here.server.start()


def _faults(here: World, sink: Sink, proxy: FaultyProxy, size: FeedSize) -> Sequence[tuple[str, Steps]]:
    some, long = size.fault_seconds, size.long_seconds
    dolt, pause = here.server, functools.partial(time.sleep, some / 4)
    new_uuid = functools.partial(shutil.rmtree, here.folder / "dolt" / "root")

    def during(seconds: float, thing: object, name: str, value: Any) -> Steps:
        change = mock.patch.object(thing, name, value)
        return [change.start, functools.partial(time.sleep, seconds), change.stop]

    slow: list[tuple[str, Steps]] = [
        ("Dolt restarted", [dolt.stop, pause, dolt.start]),
        ("connection lost, neither side notified", [proxy.lose, functools.partial(time.sleep, 5)]),
    ]
    return [
        ("sink answers 500", during(long, sink, "behaviour", answers(500))),
        ("sink answers 429", during(some, sink, "behaviour", answers(429))),
        ("sink never answers", during(max(some, 4), sink, "behaviour", stalls)),
        ("sink trickles its answer", during(max(some, 4), sink, "behaviour", trickles)),
        ("sink takes 1 s for each", during(some, sink, "delay_seconds", 1.0)),
        ("Dolt killed, twice", [dolt.kill, dolt.start, pause] * 2),
        ("connection cut, again and again", [proxy.cut, functools.partial(time.sleep, 0.3)] * math.ceil(some / 0.3)),
        ("connection stalled", during(long, proxy, "mode", "stall")),
        ("connection trickles", during(some, proxy, "mode", "trickle")),
        ("no connection", during(some, proxy, "mode", "refuse")),
        *(slow if size.slow_faults else []),
        ("Dolt's UUID changed", [dolt.kill, new_uuid, dolt.start, pause]),
    ]


def _figures(found: history.Comparison) -> str:
    return f"{found.figures}, all published {found.seconds:.1f} s after"
