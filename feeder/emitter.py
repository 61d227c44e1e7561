"""POSTs CloudEvents to the sink. The feeder's only HTTP client."""

import random
from collections.abc import Callable
from typing import Any

import httpx

from beads_dispatch import deadline, events, log, settings
from beads_dispatch.log import Action
from feeder import metrics

logger = log.get("feeder")

FIRST_DELAY_SECONDS = 0.2
LONGEST_DELAY_SECONDS = 30.0


class SinkError(Exception):
    """The sink did not take an event; the text says how, without the sink's address."""


class Emitter:
    """A client of the sink, for one thread."""

    def __init__(self, feed: settings.FeederSettings) -> None:
        self._feed = feed
        self._client = httpx.Client(timeout=feed.sink_timeout_seconds, verify=feed.sink.startswith("https"))
        self._connection: Any = None

    def close(self) -> None:
        self._client.close()

    def send(self, event: events.Event) -> None:
        """POST one event; returns when the sink accepted it with 2xx. Raises SinkError."""
        headers, body = events.to_http(event, self._feed.overrides)
        try:
            with deadline.ended_after(self._feed.sink_timeout_seconds, self._socket):
                response = self._client.post(
                    self._feed.sink, headers=headers, content=body, extensions={"trace": self._trace}
                )
        except httpx.HTTPError as exc:
            metrics.SINK_ERRORS.inc()
            raise SinkError(f"the sink gave no answer ({type(exc).__name__}: {exc})") from exc
        if not response.is_success:
            metrics.SINK_ERRORS.inc()
            raise SinkError(f"the sink answered HTTP {response.status_code}")

    def _socket(self) -> Any:
        return self._connection.get_extra_info("socket")

    def _trace(self, event: str, info: dict[str, Any]) -> None:
        """httpx's way to its connection, which it keeps from one event to the next."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._connection = info["return_value"]


class Backoff:
    """Delays between tries: they double, vary by a fifth, and start small again after a success."""

    def __init__(self) -> None:
        self._tries = 0

    def next_seconds(self) -> float:
        delay: float = min(FIRST_DELAY_SECONDS * 2 ** min(self._tries, 16), LONGEST_DELAY_SECONDS)
        self._tries += 1
        return delay * random.uniform(0.8, 1.2)

    def reset(self) -> bool:
        """Whether there was anything to recover from."""
        failed, self._tries = self._tries > 0, 0
        return failed

    @property
    def first(self) -> bool:
        """Whether the next failure is the first of its kind, the one that is said."""
        return self._tries == 0


def retry_until_accepted(act: Callable[[], None], wait: Callable[[float], bool], alive: Callable[[], None]) -> bool:
    """Call `act` until the sink takes it, with back-off. The outage is said once, and its end.

    `wait(seconds)` returns True when the process is to stop; then this returns False and `act` is not done.
    """
    backoff = Backoff()
    while True:
        alive()
        try:
            act()
        except SinkError as exc:
            if backoff.first:
                logger.warning(f"{exc}; trying again until it does", extra=log.context(action=Action.SINK_DOWN))
            if wait(backoff.next_seconds()):
                return False
        else:
            if backoff.reset():
                logger.warning("the sink takes events again", extra=log.context(action=Action.SINK_UP))
            return True
