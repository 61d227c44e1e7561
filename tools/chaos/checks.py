"""What a part reports: one Check for each promise that it tested, with figures and with how it was broken."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

_started = time.monotonic()


@dataclass(frozen=True)
class Check:
    """One check: its figures in words, and how the promise was broken (None: it held)."""

    part: str
    name: str
    figures: str
    broken: str | None = None


def progress(message: str) -> None:
    """Print a line with the seconds since the start."""
    print(f"{time.monotonic() - _started:7.1f} s  {message}", flush=True)


def check(part: str, name: str, figures: str, broken: Sequence[str] = ()) -> Check:
    """Print a check's result and return it; of many breaches the first few."""
    more = f"; and {len(broken) - 3} more" if len(broken) > 3 else ""
    found = Check(part, name, figures, "; ".join(broken[:3]) + more if broken else None)
    progress(f"{part}: {name}: {figures}" + (f"  BROKEN: {found.broken}" if broken else ""))
    return found


def print_table(checks: Sequence[Check]) -> None:
    """Print all checks as a table."""
    widths = [max((len(getattr(found, name)) for found in checks), default=0) for name in ("part", "name")]
    print()
    for found in checks:
        verdict = "BROKEN" if found.broken else "ok"
        print(f"{verdict:<7}{found.part:<{widths[0]}}  {found.name:<{widths[1]}}  {found.figures}")
        if found.broken:
            print(f"       {found.broken}")
    broken = sum(found.broken is not None for found in checks)
    print(f"\n{len(checks)} checks, {broken} broken")
