"""Child processes: started with a log file each, waited for, and stopped with their whole group."""

import contextlib
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Self

from local.terminal import readable

READY_SECONDS = 60  # a cold start on a busy machine takes a few
STOP_SECONDS = 20  # a dispatch pass that is in progress ends with its POST
_LOWEST_PORT = 10000
_EPHEMERAL_PORTS = 32768  # Linux: the default start of net.ipv4.ip_local_port_range

_setpriv = shutil.which("setpriv")
# Before a command: Linux kills the child when the thread that started it ends, so that it does not outlive a SIGKILL.
GUARD = (_setpriv, "--pdeathsig", "KILL", "--") if _setpriv else ()


class StartError(Exception):
    """A part could not be started: the text says which, why, and what to do."""


class Process:
    """One child, until `stop` or the end of a with block. `stop` is safe to call twice, and after the child died."""

    _started: ClassVar[set["Process"]] = set()  # and not stopped yet

    def __init__(
        self, name: str, command: Sequence[str | pathlib.Path], log: pathlib.Path, env: Mapping[str, str]
    ) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        guard = GUARD if threading.current_thread() is threading.main_thread() else ()
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                [*guard, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **env},
                start_new_session=True,  # Ctrl-C in the terminal reaches this process alone, which stops all in order
            )
        self._started.add(self)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    def stop(self) -> int:
        """SIGTERM, then SIGKILL for what is left of the group; returns the exit status."""
        if self.running:
            self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(STOP_SECONDS)
        return self.kill()

    def kill(self) -> int:
        """SIGKILL the group at once, as a crash does; returns the exit status."""
        self._signal(signal.SIGKILL)
        self._started.discard(self)
        return self._child.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @classmethod
    def kill_all(cls) -> None:
        """Kill every child that was started and not stopped, where a stop did not come to its end."""
        for process in list(cls._started):
            process.kill()

    def wait_until(self, ready: Callable[[], bool], what: str, seconds: float = READY_SECONDS) -> None:
        """Wait for `ready`. Raises StartError when the child dies first or takes too long."""
        deadline = time.monotonic() + seconds
        while not ready():
            ended = not self.running
            if ended or time.monotonic() > deadline:
                problem = "ended while starting" if ended else f"does not {what} after {seconds:g} s"
                lines = self.log.read_text(errors="replace").splitlines()[-8:]
                tail = "\n".join("  " + readable(line) for line in lines)
                raise StartError(f"{self.name} {problem}. Its log, {self.log}, ends with:\n{tail}")
            time.sleep(0.02)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, number)


def program(name: str) -> pathlib.Path:
    """The path of dolt or bd: DOLT or BD in the environment, else on PATH. Raises StartError."""
    variable = name.upper()
    given = os.environ.get(variable)
    found = shutil.which(os.path.expanduser(given or name))
    if found is None:
        raise StartError(
            f"{f'{variable} is {given}, which is not a program' if given else f'{name} is not on PATH'}."
            f" Install {name}, or set {variable} to its path: `python -m tools.toolchain {name}` installs it and"
            " prints that path."
        )
    return pathlib.Path(found).absolute()


def python(*arguments: str | pathlib.Path) -> list[str]:
    """This interpreter with arguments."""
    return [sys.executable, *map(str, arguments)]


def listening(port: int) -> bool:
    """Whether something on this machine accepts connections at the port."""
    with contextlib.closing(socket.socket()) as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers(url: str) -> bool:
    """Whether a GET of the URL is answered with 2xx."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(200 <= response.status < 300)
    except (urllib.error.URLError, OSError):
        return False


def require_free(port: int, part: str) -> None:
    """Raises StartError when the port is taken."""
    if not is_free(port):
        raise StartError(
            f"{part} needs port {port}, which is in use. Stop what listens there, or choose others with LOCAL_PORT."
        )


def is_free(port: int) -> bool:
    """Whether a server could listen at the port of 127.0.0.1 now."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def free_port(neighbours: int = 0) -> int:
    """A port that nothing listens on now, nor on so many after it.

    Below 32768, where Linux begins to take ports for outgoing connections: one of those may take a port between
    this check and the bind that it is for.
    """
    while True:
        first = random.randrange(_LOWEST_PORT, _EPHEMERAL_PORTS - neighbours)
        if all(map(is_free, range(first, first + neighbours + 1))):
            return first
