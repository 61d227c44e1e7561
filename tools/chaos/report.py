"""What a part found: rows of figures, and which promise is broken. The same for every part."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

_started = time.monotonic()


@dataclass(frozen=True)
class Check:
    """One check: its figures in words, and how the promise was broken (None: it held)."""

    part: str
    check: str
    figures: str
    broken: str | None = None


def say(message: str) -> None:
    """Progress, with the seconds since the start."""
    print(f"{time.monotonic() - _started:7.1f} s  {message}", flush=True)


def check(part: str, check: str, figures: str, broken: Sequence[str] | str | None = None) -> Check:
    """A row, said at once; of many breaks the first few."""
    if isinstance(broken, str):
        broken = [broken]
    told = "; ".join(broken[:3]) + (f"; and {len(broken) - 3} more" if len(broken) > 3 else "") if broken else None
    found = Check(part, check, figures, told)
    say(f"{part}: {check}: {figures}" + (f"  BROKEN: {told}" if told else ""))
    return found


def table(rows: Sequence[Check]) -> None:
    """All rows under each other."""
    widths = [max((len(getattr(found, name)) for found in rows), default=0) for name in ("part", "check")]
    print()
    for found in rows:
        verdict = "BROKEN" if found.broken else "ok"
        print(f"{verdict:<7}{found.part:<{widths[0]}}  {found.check:<{widths[1]}}  {found.figures}")
        if found.broken:
            print(f"       {found.broken}")
    broken = sum(found.broken is not None for found in rows)
    print(f"\n{len(rows)} checks, {broken} broken")
