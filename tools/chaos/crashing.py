"""A process of ours that dies at a chosen step: python -m tools.chaos.crashing {dispatch,reap,feeder} AT JOURNAL

Runs the product's own code with a step counter around its external calls (each SQL statement, begin and commit, each
request to the agent, each event sent, each move of the position), writes every step into JOURNAL, and kills itself with
SIGKILL before step number AT (0: never). The product is not changed for it.
"""

import argparse
import contextlib
import functools
import os
import pathlib
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pymysql.cursors
from pymysql.connections import Connection

from beads_dispatch import reaper, settings, store
from beads_dispatch.agents.http import AgentHttp
from feeder import __main__ as feeder
from feeder.checkpoint import Checkpointer
from feeder.emitter import Emitter
from tools import world
from tools.chaos import mutants


class Steps:
    """Counts steps, of all threads together."""

    def __init__(self, at: int, journal: pathlib.Path) -> None:
        self._at = at
        self._journal = journal.open("a", buffering=1)
        self._number = 0
        self._lock = threading.Lock()

    def step(self, name: str) -> None:
        with self._lock:
            self._number += 1
            self._journal.write(name + "\n")
            if self._number == self._at:
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(60)  # SIGKILL comes before the next instruction, or soon after

    def around(self, owner: Any, method: str, name: Callable[..., str]) -> None:
        """Make each call of a method a step, named from its arguments."""
        original = getattr(owner, method)

        @functools.wraps(original)
        def counted(self_: Any, *arguments: Any, **named: Any) -> Any:
            self.step(name(*arguments))
            return original(self_, *arguments, **named)

        setattr(owner, method, counted)


def watch(steps: Steps) -> None:
    """Put the counter around the external calls."""
    steps.around(pymysql.cursors.Cursor, "execute", _statement)
    steps.around(Connection, "begin", lambda: "BEGIN")
    steps.around(Connection, "commit", lambda: "COMMIT")
    steps.around(AgentHttp, "exchange", lambda method, url, *rest: f"{method} {url.rsplit('/', 1)[1]}")
    steps.around(Emitter, "send", lambda event: f"send {event.type.split('.')[2]}")
    steps.around(Checkpointer, "advance", lambda *rest: "advance the position")


def _statement(sql: str | bytearray, *_: Any) -> str:
    """A statement's beginning: the verb and its object. PyMySQL's executemany makes bytes of it."""
    words = " ".join((sql if isinstance(sql, str) else sql.decode()).split())
    known = re.match(
        r"(CALL \w+|SELECT (?:GET|RELEASE)_LOCK|(?:UPDATE|INSERT INTO|REPLACE INTO|DELETE FROM) [\w.]+)", words
    )
    return known.group(1) if known else words[:40]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.chaos.crashing", description=__doc__)
    parser.add_argument("process", choices=["dispatch", "reap", "feeder"])
    parser.add_argument("at", type=int)
    parser.add_argument("journal", type=pathlib.Path)
    parser.add_argument("--mutant", default="", help="a name of tools.chaos.mutants")
    options = parser.parse_args()
    steps = Steps(options.at, options.journal)
    sys.argv = ["feeder"]
    with mutants.mutated(options.mutant):
        watch(steps)
        return feeder.main() if options.process == "feeder" else _one_pass(options.process, steps)


def _one_pass(process: str, steps: Steps) -> int:
    dolt = settings.dolt(os.environ)
    if process == "reap":
        with contextlib.closing(store.Store(dolt)) as beads:
            reaper.run_once(beads, settings.DispatchLimits(), datetime.now(UTC))
    else:
        with world.dispatcher(dolt, os.environ["BEADBOARD_URL"]) as dispatcher:
            dispatcher.run_once()
    steps.step("the end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
