"""The tests' HTTP servers and waiting, which they share with the tools."""

import functools
import json
import pathlib
from collections.abc import Callable
from contextlib import closing
from typing import Any

import httpx

from tools import world
from tools.servers import Agent, Behaviour, Handler, Sink, accepted, answers, half_a_body, hangs_up, job

__all__ = [
    "PATIENCE_SECONDS",
    "Agent",
    "Behaviour",
    "Handler",
    "Sink",
    "accepted",
    "answers",
    "closing",
    "get",
    "half_a_body",
    "hangs_up",
    "job",
    "json_lines",
    "post",
    "wait_for",
]

# For what takes a moment on an idle machine. Only a test that fails waits so long, so it costs nothing to be generous:
# where others use the machine, a process may start ten times slower, and a thread may not run for seconds.
PATIENCE_SECONDS = 120.0

# httpx's own limit is 5 s.
get = functools.partial(httpx.get, timeout=PATIENCE_SECONDS)
post = functools.partial(httpx.post, timeout=PATIENCE_SECONDS)


def wait_for(condition: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> Any:
    """Wait until `condition` returns something true; returns it. Raises TimedOut.

    Wait for what is asserted, where it is to be seen: that a server was asked does not mean that its client has
    continued, and a row in Dolt does not mean that its writer has.
    """
    return world.wait_for(condition, what, seconds)


def json_lines(log: pathlib.Path) -> list[dict[str, Any]]:
    """What a process has logged so far, without a line that is still being written."""
    lines = log.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]
