"""The feeder's HTTP endpoint: ticks, answered with a request event or an empty 204; health; metrics."""

import threading
from collections.abc import Iterable, Mapping
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import waitress
from waitress.channel import HTTPChannel

from beads_dispatch import events, log, settings, store
from beads_dispatch.log import Action
from feeder import changes, metrics, wsgi
from feeder.eligibility_check import EligibilityCheck
from feeder.health import HealthState
from feeder.requests import PendingRequest

logger = log.get("feeder")

_CONNECTIONS = 50  # a Broker and two kinds of probes need a handful
_IDLE_SECONDS = 30  # without a byte, or with an unfinished request
_CLEANUP_SECONDS = 5  # between checks for idle connections

_USAGE = "POST a tick to /; GET /healthz, /readyz or /metrics"

Answer = tuple[str, list[tuple[str, str]], bytes]

_NOTHING_TO_DO: Answer = ("204 No Content", [], b"")


class Endpoint:
    """The WSGI application. Ticks are answered one at a time: they share one connection to Dolt."""

    def __init__(
        self,
        checks: Mapping[str, EligibilityCheck],
        health: HealthState,
        scrape: metrics.Scrape,
        pending: Mapping[str, PendingRequest] | None = None,
    ) -> None:
        """`checks`, by the agent's name, are for this endpoint alone. `pending`: where the passes of the other agents
        than the first are requested at a tick, since a reply is one event."""
        self._checks = checks
        self._pending = pending or {}
        self._health = health
        self._scrape = scrape
        self._one_tick = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        status, headers, body = self._answer(environ)
        start_response(status, [*headers, ("Content-Length", str(len(body)))] if body else headers)
        return [body]

    def _answer(self, environ: WSGIEnvironment) -> Answer:
        match environ["REQUEST_METHOD"], environ["PATH_INFO"]:
            case "POST", "/":
                return self._tick(environ)
            case "GET", "/healthz":
                return _text("200 OK", "alive") if self._health.alive else _unavailable("stalled")
            case "GET", "/readyz":
                return _text("200 OK", "ready") if self._health.ready else _unavailable("waiting for Dolt")
            case "GET", "/metrics":
                return "200 OK", [("Content-Type", metrics.CONTENT_TYPE)], self._scrape.page()
            case _, "/" | "/healthz" | "/readyz" | "/metrics":
                return _text("405 Method Not Allowed", _USAGE)
        return _text("404 Not Found", _USAGE)

    def _tick(self, environ: WSGIEnvironment) -> Answer:
        try:
            event = events.from_request(wsgi.headers(environ), wsgi.body(environ))
        except events.InvalidEvent as exc:
            return _text("400 Bad Request", str(exc))
        if event.tick not in ("dispatch", "reap"):
            return _text("400 Bad Request", "expected a tick of the PingSource dispatch or reap")
        metrics.LAST_TICK.labels(event.tick).set_to_current_time()
        self._health.tick(event.tick)
        if event.suspended:
            return _NOTHING_TO_DO
        try:
            with self._one_tick:
                request = self._request_for(event)
        except store.StoreError as exc:
            logger.warning(str(exc), extra=log.context(action=Action.TICK, event=event.id))
            return _unavailable("Dolt cannot be used now; send the event again later")
        if request is None:
            return _NOTHING_TO_DO
        headers, body = events.to_http(request)
        return "200 OK", list(headers.items()), body

    def _request_for(self, tick: events.Event) -> events.Event | None:
        reason = changes.RequestReason("tick", tick.id)
        if tick.tick == "dispatch":
            first, *others = self._checks
            for agent in others:
                self._pending[agent].add(reason)
            count, event_type = self._checks[first].count_eligible_with_slot(), events.DISPATCH_REQUESTED
            agent = first
        else:
            found = {agent: check.count_reapable() for agent, check in self._checks.items()}
            names = [agent for agent, number in found.items() if number]
            count, event_type = sum(found.values()), events.REAP_REQUESTED
            agent = names[0] if len(names) == 1 else ""  # without a name: all
        if not count:
            return None
        metrics.REQUESTS.labels(tick.tick, "tick").inc()
        return changes.request(reason, count, event_type, agent, alone=len(self._checks) == 1)


class _Channel(HTTPChannel):  # type: ignore[misc]
    """A connection whose idle time counts from the beginning of a request: one that sends it byte by byte would be
    active indefinitely, and a few dozen of those would keep the probes and the Broker out."""

    @property
    def last_activity(self) -> float:
        return self._last_activity

    @last_activity.setter
    def last_activity(self, moment: float) -> None:
        if self.request is None:
            self._last_activity = moment


def serve(endpoint: Endpoint, feeder: settings.FeederSettings) -> Any:
    """Bind and return the server, to be run in a thread. Raises SettingsError where the address is in use."""
    try:
        server = waitress.create_server(
            endpoint,
            host=feeder.host,
            port=feeder.port,
            threads=4,
            connection_limit=_CONNECTIONS,
            channel_timeout=_IDLE_SECONDS,
            cleanup_interval=_CLEANUP_SECONDS,
            max_request_body_size=events.MAX_BODY_BYTES,
            max_request_header_size=32 * 1024,
            ident=None,
        )
    except OSError as exc:
        address = f"{feeder.host}:{feeder.port}"
        raise settings.SettingsError(f"cannot listen on {address} ({exc.strerror}); set PORT to a free one.") from exc
    server.channel_class = _Channel
    return server


def _text(status: str, message: str) -> Answer:
    return status, [("Content-Type", "text/plain; charset=utf-8")], f"{message}\n".encode()


def _unavailable(message: str) -> Answer:
    return _text("503 Service Unavailable", message)
