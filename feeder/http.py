"""The feeder's HTTP endpoint: ticks, answered with a request event or an empty 204; health; metrics."""

import threading
from collections.abc import Callable, Iterable
from typing import Any

import waitress
from waitress.channel import HTTPChannel

from beads_dispatch import events, log, settings, store
from beads_dispatch.log import Action
from feeder import changes, metrics
from feeder.eligibility_check import EligibilityCheck
from feeder.health import HealthState

logger = log.get("feeder")

_CONNECTIONS = 50  # a Broker and two kinds of probes need a handful
_IDLE_SECONDS = 30  # without a byte, or with an unfinished request
_LOOK_SECONDS = 5  # between looks for connections that are idle

_USAGE = "POST a tick to /; GET /healthz, /readyz or /metrics"

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
Answer = tuple[str, list[tuple[str, str]], bytes]


class Endpoint:
    """The WSGI application. Ticks are answered one at a time: they share one connection to Dolt."""

    def __init__(self, gate: EligibilityCheck, health: HealthState, scrape: metrics.Scrape) -> None:
        self._gate = gate
        self._health = health
        self._scrape = scrape
        self._one_tick = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        status, headers, body = self._answer(environ)
        start_response(status, [*headers, ("Content-Length", str(len(body)))] if body else headers)
        return [body]

    def _answer(self, environ: dict[str, Any]) -> Answer:
        match environ["REQUEST_METHOD"], environ["PATH_INFO"]:
            case "POST", "/":
                return self._tick(environ)
            case "GET", "/healthz":
                return _text("200 OK", "alive") if self._health.alive else _text("503 Service Unavailable", "stalled")
            case "GET", "/readyz":
                if self._health.ready:
                    return _text("200 OK", "ready")
                return _text("503 Service Unavailable", "waiting for Dolt")
            case "GET", "/metrics":
                return "200 OK", [("Content-Type", metrics.CONTENT_TYPE)], self._scrape.page()
            case _, "/" | "/healthz" | "/readyz" | "/metrics":
                return _text("405 Method Not Allowed", _USAGE)
        return _text("404 Not Found", _USAGE)

    def _tick(self, environ: dict[str, Any]) -> Answer:
        try:
            event = events.from_request(_headers(environ), environ["wsgi.input"].read(events.MAX_BODY_BYTES + 1))
        except events.InvalidEvent as exc:
            return _text("400 Bad Request", str(exc))
        if event.tick not in ("dispatch", "reap"):
            return _text("400 Bad Request", "expected a tick of the PingSource dispatch or reap")
        metrics.LAST_TICK.labels(event.tick).set_to_current_time()
        if event.suspended:
            return "204 No Content", [], b""
        try:
            with self._one_tick:
                request = self._request_for(event)
        except store.StoreError as exc:
            logger.warning(str(exc), extra=log.context(action=Action.TICK, event=event.id))
            return _text("503 Service Unavailable", "Dolt cannot be used now; send the event again later")
        if request is None:
            return "204 No Content", [], b""
        headers, body = events.to_http(request)
        return "200 OK", list(headers.items()), body

    def _request_for(self, tick: events.Event) -> events.Event | None:
        cause = changes.RequestReason("tick", tick.id)
        if tick.tick == "dispatch":
            waiting, event_type = self._gate.waiting_with_slot(), events.DISPATCH_REQUESTED
        else:
            waiting, event_type = self._gate.stuck(), events.REAP_REQUESTED
        if not waiting:
            return None
        metrics.REQUESTS.labels(tick.tick, cause.cause).inc()
        return changes.request(cause, waiting, event_type)


class _Channel(HTTPChannel):  # type: ignore[misc]
    """A connection whose idle time counts from the beginning of a request: one that sends it byte by byte would be
    active for ever, and a few dozen of those would keep the probes and the Broker out."""

    @property
    def last_activity(self) -> float:
        return self._last_activity

    @last_activity.setter
    def last_activity(self, moment: float) -> None:
        if self.request is None:
            self._last_activity = moment


def serve(endpoint: Endpoint, feed: settings.FeederSettings) -> Any:
    """Bind and return the server, to be run in a thread. Raises OSError when the address is in use."""
    server = waitress.create_server(
        endpoint,
        host=feed.host,
        port=feed.port,
        threads=4,
        connection_limit=_CONNECTIONS,
        channel_timeout=_IDLE_SECONDS,
        cleanup_interval=_LOOK_SECONDS,
        max_request_body_size=events.MAX_BODY_BYTES,
        max_request_header_size=32 * 1024,
        ident=None,
    )
    server.channel_class = _Channel
    return server


def _headers(environ: dict[str, Any]) -> dict[str, str]:
    headers = {name[5:].replace("_", "-"): value for name, value in environ.items() if name.startswith("HTTP_")}
    return {**headers, "content-type": environ.get("CONTENT_TYPE", "")}


def _text(status: str, message: str) -> Answer:
    return status, [("Content-Type", "text/plain; charset=utf-8")], f"{message}\n".encode()
