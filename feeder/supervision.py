"""The feeder's threads. One that dies ends the process, which Kubernetes then starts again: a feeder with a part of it
dead would be deaf with its health green."""

import threading
from collections.abc import Callable

from beads_dispatch import log
from beads_dispatch.log import Action

logger = log.get("feeder")


class Threads:
    """Starts threads that run until `stop` is set; one that ends before sets it, and `failed`."""

    def __init__(self, stop: threading.Event) -> None:
        self.failed = ""  # the thread that died first
        self._stop = stop
        self._threads: dict[str, threading.Thread] = {}

    def start(self, name: str, target: Callable[[], object]) -> None:
        """Run `target` in a thread of its own."""
        self._threads[name] = threading.Thread(target=self._run, args=(name, target), name=name, daemon=True)
        self._threads[name].start()

    def join(self, seconds: float, *names: str) -> None:
        """Wait for the ends of these threads, so long for each."""
        for name in names:
            if name in self._threads:
                self._threads[name].join(seconds)

    def _run(self, name: str, target: Callable[[], object]) -> None:
        died: BaseException | None = None
        try:
            target()
        except BaseException as exc:  # noqa: BLE001 - whatever it was, it must not die unnoticed
            died = exc
        if not self._stop.is_set():
            self.failed = name
            reason = f"{type(died).__name__}: {died}" if died else "it ended"
            fields = log.context(action=Action.THREAD, thread=name)
            logger.error(f"the thread {name} died ({reason}): the process ends", exc_info=died, extra=fields)
            self._stop.set()
