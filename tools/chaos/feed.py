"""No change goes unseen: the feeder is killed, Dolt and the sink fail, and what was told is what was changed."""

import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tools.chaos import report, world, writer
from tools.chaos.report import Check
from tools.chaos.servers import Proxy, Sink
from tools.chaos.world import World

PART = "feed"


@dataclass(frozen=True)
class Size:
    kills: int
    changes: int
    bd_every: int
    fault_seconds: float
    long_seconds: float
    slow_ones: bool  # Dolt takes 20 s to stop beside a reader of its binlog; a lost connection is noticed after 65
    patience_seconds: float = 120  # what is not told by then after an outage, is missed


SHORT = Size(kills=6, changes=120, bd_every=20, fault_seconds=1.5, long_seconds=2, slow_ones=False)
FULL = Size(kills=200, changes=5000, bd_every=15, fault_seconds=30, long_seconds=120, slow_ones=True)


def run(here: World, chance: random.Random, *, short: bool) -> Iterator[Check]:
    size = SHORT if short else FULL
    yield killed(here, chance, size)
    yield from failing(here, chance, size)


def killed(here: World, chance: random.Random, size: Size) -> Check:
    """kill -9 of the feeder at random moments while beads change."""
    here.empty()
    sink = Sink()
    sink.mode, sink.slow_seconds = "slow", 0.02  # as a Broker: long enough to be killed while one waits for it
    writes = writer.Writer(here, chance, 50, bd_every=size.bd_every)
    log = here.log("feeder-killed")
    feeder = here.feeder(sink.url, log=log)
    feeder.wait_until_reading()
    start = here.commit("start")
    deaths = 0

    def change() -> None:
        while writes.changes < size.changes:
            # Spread over all the lives of the feeder.
            if writes.changes <= size.changes * (deaths + 1) / size.kills:
                writes.step()
            else:
                time.sleep(0.01)

    changing = threading.Thread(target=change, daemon=True)
    changing.start()
    try:
        while deaths < size.kills:
            time.sleep(chance.uniform(0, 2.5))
            feeder.process.kill()
            deaths += 1
            feeder = here.feeder(sink.url, log=log)
            if deaths % 20 == 0:
                report.say(f"{PART}: {deaths} kills, {writes.changes} changes, {len(sink.facts())} events")
        changing.join()
        name = f"{size.kills} x kill -9, {writes.by_sql} by SQL, {writes.by_bd} by bd"
        return _judged(here, sink, start, name, size, audited=True)
    finally:
        feeder.process.stop()
        writes.close()
        sink.close()


def failing(here: World, chance: random.Random, size: Size) -> Iterator[Check]:
    """One feeder through every outage of Dolt, of the network and of the sink; each time all is told in the end."""
    here.empty()
    sink, proxy = Sink(), Proxy(here.server.port)
    writes = writer.Writer(here, chance, 20, bd_every=0)
    feeder = here.feeder(sink.url, port=proxy.port)
    try:
        feeder.wait_until_reading()
        for name, seconds, fault in _faults(here, sink, proxy, size):
            start = here.commit("start")
            sink.received.clear()
            begun, ended = threading.Event(), threading.Event()

            def change(begun: threading.Event = begun, ended: threading.Event = ended) -> None:
                begun.set()
                while not ended.wait(0.1):
                    writes.step()

            changing = threading.Thread(target=change, daemon=True)
            changing.start()
            begun.wait()
            fault(seconds)
            ended.set()
            changing.join()
            yield _judged(here, sink, start, name, size)
        said = feeder.log
        broken = ["a traceback in the feeder's log"] if "Traceback" in said else []
        broken += [] if feeder.process.running else ["it died"]
        yield report.check(PART, "one process through all of it", f"alive, {len(said.splitlines())} log lines", broken)
    finally:
        writes.close()
        feeder.process.stop()
        proxy.close()
        sink.close()
        _one_uuid(here)


def _one_uuid(here: World) -> None:
    """Make a server with two UUIDs in its GTID set fit to be started again: Dolt 2.2.0 refuses it ("unexpected GTID
    format"). Its binlog begins anew."""
    here.server.kill()
    for name in ("data/.dolt/binlog", "data/.doltcfg/binlog-position"):
        found = here.folder / "dolt" / name
        shutil.rmtree(found) if found.is_dir() else found.unlink(missing_ok=True)
    here.server.start()


def _faults(here: World, sink: Sink, proxy: Proxy, size: Size) -> list[tuple[str, float, Callable[[float], None]]]:
    def in_mode(thing: Sink | Proxy, mode: str, back: str) -> Callable[[float], None]:
        def fault(seconds: float) -> None:
            thing.mode = mode
            time.sleep(seconds)
            thing.mode = back

        return fault

    def restart(seconds: float) -> None:
        here.server.stop()
        time.sleep(seconds / 4)
        here.server.start()

    def kill(seconds: float) -> None:
        for _ in range(2):
            here.server.kill()
            here.server.start()
            time.sleep(seconds / 4)

    def other_uuid(seconds: float) -> None:
        here.server.kill()
        shutil.rmtree(here.folder / "dolt" / "root")
        here.server.start()
        time.sleep(seconds / 4)

    def cut(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            proxy.cut()
            time.sleep(0.3)

    def lose(seconds: float) -> None:
        proxy.lose()
        time.sleep(5)

    some = size.fault_seconds
    faults = [
        ("sink answers 500", size.long_seconds, in_mode(sink, "500", "ok")),
        ("sink answers 429", some, in_mode(sink, "429", "ok")),
        ("sink never answers", max(some, 4), in_mode(sink, "silent", "ok")),
        ("sink trickles its answer", max(some, 4), in_mode(sink, "trickle", "ok")),
        ("sink takes 1 s for each", some, in_mode(sink, "slow", "ok")),
        ("Dolt killed, twice", some, kill),
        ("connection cut, again and again", some, cut),
        ("connection stalled", size.long_seconds, in_mode(proxy, "stall", "pass")),
        ("connection trickles", some, in_mode(proxy, "trickle", "pass")),
        ("no connection", some, in_mode(proxy, "refuse", "pass")),
    ]
    slow = [("Dolt restarted", some, restart), ("connection lost, nobody told", some, lose)]
    return [*faults, *(slow if size.slow_ones else []), ("Dolt's UUID changed", some, other_uuid)]


def _judged(here: World, sink: Sink, start: str, name: str, size: Size, *, audited: bool = False) -> Check:
    """Wait until everything is told, and compare it with Dolt's history and with the events table."""
    changed = world.changed_since(here, start)
    began = time.monotonic()

    def all_told() -> bool:
        return world.count(world.told(sink.facts())[0]) >= world.count(changed)

    late = ""
    try:
        world.wait_for(all_told, "every change told", size.patience_seconds)
    except world.Late as exc:
        late = str(exc)
    took = time.monotonic() - began
    found, repeats, differ = world.told(sink.facts())
    missed = max(0, world.count(changed) - world.count(found))
    broken = world.compare(changed, found) + [f"{event}: its repeats differ" for event in differ]
    if audited:
        audit = [row for row in writer.in_events_table(here) if row[1:] not in found.get(row[0], [])]
        broken += [f"{row[0]}: in the events table and not told: {row[1:]}" for row in audit]
    figures = (
        f"{world.count(changed)} changes, {missed} missed, {repeats} repeats (same ids), all told {took:.1f} s after"
    )
    return report.check(PART, name, figures, ([late] if late else []) + broken)
