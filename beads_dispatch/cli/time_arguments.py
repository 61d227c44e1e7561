"""What people write for a moment of the past: a time, or how long ago; anything else may be a Dolt commit."""

import re
from datetime import datetime, timedelta

from beads_dispatch import notes

_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)(?:\s+ago)?")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def parse(written: str, now: datetime) -> datetime | None:
    """A moment, UTC-aware; None when it is not one and so may be a commit. Pure.

    `90m`, `2h ago`, `now`, or ISO 8601: `2026-07-15 09:30`, `2026-07-15T09:30:00.123Z`. UTC where it names no zone.
    """
    written = written.strip()
    if written == "now":
        return now
    ago = _AGO.fullmatch(written)
    try:
        if ago:
            return now - timedelta(seconds=float(ago[1]) * _SECONDS[ago[2]])
    except OverflowError:
        return None
    return notes.moment(written.upper()) if re.match(r"\d{4}-\d\d", written) else None
