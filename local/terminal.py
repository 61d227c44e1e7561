"""What local prints in the terminal: its progress, and its own log as one readable line each."""

import contextlib
import json
import logging
import sys
from datetime import UTC, datetime

from beads_dispatch import log
from beads_dispatch.cli import terminal


class ReadableLines(logging.Formatter):
    """`09:30:00.123  ticks: a tick was not accepted: HTTP 503 (source dispatch)`, UTC, whatever a bead's text holds."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        given = ", ".join(f"{name} {value}" for name, value in log.fields(record).items() if name != "action")
        name = record.name.removeprefix("beads.")
        text = f"{name}: {record.getMessage()}" + (f" ({given})" if given else "")
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return f"{clock(at)}  {terminal.clean(text)}{trace}"


def clock(at: datetime) -> str:
    """`09:30:00.123`, UTC."""
    return f"{at.astimezone(UTC):%H:%M:%S.%f}"[:-3]


def readable(line: str) -> str:
    """A line of a child's log: the message where it is JSON."""
    try:
        return str(json.loads(line)["message"])
    except (ValueError, KeyError, TypeError):
        return line


def configure_log(process: str, level: str) -> None:
    """Set up logging for a process that a person watches."""
    log.configure(process, level)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(ReadableLines())


def show(*lines: str) -> None:
    """Print lines at once, safe for a terminal. One that was closed must not keep a stop from its end."""
    with contextlib.suppress(OSError):
        print(*map(terminal.clean, lines), sep="\n", flush=True)


def report(message: str) -> None:
    """Print a line of progress."""
    show(f"==> {message}")


def report_failure(message: str) -> None:
    """Print an error, on stderr."""
    with contextlib.suppress(OSError):
        print(f"\n{message}", file=sys.stderr, flush=True)
