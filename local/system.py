"""All parts of the system on one machine: started in order, watched, and stopped in the opposite order.

Ports are neighbours, counted from LOCAL_PORT: router, dispatch, reap, feeder, stand-in agent, Dolt, console.
"""

import contextlib
import pathlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import feeder
import functions
from beads_dispatch import events, settings
from local import processes, router, ticks, triggers
from local.processes import Process, StartError

MANIFESTS = pathlib.Path(__file__).parent.parent / "knative" / "base"
DEFAULT_PORT = 18080
_CONSOLE_THREADS = 16  # half of them for pages that are open


@dataclass(frozen=True)
class Ports:
    """Where each part listens, all on 127.0.0.1."""

    router: int
    dispatch: int
    reap: int
    feeder: int
    agent: int
    dolt: int
    console: int

    @classmethod
    def counted_from(cls, first: int) -> "Ports":
        return cls(*range(first, first + 7))

    @classmethod
    def free(cls) -> "Ports":
        """Ports that nothing listens on now."""
        return cls.counted_from(processes.free_port(neighbours=6))


def environment_of(dolt: settings.DoltSettings) -> dict[str, str]:
    """For a process of ours: this connection to Dolt, and where to listen. A server that bd starts comes back on
    another port, which its workspace names."""
    where = {"BEADS_DIR": str(dolt.port_file.parent)} if dolt.port_file else {"DOLT_PORT": str(dolt.port)}
    return {
        **where, "DOLT_HOST": dolt.host, "DOLT_USER": dolt.user, "DOLT_PASSWORD": dolt.password,
        "DOLT_DATABASE": dolt.database, "DOLT_TLS_CA_FILE": dolt.tls_ca_file or "", "HOST": "127.0.0.1",
    }  # fmt: skip


class System:
    """The router, the two functions, the feeder and the ticks, around a Dolt server and an agent's backend.

    `observe` is called with every event that the router receives; `feeder_module` is run as the feeder. Use as a
    context manager.
    """

    def __init__(
        self,
        dolt: settings.DoltSettings,
        beadboard_url: str,
        ports: Ports,
        logs: pathlib.Path,
        *,
        environment: Mapping[str, str] | None = None,
        observe: Callable[[events.Event], None] | None = None,
        tick_seconds: Mapping[str, float] | None = None,
        feeder_module: str = feeder.__name__,
    ) -> None:
        self.ports = ports
        self._feeder_module = feeder_module
        self.processes: dict[str, Process] = {}
        self._logs = logs
        self._observe = observe or (lambda event: None)
        self._tick_seconds = tick_seconds
        self._stop = threading.Event()
        self._closing = contextlib.ExitStack()
        self._environment = {
            **environment_of(dolt), "BEADBOARD_URL": beadboard_url, "K_SINK": f"http://127.0.0.1:{ports.router}/",
            **(environment or {}),
        }  # fmt: skip

    def __enter__(self) -> "System":
        """Start everything and wait until it answers. Raises StartError."""
        try:
            self._start_router()
            for name in ("dispatch", "reap"):
                self.start_function(name)
            self.start_feeder()
            for name in ("dispatch", "reap"):
                self.processes[name].wait_until(partial(processes.listening, getattr(self.ports, name)), "listen")
            ready = partial(processes.answers, f"http://127.0.0.1:{self.ports.feeder}/readyz")
            self.processes["feeder"].wait_until(ready, "get ready")
            self._start_ticks()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        # The feeder first: nobody would answer what it requests later.
        for process in sorted(self.processes.values(), key=lambda process: process.name != "feeder"):
            process.stop()
        self._closing.close()

    def require_running(self) -> None:
        """Raises StartError when a part has died."""
        for process in self.processes.values():
            if not process.running:
                raise StartError(f"{process.name} has ended; its log is {process.log}")

    def start_console(self) -> None:
        """Start the console, and wait until it answers. Raises StartError."""
        # Other names would let any page in the browser read this one.
        self.start_function("console", CONSOLE_HOSTS="127.0.0.1,localhost", THREADS=str(_CONSOLE_THREADS))
        self.processes["console"].wait_until(partial(processes.listening, self.ports.console), "listen")

    def start_function(self, name: str, **more: str) -> None:
        """Start dispatch, reap or the console, as the image does."""
        source = pathlib.Path(functions.__path__[0]) / name / "main.py"
        port = getattr(self.ports, name)
        processes.require_free(port, f"the function {name}")
        command = processes.python("-m", "functions_framework", "--source", source, "--target", name)
        # gunicorn opens a control socket, by default at the same place in the home folder for both functions.
        run = self._logs / "run" / name
        run.mkdir(parents=True, exist_ok=True)
        self._run(name, command, port, XDG_RUNTIME_DIR=str(run), **more)

    def start_feeder(self) -> None:
        processes.require_free(self.ports.feeder, "the feeder")
        self._run("feeder", processes.python("-m", self._feeder_module), self.ports.feeder)

    def _run(self, name: str, command: list[str], port: int, **more: str) -> None:
        environment = {**self._environment, "PORT": str(port), **more}
        self.processes[name] = Process(name, command, self._logs / f"{name}.log", environment)

    def _start_router(self) -> None:
        processes.require_free(self.ports.router, "the router")
        addresses = {name: f"http://127.0.0.1:{getattr(self.ports, name)}/" for name in ("feeder", "dispatch", "reap")}
        broker = router.Router(
            triggers.load_triggers(MANIFESTS, addresses),
            lambda event, trigger, status: self._observe(event) if trigger is None else None,
        )
        self._closing.callback(router.serve(broker, port=self.ports.router).stop)
        self._closing.callback(broker.close)  # first: an event that is being delivered must not hold up the stop

    def _start_ticks(self) -> None:
        sources = ticks.Ticks(ticks.load_sources(MANIFESTS), self._environment["K_SINK"], self._tick_seconds)
        threading.Thread(target=sources.run, args=(self._stop,), name="ticks", daemon=True).start()
