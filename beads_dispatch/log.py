"""One JSON object per log line, on stderr, so that any log collector can read it.

A line is a sentence plus `action=` and, where there is one, `bead=`:

    log.info("claimed", extra=log.context(action=Action.CLAIM, bead="bd-1"))
"""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

_FIELDS = "beads_fields"


class Action(StrEnum):
    """What a line is about; docs/configuration.md has a line for each."""

    START = "start"
    STOP = "stop"
    CREDENTIALS = "credentials"
    DATABASE = "database"
    # functions
    CLAIM = "claim"
    DISPATCH = "dispatch"
    OUTCOME = "outcome"
    PASS = "pass"
    SUSPENDED = "suspended"
    RETRY = "retry"
    FAILED = "failed"
    # feeder
    POSITION = "position"
    POSITION_REFUSED = "position-refused"
    GAP = "gap"
    JUMP = "jump"
    GAP_RECOVERED = "gap-recovered"
    DOLT_UP = "dolt-up"
    FEED_UP = "feed-up"
    FEED_DOWN = "feed-down"
    UNFIT = "unfit"
    OWNER = "owner"
    PREFLIGHT = "preflight"
    THREAD = "thread"
    SINK_DOWN = "sink-down"
    SINK_UP = "sink-up"
    TICK = "tick"
    REQUEST = "request"
    SLOTS = "slots"
    JOBS = "jobs"
    PINGSOURCE = "pingsource"
    METRICS = "metrics"
    # make up
    ROUTE = "route"
    LOOP = "loop"
    QUEUED = "queued"
    CLOSED = "closed"
    JOB_FAILED = "job-failed"
    # examples/notify
    NOTIFY = "notify"


def context(*, action: Action, **fields: Any) -> dict[str, Any]:
    """Fields for `extra=`; those that are None are left out."""
    fields = {"action": action, **fields}
    return {_FIELDS: {name: value for name, value in fields.items() if value is not None}}


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What `context` put into a record."""
    found: dict[str, Any] = getattr(record, _FIELDS, {})
    return found


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON, whatever a bead's text puts into it."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(fields(record))
        if record.exc_info:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(process: str, level: str = "INFO") -> None:
    """Set up logging for this process; called once, at its start.

    Libraries are kept at WARNING: httpx logs a line per request, with its URL, at INFO.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("beads").setLevel(level)
    # mysql-replication announces every setting and every reconnect; the feeder logs both itself.
    logging.getLogger("pymysqlreplication").setLevel(logging.ERROR)
    logging.getLogger("beads").debug("logging configured", extra=context(action=Action.START, process=process))


def get(name: str) -> logging.Logger:
    """The logger `beads.<name>`."""
    return logging.getLogger(f"beads.{name}")
