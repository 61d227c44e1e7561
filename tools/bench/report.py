"""Percentiles, tables and JSON, the same for every measurement."""

import json
import math
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

RESULTS = pathlib.Path(__file__).parent / "results"


def percentile(samples: Sequence[float], percent: float) -> float:
    """The value that `percent` of the samples do not exceed (nearest rank)."""
    ordered = sorted(samples)
    return ordered[max(1, math.ceil(percent / 100 * len(ordered))) - 1]


def summary(samples: Sequence[float]) -> dict[str, float]:
    """p50, p90, p99 and max, in the unit of the samples."""
    return {"n": len(samples)} | {
        name: round(percentile(samples, percent), 1) for name, percent in (("p50", 50), ("p90", 90), ("p99", 99))
    } | {"max": round(max(samples), 1)}  # fmt: skip


def table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print rows of figures under each other."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    width = max(len(name) for name in rows)
    widths = [max(12, len(name) + 2) for name in columns]
    print(f"\n{title}")
    print(" " * width + "".join(f"{name:>{wide}}" for name, wide in zip(columns, widths, strict=True)))
    for name, row in rows.items():
        cells = (f"{row.get(column, ''):>{wide}}" for column, wide in zip(columns, widths, strict=True))
        print(f"{name:<{width}}" + "".join(cells))


def write(name: str, figures: Mapping[str, Any]) -> None:
    """Write the figures as JSON below bench/results/."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    machine = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    load = [round(value, 1) for value in os.getloadavg()]  # figures from a busy machine say so
    document = {"measured": datetime.now(UTC).isoformat(timespec="seconds"), **machine, "load": load, **figures}
    path.write_text(json.dumps(document, indent=2) + "\n")
    print(f"\nwritten to {path}")
