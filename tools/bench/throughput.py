"""How many changes the feed can publish: python -m tools.bench.throughput [--changes N] [--seconds S]

First N changes are written while the feeder is down, each a transaction of its own as bd makes it: what Dolt can write.
Then the feeder starts and catches up: what it can read and publish. Then both at once, for S seconds. The sink answers
at once and counts; the feeder's memory is sampled all the while.

One writer: Dolt writes more with one than with several, whose transactions it has to merge.
"""

import multiprocessing
import socket
import sys
import threading
import time
from functools import partial
from multiprocessing.sharedctypes import Synchronized
from typing import Any

from tools import world
from tools.bench import report, resource_usage

BEADS = [f"load-{number:03}" for number in range(100)]
_PATIENCE_SECONDS = 60


def count_events(listener: socket.socket, number: "Synchronized[int]") -> None:
    """The sink's process: answers every request on its connections with 202, and counts them."""

    def serve(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = connection.makefile("rb")
        while line := stream.readline():
            length = 0
            while line.strip():
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
                line = stream.readline()
            stream.read(length)
            with number.get_lock():
                number.value += 1
            connection.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


class CountingSink:
    """The process around `count_events`; a context manager."""

    def __init__(self) -> None:
        context: Any = multiprocessing.get_context("fork")
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        self._number = context.Value("L", 0)
        self._process = context.Process(target=count_events, args=(listener, self._number), daemon=True)
        self._process.start()
        listener.close()

    @property
    def number(self) -> int:
        return int(self._number.value)

    def wait_for(self, number: int) -> float:
        """Seconds until it has so many events. Raises TimedOut when no more come."""
        started = moved = time.monotonic()
        known = self.number
        while self.number < number:
            time.sleep(0.02)
            if self.number != known:
                known, moved = self.number, time.monotonic()
            if time.monotonic() - moved > _PATIENCE_SECONDS:
                raise world.TimedOut(f"the sink has {known} of {number} events, and no more for {_PATIENCE_SECONDS} s")
        return time.monotonic() - started

    def __enter__(self) -> "CountingSink":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()


def write(here: world.World, changes: int, seconds: float = float("inf")) -> tuple[int, float]:
    """Reassign beads as fast as Dolt can, each with its audit row in one transaction, until so many changes are written
    or so many seconds are over; returns the number of changes, and changes a second."""
    written = 0
    started = time.monotonic()
    with here.cursor() as cursor:
        while written < changes and time.monotonic() - started < seconds:
            bead, person = BEADS[written % len(BEADS)], f"person-{time.monotonic_ns()}"
            cursor.execute("BEGIN")
            cursor.execute("UPDATE issues SET assignee = %s WHERE id = %s", (person, bead))
            cursor.execute(
                "INSERT INTO events (id, issue_id, event_type, actor, created_at)"
                " VALUES (UUID(), %s, 'updated', 'bob', NOW())",
                (bead,),
            )
            cursor.execute("COMMIT")
            written += 1
    return written, written / (time.monotonic() - started)


def sample_memory(pid: int, mib: list[float], stop: threading.Event) -> None:
    """A process's memory in MiB, now and twice a second until the stop."""
    mib.append(resource_usage.rss_mib(pid))
    while not stop.wait(0.5):
        mib.append(resource_usage.rss_mib(pid))


def memory_summary(mib: list[float]) -> dict[str, float]:
    """The first sample, those at a quarter, half and three quarters, the last, and the maximum."""
    found = {f"{part} %": round(mib[(len(mib) - 1) * part // 100], 1) for part in (0, 25, 50, 75, 100)}
    return {**found, "most": round(max(mib), 1)}


def measure(here: world.World, sink: CountingSink, changes: int, seconds: float) -> dict[str, dict[str, float]]:
    """The three phases, and the feeder's memory."""
    with here.feeder(sink.url) as feeder:
        feeder.wait_until_reading()
        time.sleep(2)  # its position is stored
    print(f"writing {changes} changes while the feeder is down", flush=True)
    _, alone = write(here, changes)
    before = sink.number
    print("the feeder catches up", flush=True)
    started, mib = time.monotonic(), list[float]()
    with here.feeder(sink.url) as feeder:
        feeder.wait_until_reading()
        with world.meanwhile(partial(sample_memory, feeder.pid, mib)):
            sink.wait_for(before + changes)
            catching_up = time.monotonic() - started
            cpu = resource_usage.cpu_seconds(feeder.pid)
            print(f"writing and reading at once for {seconds:g} s", flush=True)
            before, started = sink.number, time.monotonic()
            written, together = write(here, sys.maxsize, seconds)
            published = (sink.number - before) / (time.monotonic() - started)
            behind = sink.wait_for(before + written)
    return {
        "Dolt writes, feeder down": {"changes/s": round(alone)},
        "feeder catches up": {
            "changes/s": round(changes / catching_up), "seconds": round(catching_up, 1),
            "feeder's CPU ms each": round(cpu / changes * 1000, 2),
        },
        "both at once": {"changes/s": round(together), "published/s": round(published), "behind s": round(behind, 1)},
        "RSS MiB": memory_summary(mib),
    }  # fmt: skip


def main() -> int:
    options = report.options(__doc__, changes=10_000, seconds=30.0)
    with CountingSink() as sink, world.world() as here:
        here.add(BEADS, assignee=None)
        figures = measure(here, sink, options.changes, options.seconds)
    memory = figures.pop("RSS MiB")
    report.table(f"{options.changes} changes", figures)
    report.table("the feeder's memory over that time, MiB", {"RSS": memory})
    report.write("throughput", {"changes": options.changes, **figures, "RSS MiB": memory})
    return 0


if __name__ == "__main__":
    sys.exit(main())
