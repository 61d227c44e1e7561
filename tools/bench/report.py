"""The command line, percentiles, tables and JSON, the same for every measurement."""

import argparse
import json
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from beads_dispatch import log
from beads_dispatch.cli import day
from local import interrupts

RESULTS = pathlib.Path(__file__).parent / "results"


def options(description: str | None, **defaults: float | str) -> argparse.Namespace:
    """Parse the command line, with an option for each default, and prepare the process."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"default: {default}")
    found = parser.parse_args()
    log.configure("bench", level="ERROR")
    interrupts.exit_once()
    return found


def percentile(samples: Sequence[float], percent: float) -> float:
    """As day.percentile. Raises ValueError without samples."""
    found = day.percentile(samples, percent)
    if found is None:
        raise ValueError("no samples")
    return found


def summary(samples: Sequence[float]) -> dict[str, float]:
    """p50, p90, p99 and max, in the unit of the samples."""
    percentiles = {f"p{percent}": round(percentile(samples, percent), 1) for percent in (50, 90, 99)}
    return {"n": len(samples), **percentiles, "max": round(max(samples), 1)}


def table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print figures as a table."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    width = max(len(name) for name in rows)
    widths = [max(12, len(name) + 2) for name in columns]
    print(f"\n{title}")
    print(" " * width + "".join(f"{name:>{wide}}" for name, wide in zip(columns, widths, strict=True)))
    for name, row in rows.items():
        cells = (f"{row.get(column, ''):>{wide}}" for column, wide in zip(columns, widths, strict=True))
        print(f"{name:<{width}}" + "".join(cells))


def write(name: str, figures: Mapping[str, Any]) -> None:
    """Write the figures as JSON below tools/bench/results/."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    machine = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    load = [round(value, 1) for value in os.getloadavg()]  # figures of a busy machine must be recognizable
    document = {"measured": datetime.now(UTC).isoformat(timespec="seconds"), **machine, "load": load, **figures}
    path.write_text(json.dumps(document, indent=2) + "\n")
    print(f"\nwritten to {path}")
