"""All measurements one after the other, most of them smaller than by themselves: python -m tools.bench (make bench)

Each prints its table and writes tools/bench/results/<name>.json. Under 15 minutes on 2 cores.
"""

import subprocess
import sys
import time

# Each measurement and its options; `make bench-<name>` runs each at its full size.
PLAN: tuple[tuple[str, ...], ...] = (
    ("cold", "--rounds", "10"),
    ("scale", "--rounds", "15", "--largest", "100000"),
    ("first_start", "--beads", "50000"),
    ("write_overhead", "--rounds", "60"),
    ("throughput", "--changes", "3000", "--seconds", "15"),
    ("idle", "--minutes", "2"),
    ("heartbeat", "--beats", "300"),
    ("chain", "--beads", "50"),
    ("due", "--moments", "30"),
    ("race", "--beads", "100"),
    ("agents", "--beads", "20", "--jobs", "6"),
    ("latency", "--samples", "120"),
    ("console", "--rounds", "8"),
    ("databases", "--databases", "10", "--samples", "8", "--rounds", "1", "--minutes", "0.5"),
)


def main() -> int:
    """Returns 1 when a measurement failed; the others are made all the same."""
    started = time.monotonic()
    failed = []
    for number, (name, *options) in enumerate(PLAN, 1):
        minutes = (time.monotonic() - started) / 60
        print(f"\n==> {number} of {len(PLAN)}: {name} {' '.join(options)} ({minutes:.1f} min so far)", flush=True)
        if subprocess.run([sys.executable, "-m", f"tools.bench.{name}", *options]).returncode:
            failed.append(name)
    minutes = (time.monotonic() - started) / 60
    print(f"\n==> {minutes:.1f} minutes" + (f"; FAILED: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
