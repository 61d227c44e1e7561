"""The local stand-in for the Broker: delivers events by the Triggers in knative/base.

It does what the MTChannelBasedBroker does on the in-memory channel: a POST is answered when every matching subscriber
has answered, retries included; a reply is a new event; an event that cannot be delivered goes to the Trigger's
dead-letter sink.
"""

import base64
import json
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from urllib.parse import unquote
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import httpx

from beads_dispatch import events, log
from beads_dispatch.log import Action
from feeder import wsgi
from local import triggers, wsgi_server

logger = log.get("router")

# How often an event may be the reply to a reply. Knative allows 255; needed here: tick, request, and a request
# for each 90 s of a long queue.
MAX_HOPS = 10

ACCEPTED = 202  # delivered, dead-lettered, or matched by no Trigger
NOT_DELIVERED = 500  # a subscriber did not get it, and no dead-letter sink accepted it

NO_CONNECTION = 500  # Knative's code for a subscriber that did not answer
NO_EVENT = 502  # its code for an answer that is neither empty nor a CloudEvent

_TIMEOUT_SECONDS = 300  # a subscriber's time to answer: Knative Serving's own limit for a request
_RETRIED = frozenset({404, 408, 409, 425, 429})  # and every 5xx
_ERROR_DATA_LIMIT = 1024  # characters of base64

# Called when an event comes in (trigger and status None), and when each POST to a subscriber ends.
Observer = Callable[[events.Event, str | None, int | None], None]


@dataclass(frozen=True)
class Answer:
    """The result of one POST, in the Broker's terms."""

    status: int
    body: bytes = b""
    reply: events.Event | None = None

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def final(self) -> bool:
        return self.ok or (self.status < 500 and self.status not in _RETRIED)


class Router:
    """Delivers events; safe to use from many threads. Close it when done."""

    def __init__(self, loaded: Iterable[triggers.Trigger], observe: Observer | None = None) -> None:
        self._triggers = tuple(loaded)
        self._observe = observe or (lambda event, trigger, status: None)
        self._stopped = threading.Event()
        # No kept-alive connections: a subscriber that was restarted would look like a failed delivery.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.Client(timeout=_TIMEOUT_SECONDS, limits=limits, trust_env=False)

    def close(self) -> None:
        """End the waits for retries, send nothing more, and close the connections."""
        self._stopped.set()
        self._client.close()

    def route(self, event: events.Event, hops: int = MAX_HOPS) -> int:
        """Deliver to every matching Trigger, all at once; returns ACCEPTED or NOT_DELIVERED when all have ended."""
        self._observe(event, None, None)
        if hops <= 0:
            # Accepted all the same: a refusal would be retried at every hop on the way back.
            logger.error(
                f"dropped after {MAX_HOPS} replies to replies: a subscriber answers its own event",
                extra=log.context(action=Action.LOOP, event=event.id, type=event.type),
            )
            return ACCEPTED
        matching = [trigger for trigger in self._triggers if triggers.matches(trigger, event)]
        if not matching:
            return ACCEPTED
        with ThreadPoolExecutor(len(matching)) as pool:
            delivered = list(pool.map(lambda trigger: self._deliver(trigger, event, hops), matching))
        return ACCEPTED if all(delivered) else NOT_DELIVERED

    def _deliver(self, trigger: triggers.Trigger, event: events.Event, hops: int) -> bool:
        """POST to the subscriber, route its reply, and if either fails POST to the dead-letter sink."""
        delivery, subscriber = trigger.delivery, trigger.subscriber
        answer = self._persist(delivery, lambda: self._post(subscriber, event, trigger.name))
        failed_at = subscriber.url
        if answer.ok and answer.reply is not None:
            reply = answer.reply
            answer = self._persist(delivery, lambda: Answer(self.route(reply, hops - 1)))
            failed_at = "the Broker"
        if answer.ok:
            return True
        if delivery.dead_letter is None:
            self._log("not delivered, and there is no dead-letter sink", trigger, event, answer)
            return False
        self._log(f"not delivered; it goes to {delivery.dead_letter.name}", trigger, event, answer)
        dead, sink = _dead_letter(event, failed_at, answer), delivery.dead_letter
        answer = self._persist(delivery, lambda: self._post(sink, dead, f"{trigger.name}/dead-letter"))
        if not answer.ok:
            self._log("the dead-letter sink did not accept it either", trigger, event, answer)
        return answer.ok

    def _log(self, sentence: str, trigger: triggers.Trigger, event: events.Event, answer: Answer) -> None:
        if self._stopped.is_set():
            return  # what is cut off by the stop is not a failure
        fields = {"trigger": trigger.name, "to": trigger.subscriber.name, "event": event.id, "status": answer.status}
        logger.warning(sentence, extra=log.context(action=Action.ROUTE, **fields))

    def _persist(self, delivery: triggers.Delivery, attempt: Callable[[], Answer]) -> Answer:
        """Try until there is a final answer, at most as often as the Trigger allows."""
        failures = 0
        while True:
            answer = attempt()
            if answer.final or failures == delivery.retry or self._stopped.wait(delivery.wait_seconds(failures)):
                return answer
            failures += 1

    def _post(self, target: triggers.Target, event: events.Event, label: str) -> Answer:
        if self._stopped.is_set():
            return Answer(NO_CONNECTION, b"dispatch error: the router stops")
        headers, body = events.to_http(event)
        try:
            response = self._client.post(target.url, headers={**headers, "prefer": "reply"}, content=body)
        except httpx.HTTPError as exc:
            answer = Answer(NO_CONNECTION, f"dispatch error: {type(exc).__name__}: {exc}".encode())
        else:
            answer = _interpret(response)
        self._observe(event, label, answer.status)
        return answer


def read(headers: Mapping[str, str], body: bytes) -> events.Event:
    """The event in a request or in a reply, with all its attributes. Raises InvalidEvent.

    `time`, which this system does not use but a Broker forwards, is kept among the extensions: there it is filtered,
    and sent, like every other attribute.
    """
    event = events.from_request(headers, body)
    if isinstance(event.data, bytes):
        raise events.InvalidEvent("the data is not JSON; nothing else is sent here")
    given = {name[3:].lower(): unquote(value) for name, value in headers.items() if name.lower().startswith("ce-")}
    if "specversion" not in given:
        given = json.loads(body)
    more = {"time": str(given["time"])} if given.get("time") else {}
    return replace(event, extensions={**event.extensions, **more})


def application(router: Router) -> WSGIApplication:
    """The Broker's ingress, at any path: there is one Broker."""

    def handle(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        if environ["REQUEST_METHOD"] != "POST":
            return wsgi_server.text(start_response, 405, "expected POST with a CloudEvent", ("Allow", "POST"))
        try:
            event = read(wsgi.headers(environ), wsgi.body(environ))
        except events.InvalidEvent as exc:
            return wsgi_server.text(start_response, 400, str(exc))
        return wsgi_server.answer(start_response, router.route(event))

    return handle


def serve(router: Router, port: int = 0) -> wsgi_server.Server:
    """Start the ingress: POST to its `url`, end it by `stop`. Raises CannotListen.

    A thread is in use for as long as an event is being delivered.
    """
    return wsgi_server.Server(application(router), port=port)


def _interpret(response: httpx.Response) -> Answer:
    """A 2xx is a success only when it is empty or a CloudEvent: to the Broker all else is a failed delivery."""
    status, body = response.status_code, response.content
    if not response.is_success:
        return Answer(status, body)
    content_type = response.headers.get("content-type", "").lower()
    if "ce-specversion" not in response.headers and not content_type.startswith("application/cloudevents"):
        return Answer(NO_EVENT, body) if body else Answer(status)
    try:
        return Answer(status, body, read(response.headers, body))
    except events.InvalidEvent as exc:
        return Answer(NO_EVENT, f"the reply is not a CloudEvent: {exc}".encode())


def _dead_letter(event: events.Event, failed_at: str, answer: Answer) -> events.Event:
    """The event as it was, with Knative's three extensions that describe the failure."""
    failure = {
        "knativeerrordest": failed_at,
        "knativeerrorcode": str(answer.status),
        "knativeerrordata": base64.b64encode(answer.body).decode()[:_ERROR_DATA_LIMIT],
    }
    return replace(event, extensions={**event.extensions, **failure})
