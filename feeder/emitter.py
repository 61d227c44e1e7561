"""POSTs CloudEvents to the sink."""

import random
import ssl
from collections.abc import Callable

import httpx

from beads_dispatch import credentials, deadline, events, log, settings
from beads_dispatch.log import Action
from feeder import metrics

logger = log.get("feeder")

FIRST_DELAY_SECONDS = 0.2
LONGEST_DELAY_SECONDS = 10.0  # Dolt that is back, or a password that was replaced, is noticed within 12 s
_LONGEST_AT_SINK_SECONDS = 30.0  # for one event

_REFUSALS = (400, 413, 431)  # the event's own fault: the sink will answer so for good
MOST_REFUSALS = 10  # of one event, in a row; with the delays between them they take over a minute


class SinkError(Exception):
    """The sink did not accept an event. The text gives the reason, without the sink's address."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.refused = status in _REFUSALS


class EventRefused(Exception):
    """The sink answers for good that it does not take an event. The text gives the reason."""


class Emitter:
    """A client of the sink, for one thread."""

    def __init__(self, feeder: settings.FeederSettings) -> None:
        self.accepts = True  # whether the sink accepted the last event
        self._settings = feeder
        # Certificates are loaded only where they are used.
        self._trusted = (
            credentials.public_and(feeder.sink_ca_certs, feeder.sink_ca_folder)
            if feeder.sink.startswith("https")
            else credentials.trusting_nobody
        )
        self._token = credentials.token_file(feeder.sink_token_file) if feeder.sink_token_file else None
        self._client: httpx.Client | None = None
        self._tls: ssl.SSLContext | None = None  # what `_client` verifies with
        self._exchange = deadline.Exchange(feeder.sink_timeout_seconds)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def send(self, event: events.Event) -> None:
        """POST one event; returns when the sink accepted it with 2xx. Raises SinkError."""
        headers, body = events.to_http(event, self._settings.overrides)
        try:
            if self._token is not None:
                headers["Authorization"] = f"Bearer {self._token.value()}"
            with self._exchange:
                response = self._current_client().post(
                    self._settings.sink, headers=headers, content=body, extensions={"trace": self._exchange.trace}
                )
        except (httpx.HTTPError, deadline.TooLate, OSError, ValueError) as exc:
            self.accepts = False
            metrics.SINK_ERRORS.inc()
            raise SinkError(f"the sink gave no answer ({type(exc).__name__}: {exc})") from exc
        self.accepts = response.is_success
        if not self.accepts:
            metrics.SINK_ERRORS.inc()
            raise SinkError(f"the sink answered HTTP {response.status_code}", response.status_code)

    def _current_client(self) -> httpx.Client:
        """The kept client; another one where the CAs have changed."""
        tls = self._trusted()
        if self._client is None or tls is not self._tls:
            self.close()
            self._client = httpx.Client(timeout=self._settings.sink_timeout_seconds, verify=tls, trust_env=False)
            self._tls = tls
        return self._client


class Backoff:
    """Delays between tries: they double, vary by a fifth, and start small again after a success."""

    def __init__(self, longest_seconds: float = LONGEST_DELAY_SECONDS) -> None:
        self._longest_seconds = longest_seconds
        self._tries = 0
        self._logged: set[str] = set()  # in this row of failures

    def next_seconds(self) -> float:
        """How long to wait before the next try."""
        delay: float = min(FIRST_DELAY_SECONDS * 2 ** min(self._tries, 16), self._longest_seconds)
        self._tries += 1
        return delay * random.uniform(0.8, 1.2)

    def failed(self, message: str, action: Action, *, refused: bool = False) -> float:
        """As next_seconds; the first failure in a row is logged, and no other unless it is another refusal, which may
        say what is to be done."""
        if self.first or (refused and message not in self._logged):
            logger.warning(message, extra=log.context(action=action))
            self._logged.add(message)
        return self.next_seconds()

    def reset(self) -> bool:
        """A try succeeded. Returns whether the one before had failed."""
        failed, self._tries = self._tries > 0, 0
        self._logged.clear()
        return failed

    @property
    def first(self) -> bool:
        """Whether the next failure is the first in a row."""
        return self._tries == 0


def retry_until_accepted(send: Callable[[], None], wait: Callable[[float], bool], touch: Callable[[], None]) -> bool:
    """Call `send` until the sink accepts the event, with back-off; `touch` is called before each try.

    `wait(seconds)` returns True when the process is to stop; then this returns False, and nothing was sent.
    Raises EventRefused after MOST_REFUSALS in a row.
    """
    backoff, refusals = Backoff(_LONGEST_AT_SINK_SECONDS), 0
    while True:
        touch()
        try:
            send()
        except SinkError as exc:
            refusals = refusals + 1 if exc.refused else 0
            if refusals == MOST_REFUSALS:
                raise EventRefused(f"{exc}, {refusals} times in a row") from exc
            if wait(backoff.failed(f"{exc}; trying again until it accepts", Action.SINK_DOWN)):
                return False
        else:
            if backoff.reset():
                logger.warning("the sink accepts events again", extra=log.context(action=Action.SINK_UP))
            return True
