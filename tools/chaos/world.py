"""A Dolt server with a bd workspace in a folder that goes afterwards, and what the parts do with it."""

import collections
import contextlib
import itertools
import pathlib
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pymysql.cursors import DictCursor

from beads_dispatch import events, log, settings, store, suspension
from beads_dispatch.agents import beadboard
from beads_dispatch.dispatcher import Dispatcher
from local import processes
from local.dolt import DoltServer
from local.processes import Process
from local.workspace import Workspace
from tools import toolchain

SENTINEL = "agent"


class Late(Exception):
    """Something did not happen in time."""


def wait_for(condition: Callable[[], Any], what: str, seconds: float) -> float:
    """Wait until `condition` gives something true; returns the seconds it took. Raises Late."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            raise Late(f"not after {seconds:g} s: {what}")
        time.sleep(0.02)
    return time.monotonic() - started


@dataclass
class Clock:
    """A clock that is moved by hand, and sleeps by moving."""

    now: datetime

    def __call__(self) -> datetime:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class World:
    """The server, the workspace and the connection."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.server = DoltServer(toolchain.dolt(), folder / "dolt", processes.free_port())
        self.workspace = Workspace(toolchain.bd(), folder / "workspace")
        self.server.start()
        self.workspace.init(self.server.port, "chaos")
        self.dolt = settings.dolt({"BEADS_DIR": str(self.workspace.beads_dir)})
        self.began: str | None = None  # the Dolt commit after which the part at hand began
        self.flaw = ""  # what is wrong with the processes that are started, by tools.chaos.mutants' name for it
        self._logs = 0

    def close(self) -> None:
        self.server.stop()

    def sql(self, statement: str, *params: Any) -> list[dict[str, Any]]:
        """Plain SQL, as anybody could run it."""
        connection = store.connect(self.dolt, cursorclass=DictCursor, read_timeout=300)
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute(statement, params)
            return list(cursor.fetchall())

    def empty(self) -> None:
        """No beads, no switch, nothing of the feed's."""
        beads = store.Store(self.dolt)
        beads.feed_state.prepare()
        beads.close()
        (self.workspace.beads_dir / "issues.jsonl").unlink(missing_ok=True)
        for table in ("dependencies", "comments", "events", "issues", "leases"):
            self.sql(f"DELETE FROM {table}")
        self.sql("DELETE FROM config WHERE `key` = %s", suspension.CONFIG_KEY)
        for table in ("positions", "seen", "switches", "holds"):
            self.sql(f"DELETE FROM {store.STATE_DATABASE}.{table}")
        self.began = self.commit("empty")

    def commit(self, message: str) -> str:
        """Make a Dolt commit of everything; returns its hash."""
        return str(self.sql("CALL DOLT_COMMIT('-Am', %s, '--allow-empty')", message)[0]["hash"])

    def add(self, names: list[str], **columns: Any) -> None:
        """Beads by SQL, ready to be dispatched unless told otherwise, and a Dolt commit."""
        row = {
            "id": "", "title": "chaos", "description": "", "design": "", "acceptance_criteria": "It works.",
            "notes": "", "assignee": SENTINEL, "updated_at": datetime(2026, 1, 1), **columns,
        }  # fmt: skip
        with contextlib.closing(store.connect(self.dolt)) as connection, connection.cursor() as cursor:
            statement = f"INSERT INTO issues ({', '.join(row)}) VALUES ({', '.join(['%s'] * len(row))})"
            cursor.executemany(statement, [tuple({**row, "id": name}.values()) for name in names])
            cursor.execute("CALL DOLT_COMMIT('-Am', 'beads')")

    def row(self, bead: str) -> dict[str, Any]:
        return self.sql("SELECT * FROM issues WHERE id = %s", bead)[0]

    def log(self, name: str) -> pathlib.Path:
        self._logs += 1
        return self.folder / "logs" / f"{name}-{self._logs}.log"

    def environment(self, port: int | None = None) -> dict[str, str]:
        """For a process of ours; `port`: Dolt's, when something stands before it."""
        return {
            "DOLT_HOST": "127.0.0.1", "DOLT_PORT": str(port or self.dolt.port), "DOLT_USER": self.dolt.user,
            "DOLT_PASSWORD": "", "DOLT_DATABASE": self.dolt.database, "HOST": "127.0.0.1",
        }  # fmt: skip

    def feeder(
        self, sink_url: str, *, command: tuple[str, ...] = (), log: pathlib.Path | None = None,
        port: int | None = None, **more: str,
    ) -> "Feeder":  # fmt: skip
        """A feeder process; it is not waited for."""
        plain = ("-m", "tools.chaos.mutants", self.flaw) if self.flaw else ("-m", "feeder")
        listens = processes.free_port()
        environment = {
            **self.environment(port), "K_SINK": f"{sink_url}/", "PORT": str(listens), "SINK_TIMEOUT_SECONDS": "3",
            **more,
        }  # fmt: skip
        where = log or self.log("feeder")
        return Feeder(Process("feeder", processes.python(*(command or plain)), where, environment), listens)

    def dispatcher(self, agent_url: str, clock: Callable[[], datetime] | None = None, **rules: Any) -> Dispatcher:
        """One pass after the other in this process. Many slots, unless told otherwise."""
        agent = settings.AgentSettings(agent_url, f"{agent_url}/health", rules.pop("timeout_seconds", 5.0))
        moment = clock or (lambda: datetime.now(UTC))
        sleep = clock.sleep if isinstance(clock, Clock) else time.sleep
        many = settings.DispatchLimits(**{"max_in_flight": 10**6, **rules})
        return Dispatcher(store.Store(self.dolt), beadboard.BeadBoard(agent), many, moment, sleep)


@dataclass
class Feeder:
    """A feeder process and the port of its endpoint."""

    process: Process
    port: int

    def wait_until_reading(self, seconds: float = 60) -> None:
        """Wait until it is ready and reads the binlog."""
        self.process.wait_until(lambda: processes.answers(f"http://127.0.0.1:{self.port}/readyz"), "get ready", seconds)

    @property
    def log(self) -> str:
        return self.process.log.read_text(errors="replace")


def begin(seed: int | None) -> int:
    """For a command, before its world: the seed it was given or one that is chosen, said in either case; quiet logs of
    the product's own; and SIGTERM leaves nothing behind."""
    chosen = secrets.randbelow(2**32) if seed is None else seed
    print(f"seed {chosen}", flush=True)
    log.configure("chaos", level="CRITICAL")
    processes.end_cleanly_on_sigterm()
    return chosen


@contextlib.contextmanager
def world() -> Iterator[World]:
    """A world of its own, for as long as the block runs."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="beads-chaos-"))
    try:
        made = World(folder)
        try:
            yield made
        finally:
            made.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- what was changed, and what was told --------------------------------------------------------------------------

NOBODY: Mapping[str, str | None] = {"assignee": None, "status": None}  # where the bead did not exist
Side = tuple[str, str]  # assignee and status; empty where there is no bead
Steps = Mapping[str, list[tuple[Side, Side]]]  # for each bead, its changes in order


def changed_since(world: World, commit: str) -> Steps:
    """Every change of assignee or status since a Dolt commit, commit by commit, from Dolt's own history."""
    log = [row["commit_hash"] for row in world.sql("SELECT commit_hash FROM dolt_log")]
    order = {name: -number for number, name in enumerate(log)}
    since = order[commit]
    rows = world.sql(
        "SELECT to_commit, COALESCE(to_id, from_id) AS id, from_id, from_assignee, from_status,"
        " to_id, to_assignee, to_status FROM dolt_diff_issues"
    )
    found: dict[str, list[tuple[Side, Side]]] = collections.defaultdict(list)
    for row in sorted(rows, key=lambda row: order.get(row["to_commit"], 1)):
        before, after = _side(row, "from"), _side(row, "to")
        if order.get(row["to_commit"], 1) > since and before != after and (before, after) != (("", ""), ("", "open")):
            found[row["id"]].append((before, after))
    return found


def told(facts: list[events.Event]) -> tuple[Steps, int, list[str]]:
    """What a sink was told, bead by bead, each id once; how many repeats there were; and the ids whose repeats
    differ from the first."""
    first: dict[str, events.Event] = {}
    differ, repeats = [], 0
    found: dict[str, list[tuple[Side, Side]]] = collections.defaultdict(list)
    for event in facts:
        if event.id in first:
            repeats += 1
            if (event.data, event.subject) != (first[event.id].data, first[event.id].subject):
                differ.append(event.id)
            continue
        first[event.id] = event
        both = [event.data[side] or NOBODY for side in ("before", "after")]
        sides = [(side["assignee"] or "", side["status"] or "") for side in both]
        found[str(event.subject)].append((sides[0], sides[1]))
    return found, repeats, differ


def compare(changed: Steps, found: Steps) -> list[str]:
    """How what was told differs from what was changed."""
    differ = []
    for bead in sorted({*changed, *found}):
        pairs = list(itertools.zip_longest(changed.get(bead, []), found.get(bead, [])))
        first = next((number for number, (one, other) in enumerate(pairs) if one != other), None)
        if first is not None:
            differ.append(f"{bead}: change number {first} is {pairs[first][0]}, told {pairs[first][1]}")
    return differ


def count(steps: Steps) -> int:
    return sum(map(len, steps.values()))


def _side(row: Mapping[str, Any], side: str) -> Side:
    return (row[f"{side}_assignee"] or "", row[f"{side}_status"]) if row[f"{side}_id"] is not None else ("", "")
