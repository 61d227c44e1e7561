"""How much the feed can carry: python -m tools.bench.throughput [--changes N] [--seconds S]

First so many changes are written while the feeder is down, each a transaction of its own as bd makes it: what Dolt can
write. Then the feeder starts and catches up: what it can read and tell. Then both at once, for so many seconds. The
sink answers at once and counts; the feeder's memory is looked at all the while.

One writer: Dolt writes more with one than with several, whose transactions it has to merge.
"""

import argparse
import multiprocessing
import pathlib
import socket
import sys
import threading
import time
from multiprocessing.sharedctypes import Synchronized
from types import TracebackType
from typing import Any

from beads_dispatch import log, settings, store
from local import processes
from local.processes import Process
from tools.bench import report, resource_usage
from tools.bench.world import world

BEADS = 100
_PATIENCE_SECONDS = 60


def take_events(listener: socket.socket, taken: "Synchronized[int]") -> None:
    """The sink, a process: answers every request on its connections with 202, and counts them."""

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
            with taken.get_lock():
                taken.value += 1
            connection.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


class Sink:
    """The process around `take_events`; a context manager."""

    def __init__(self) -> None:
        context: Any = multiprocessing.get_context("fork")
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        self._taken = context.Value("L", 0)
        self._process = context.Process(target=take_events, args=(listener, self._taken), daemon=True)
        self._process.start()
        listener.close()

    @property
    def taken(self) -> int:
        return int(self._taken.value)

    def __enter__(self) -> "Sink":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.join()


class Feeder:
    """The feeder, a process, alone with Dolt and a sink; a context manager."""

    def __init__(self, dolt: settings.DoltSettings, sink: Sink, logs: pathlib.Path) -> None:
        self._dolt = dolt
        self._sink = sink
        self._logs = logs

    def __enter__(self) -> Process:
        port = processes.free_port()
        process = Process(
            "feeder",
            processes.python("-m", "feeder"),
            self._logs / "feeder.log",
            {
                "DOLT_HOST": self._dolt.host,
                "DOLT_PORT": str(self._dolt.port),
                "DOLT_USER": self._dolt.user,
                "DOLT_DATABASE": self._dolt.database,
                "K_SINK": self._sink.url,
                "HOST": "127.0.0.1",
                "PORT": str(port),
            },
        )
        self._process = process
        process.wait_until(lambda: processes.answers(f"http://127.0.0.1:{port}/readyz"), "get ready")
        return process

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stop()


class Writer:
    """Reassigns beads as fast as Dolt lets it: the bead and its audit row, in one transaction."""

    def __init__(self, dolt: settings.DoltSettings) -> None:
        self._dolt = dolt
        self.written = 0

    def make_beads(self) -> None:
        with store.connect(self._dolt) as connection, connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO issues (id, title, description, design, acceptance_criteria, notes)"
                " VALUES (%s, 'load', '', '', 'ok', '')",
                [f"load-{number:03}" for number in range(BEADS)],
            )
            cursor.execute("CALL DOLT_COMMIT('-Am', 'beads')")

    def run(self, changes: int, seconds: float = float("inf")) -> float:
        """Write until so many changes are done or so many seconds are over; returns changes a second."""
        self.written = 0
        started = time.monotonic()
        with store.connect(self._dolt) as connection, connection.cursor() as cursor:
            while self.written < changes and time.monotonic() - started < seconds:
                bead, person = f"load-{self.written % BEADS:03}", f"person-{time.monotonic_ns()}"
                connection.begin()
                cursor.execute("UPDATE issues SET assignee = %s WHERE id = %s", (person, bead))
                cursor.execute(
                    "INSERT INTO events (id, issue_id, event_type, actor, created_at)"
                    " VALUES (UUID(), %s, 'updated', 'bob', NOW())",
                    (bead,),
                )
                connection.commit()
                self.written += 1
        return self.written / (time.monotonic() - started)


class Memory:
    """Looks at a process's memory every half second; a context manager."""

    def __init__(self, pid: int) -> None:
        self.mib: list[float] = [resource_usage.rss_mib(pid)]
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            self.mib.append(resource_usage.rss_mib(self._pid))

    def summary(self) -> dict[str, float]:
        """First, a quarter of the way, half, three quarters, last and the most."""
        last = len(self.mib) - 1
        found = {f"{part} %": round(self.mib[last * part // 100], 1) for part in (0, 25, 50, 75, 100)}
        return {**found, "most": round(max(self.mib), 1)}


def wait_for(sink: Sink, number: int) -> float:
    """Seconds until the sink has taken so many events. Raises TimeoutError when none comes any more."""
    started = moved = time.monotonic()
    seen = sink.taken
    while sink.taken < number:
        time.sleep(0.02)
        if sink.taken != seen:
            seen, moved = sink.taken, time.monotonic()
        if time.monotonic() - moved > _PATIENCE_SECONDS:
            raise TimeoutError(f"the sink has {seen} of {number} events and no more came for {_PATIENCE_SECONDS} s")
    return time.monotonic() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    log.configure("bench", level="ERROR")
    with world() as (folder, _, dolt), Sink() as sink:
        writer = Writer(dolt)
        writer.make_beads()
        with Feeder(dolt, sink, folder / "log"):
            time.sleep(2)  # its position is stored
        print(f"writing {options.changes} changes while the feeder is down", flush=True)
        alone = writer.run(options.changes)
        before = sink.taken
        print("the feeder catches up", flush=True)
        started = time.monotonic()
        with Feeder(dolt, sink, folder / "log") as feeder, Memory(feeder.pid) as memory:
            wait_for(sink, before + options.changes)
            catching_up = time.monotonic() - started
            cpu = resource_usage.cpu_seconds(feeder.pid)
            print(f"writing and reading at once for {options.seconds:g} s", flush=True)
            before, started = sink.taken, time.monotonic()
            together = writer.run(10**9, options.seconds)
            told = (sink.taken - before) / (time.monotonic() - started)
            behind = wait_for(sink, before + writer.written)
        figures = {
            "Dolt writes, feeder down": {"changes/s": round(alone)},
            "feeder catches up": {
                "changes/s": round(options.changes / catching_up), "seconds": round(catching_up, 1),
                "feeder's CPU ms each": round(cpu / options.changes * 1000, 2),
            },
            "both at once": {"changes/s": round(together), "told/s": round(told), "behind s": round(behind, 1)},
        }  # fmt: skip
    report.table(f"{options.changes} changes", figures)
    report.table("the feeder's memory over that time, MiB", {"RSS": memory.summary()})
    report.write("throughput", {"changes": options.changes, **figures, "RSS MiB": memory.summary()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
