"""What the console costs: python -m tools.bench.console [--beads N] [--rounds N]

With 10,000 beads of one agent open, as many others, and an hour of a busy team's commits:

- cold: from the start of the process, as the image starts it, to the whole first page; in turns with the other pages
- warm: each page again, over one connection after another, as a browser that follows a link
- memory of the process after that

The aim is 200 ms for a warm page and 3 s for the first one; the pod's own start comes on top (tools.bench.cluster).
"""

import contextlib
import statistics
import sys
import time
import urllib.error
import urllib.request

from functions.console import queue
from local.system import Ports, System
from tools import world
from tools.bench import generate, report, resource_usage

PAGES = {
    "now": "/", "queue, first page": "/queue", "queue, last page": "/queue?page={last}", "bead": "/bead?id=g-0000002",
    "timeline": "/timeline", "day": "/day", "what-if, form": "/what-if",
}  # fmt: skip
_COMMITS = 500
AIM_WARM_MS, AIM_COLD_MS = 200, 3000


def make_commits(here: world.World, number: int) -> None:
    """Beads of the agent are opened and claimed, each in a Dolt commit of its own."""
    with here.cursor() as cursor:
        for index in range(number):
            status = "open" if index % 2 else "in_progress"
            cursor.execute(
                "UPDATE issues SET status = %s, updated_at = updated_at WHERE id = %s",
                (status, f"g-{index // 2 * 2:07}"),
            )
            cursor.execute("CALL DOLT_COMMIT('-Am', %s, '--author', 'ann <ann@localhost>')", (f"bd: update {index}",))


def _get(url: str) -> float:
    """Milliseconds to the whole page. Raises HTTPError where it is none."""
    started = time.perf_counter()
    with urllib.request.urlopen(url, timeout=60) as answer:
        answer.read()
    return (time.perf_counter() - started) * 1000


def start(here: world.World, path: str) -> tuple[System, float]:
    """A console that was just started, and the milliseconds to its first page."""
    system = System(here.dolt, "http://127.0.0.1:9", Ports.free(), here.folder / "console")
    started = time.perf_counter()
    system.start_console()
    _get(f"http://127.0.0.1:{system.ports.console}{path}")
    return system, (time.perf_counter() - started) * 1000


def main() -> int:
    options = report.options(__doc__, beads=10_000, rounds=20)
    cold: dict[str, list[float]] = {}
    warm: dict[str, list[float]] = {}
    with world.world() as here:
        print(f"making {2 * options.beads} beads, {options.beads} of them the agent's and open", flush=True)
        generate.fill(here, 2 * options.beads, options.beads)
        make_commits(here, _COMMITS)
        pages = {name: path.format(last=options.beads // queue.ON_A_PAGE) for name, path in PAGES.items()}
        for name, path in pages.items():
            for _ in range(max(1, options.rounds // 4)):
                system, taken = start(here, path)
                system.__exit__()
                cold.setdefault(name, []).append(taken)
        system, _ = start(here, "/")
        with contextlib.ExitStack() as stack:
            stack.callback(system.__exit__)
            for number in range(options.rounds + 2):
                for name, path in pages.items():
                    taken = _get(f"http://127.0.0.1:{system.ports.console}{path}")
                    if number >= 2:
                        warm.setdefault(name, []).append(taken)
            children = resource_usage.children(system.processes["console"].pid)
            memory = round(sum(map(resource_usage.rss_mib, children)))
    rows = {
        name: {"cold p50": round(statistics.median(cold[name])), "warm p50": summary["p50"], "warm p90": summary["p90"]}
        for name, summary in ((name, report.summary(times)) for name, times in warm.items())
    }
    report.table(f"ms to the whole page, {options.beads} open beads; the process has {memory} MiB", rows)
    report.write("console", {"unit": "ms", "beads": options.beads, "pages": rows, "MiB": memory})
    slow = [name for name, row in rows.items() if row["warm p50"] > AIM_WARM_MS or row["cold p50"] > AIM_COLD_MS]
    print(f"slower than the aim: {', '.join(slow)}" if slow else "all within the aim")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
