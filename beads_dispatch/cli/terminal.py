"""How results are written: text for people, JSON for programs. Pure, but for the look at the terminal."""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from beads_dispatch import notes

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


class Paint:
    """Colours, where they are wanted: on a terminal, and never with NO_COLOR."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted

    def __call__(self, text: str, how: str) -> str:
        return f"\x1b[{_CODES[how]}m{text}\x1b[0m" if self._wanted and text else text


def paint(env: Mapping[str, str] = os.environ) -> Paint:
    """Colours for standard output. See no-color.org: NO_COLOR counts when it is not empty."""
    return Paint(sys.stdout.isatty() and not env.get("NO_COLOR") and env.get("TERM") != "dumb")


def text(value: str, limit: int = 60) -> str:
    """A bead's text, made safe for a terminal and cut to `limit` characters."""
    safe = notes.one_line(value, 10_000)
    return safe if len(safe) <= limit else safe[: limit - 1] + "…"


def moment(at: datetime) -> str:
    """`2026-07-15 09:30:00Z`, with milliseconds where there are any."""
    at = at.astimezone(UTC)
    return at.strftime("%Y-%m-%d %H:%M:%S") + (f".{at.microsecond // 1000:03d}" if at.microsecond else "") + "Z"


def span(length: timedelta) -> str:
    """`45 s`, `3 min`, `2 h 5 min`, `4 d`; below a second in milliseconds."""
    seconds = abs(length.total_seconds())
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "  ") -> list[str]:
    """Columns as wide as their widest cell; the last is not padded."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    return [
        indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]


def as_json(result: Any, indent: int | None = 2) -> str:
    """A dataclass as JSON; moments as `2026-07-15T09:30:00.000Z`, lengths of time in seconds."""
    return json.dumps(_plain(result), ensure_ascii=False, indent=indent)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value
