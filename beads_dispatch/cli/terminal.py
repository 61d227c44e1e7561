"""What leaves the command: lines for people, JSON for programs. Here, and only here, all of it is made safe."""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from beads_dispatch import notes

SCHEMA = 1  # of the JSON: a higher number means that a field has changed or gone

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


class Styled(NamedTuple):
    """A part of a line, with a style that a terminal shows."""

    text: str
    style: str


Line = str | tuple[str | Styled, ...]


def write(line: Line, env: Mapping[str, str]) -> None:
    """Print a line on standard output at once, in colour where it is a terminal."""
    print(render(line, coloured=wants_colours(env)), flush=True)


def write_json(result: Any, indent: int | None = 2) -> None:
    """Print a result as JSON on standard output at once."""
    print(as_json(result, indent), flush=True)


def warn(message: str) -> None:
    """Print a line on standard error: beside the result, or in its place."""
    print(clean(message), file=sys.stderr, flush=True)


def agreed(question: str) -> bool:
    """Ask on standard error; no without a terminal to answer from."""
    if not sys.stdin.isatty():
        return False
    print(f"{clean(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def wants_colours(env: Mapping[str, str]) -> bool:
    """Whether standard output shows colours. See no-color.org: NO_COLOR counts when it is not empty."""
    return sys.stdout.isatty() and not env.get("NO_COLOR") and env.get("TERM") != "dumb"


def render(line: Line, *, coloured: bool) -> str:
    """A line whose only control characters are the codes of our styles."""
    parts = [line] if isinstance(line, str) else line
    return "".join(
        f"\x1b[{_CODES[part.style]}m{clean(part.text)}\x1b[0m"
        if coloured and isinstance(part, Styled) and part.text
        else clean(part.text if isinstance(part, Styled) else part)
        for part in parts
    )


def clean(text: str) -> str:
    """`text` with a space for each character that is not printable: it cannot write on the terminal, or forge a line.

    The length stays, so columns that were aligned before are aligned after.
    """
    return notes.one_line(text, len(text))


def cut(text: str, limit: int = 60) -> str:
    """At most `limit` characters of a text."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def moment(at: datetime) -> str:
    """`2026-07-15 09:30:00Z`, with milliseconds where there are any."""
    at = at.astimezone(UTC)
    return at.strftime("%Y-%m-%d %H:%M:%S") + (f".{at.microsecond // 1000:03d}" if at.microsecond else "") + "Z"


def until(at: datetime, now: datetime) -> str:
    """`2026-07-15 09:30:00Z (5 min more)`."""
    return f"{moment(at)} ({span(at - now)} more)"


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
    """A dataclass as JSON with its schema's number; moments as `2026-07-15T09:30:00.000Z`, lengths of time in seconds.

    Characters that are not printable are escaped, so the text is exact and safe for a terminal.
    """
    text = json.dumps({"schema": SCHEMA, **_plain(result)}, ensure_ascii=False, indent=indent)
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value
