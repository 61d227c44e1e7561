"""A Dolt server of its own with a bd workspace and our processes around it. For the tools."""

import contextlib
import pathlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from beads_dispatch import settings, store
from beads_dispatch.agents import beadboard
from beads_dispatch.dispatcher import Dispatcher
from local import processes
from local.dolt import DoltServer
from local.processes import Process
from local.system import Ports, System, environment_of
from local.workspace import Workspace
from tools import toolchain
from tools.database import BeadsDatabase

MANY = 10**6  # a concurrency limit that is never reached
_NO_TICKS = {"dispatch": 1e6, "reap": 1e6}  # seconds between ticks


class TimedOut(AssertionError):
    """Something did not happen in time."""


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 15.0) -> Any:
    """Wait until `condition` returns something true; returns it. Raises TimedOut."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimedOut(f"not after {seconds:g} s: {what}")
        time.sleep(0.02)
    return found


def not_in_time(condition: Callable[[], Any], what: str, seconds: float) -> list[str]:
    """As `wait_for`, for a check: how the promise is broken."""
    try:
        wait_for(condition, what, seconds)
    except TimedOut as exc:
        return [str(exc)]
    return []


@contextlib.contextmanager
def meanwhile(*works: Callable[[threading.Event], object]) -> Iterator[None]:
    """Run each in a thread of its own until the block ends, when the event that it is given is set."""
    stop = threading.Event()
    threads = [threading.Thread(target=work, args=(stop,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
    for thread in threads:  # not after an error, which may be what one of them waits for
        thread.join()


@dataclass
class SimulatedClock:
    """A clock that moves only when it sleeps."""

    now: datetime

    def __call__(self) -> datetime:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Feeder(Process):
    """A feeder process."""

    def __init__(self, command: tuple[str, ...], log: pathlib.Path, environment: Mapping[str, str]) -> None:
        self._port = processes.free_port()
        super().__init__("feeder", processes.python(*command), log, {**environment, "PORT": str(self._port)})

    def wait_until_reading(self) -> None:
        """Wait until it is ready and reads the binlog."""
        self.wait_until(lambda: processes.answers(f"http://127.0.0.1:{self._port}/readyz"), "get ready")

    def printed(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace")


class World(BeadsDatabase):
    """The server, the workspace on it, and a folder for everything else."""

    def __init__(self, folder: pathlib.Path, server: DoltServer, workspace: Workspace) -> None:
        super().__init__(workspace)
        self.folder = folder
        self.server = server
        self.feeder_command: tuple[str, ...] = ("-m", "feeder")
        self.since: str | None = None  # the Dolt commit from which `empty` began last
        self._logs = 0

    def empty(self) -> str:
        self.since = super().empty()
        return self.since

    def add(self, beads: list[str], **columns: Any) -> None:
        """Insert beads and make a Dolt commit of them."""
        self.insert(beads, **columns)
        self.commit("beads")

    def log(self, name: str) -> pathlib.Path:
        """A new log file's path."""
        self._logs += 1
        return self.folder / "logs" / f"{name}-{self._logs}.log"

    def feeder(
        self,
        sink_url: str,
        *,
        command: tuple[str, ...] = (),
        log: pathlib.Path | None = None,
        port: int = 0,
        feed_name: str = "",
    ) -> Feeder:
        """Start a feeder process; it is not waited for. `port`: of a proxy before Dolt."""
        dolt = replace(self.dolt, port=port or self.dolt.port)
        environment = {**environment_of(dolt), "K_SINK": sink_url, "SINK_TIMEOUT_SECONDS": "3", "FEED_NAME": feed_name}
        return Feeder(command or self.feeder_command, log or self.log("feeder"), environment)

    def system(self, agent_url: str, dolt: settings.DoltSettings | None = None, **more: Any) -> System:
        """All of ours without ticks; `dolt`: of a proxy before Dolt, `more`: arguments of System."""
        more["environment"] = {"AGENT_HEALTH_URL": f"{agent_url}/health", **more.get("environment", {})}
        return System(dolt or self.dolt, agent_url, Ports.free(), self.folder / "log", tick_seconds=_NO_TICKS, **more)


@contextlib.contextmanager
def world(*, log_bin: bool = True) -> Iterator[World]:
    """A world of its own, for as long as the block runs. `log_bin`: whether Dolt writes its binlog."""
    # What still writes into the folder at the end does not matter.
    with tempfile.TemporaryDirectory(prefix="beads-world-", ignore_cleanup_errors=True) as name:
        folder = pathlib.Path(name)
        print("starting Dolt and making a workspace", flush=True)
        server = DoltServer(toolchain.dolt(), folder / "dolt", processes.free_port(), log_bin=log_bin)
        server.start()
        try:
            workspace = Workspace(toolchain.bd(), folder / "workspace")
            workspace.init(server.port, "world")
            yield World(folder, server, workspace)
        finally:
            server.stop()


@contextlib.contextmanager
def dispatcher(
    dolt: settings.DoltSettings,
    agent_url: str,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    *,
    timeout_seconds: float = 5.0,
    max_in_flight: int = MANY,
    health: bool = True,
) -> Iterator[Dispatcher]:
    """A dispatcher whose passes run in this process; it sleeps on `clock` where that can sleep. `health`: beside
    AGENT_HEALTH_URL."""
    health_url = f"{agent_url}/health" if health else None
    agent = beadboard.BeadBoard(settings.AgentSettings(agent_url, health_url, timeout_seconds))
    limits = settings.DispatchLimits(max_in_flight=max_in_flight)
    sleep = clock.sleep if isinstance(clock, SimulatedClock) else time.sleep
    with contextlib.closing(store.Store(dolt)) as beads:
        yield Dispatcher(beads, agent, limits, clock, sleep)
