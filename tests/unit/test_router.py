"""The router, with real HTTP servers as subscribers: it answers, retries and gives up as the Broker does."""

import base64
import contextlib
import http.client
import json
import pathlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from beads_dispatch import events
from feeder import wsgi
from local import router, triggers, wsgi_server
from local.triggers import Delivery, Target, Trigger
from tests import support

BASE = pathlib.Path(__file__).parents[2] / "knative" / "base"

WELL_FORMED = {"ce-specversion": "1.0", "ce-type": "t", "ce-source": "/s", "ce-id": "1"}
QUICK = Delivery(retry=2, backoff_policy="exponential", backoff_seconds=0.01)


@dataclass(frozen=True)
class Reply:
    status: int = 204
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass
class Subscriber:
    """A server that answers with `replies`, the last one indefinitely, and keeps what it was sent."""

    replies: list[Reply] = field(default_factory=lambda: [Reply()])
    received: list[events.Event] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    url: str = ""

    def handle(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        headers = wsgi.headers(environ)
        self.times.append(time.monotonic())
        self.headers.append(headers)
        self.received.append(events.from_request(headers, wsgi.body(environ)))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        return wsgi_server.answer(start_response, reply.status, reply.body, reply.headers)


@pytest.fixture
def running() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def subscriber(running: contextlib.ExitStack) -> Subscriber:
    return start(running, Subscriber())


@pytest.fixture
def dead_letters(running: contextlib.ExitStack) -> Subscriber:
    return start(running, Subscriber())


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address that refuses connections, and that no other program can bind."""
    with contextlib.closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def start(running: contextlib.ExitStack, subscriber: Subscriber) -> Subscriber:
    subscriber.url = running.enter_context(wsgi_server.Server(subscriber.handle, threads=2)).url
    return subscriber


def a_router(running: contextlib.ExitStack, *loaded: Trigger, observe: router.Observer | None = None) -> router.Router:
    return running.enter_context(contextlib.closing(router.Router(loaded, observe)))


def trigger(to: str, event_type: str = "t", delivery: Delivery = QUICK, dead_letter: str | None = None) -> Trigger:
    sink = Target("dead-letters", dead_letter) if dead_letter else None
    return Trigger(
        name=f"{event_type}-trigger",
        attributes={"type": event_type},
        subscriber=Target("subscriber", to),
        delivery=Delivery(delivery.retry, delivery.backoff_policy, delivery.backoff_seconds, sink),
    )


def an_event(event_type: str = "t", **extensions: str) -> events.Event:
    return events.Event(id="1", source="/s", type=event_type, extensions=extensions, data={"n": 1})


def binary(event: events.Event, status: int = 200) -> Reply:
    headers, body = events.to_http(event)
    return Reply(status, body, tuple(headers.items()))


def structured(event: events.Event) -> Reply:
    whole = {"specversion": "1.0", "id": event.id, "source": event.source, "type": event.type, "data": event.data}
    return Reply(200, json.dumps(whole).encode(), (("Content-Type", "application/cloudevents+json"),))


def test_an_empty_204_is_one_delivery(running: contextlib.ExitStack, subscriber: Subscriber) -> None:
    """A 2xx with an empty body ends the delivery."""
    assert a_router(running, trigger(subscriber.url)).route(an_event()) == router.ACCEPTED
    assert [event.id for event in subscriber.received] == ["1"]


def test_an_event_keeps_all_its_attributes(running: contextlib.ExitStack, subscriber: Subscriber) -> None:
    """Whatever mode it came in, an event goes on in binary mode with every attribute, extension and its data."""
    ingress = running.enter_context(router.serve(a_router(running, trigger(subscriber.url))))
    attributes = {
        "specversion": "1.0", "id": "ü 1", "source": "/s", "type": "t", "subject": "bd-1", "suspend": "true",
        "time": "2026-01-02T03:04:05Z", "dataschema": "https://example.test/s",
    }  # fmt: skip
    data = {"title": "né"}
    whole = json.dumps(attributes | {"data": data})
    encoded = {f"ce-{name}": value.replace("ü ", "%C3%BC%20") for name, value in attributes.items()}

    sent = support.post(ingress.url, content=whole, headers={"content-type": "application/cloudevents+json"})
    assert sent.status_code == 202
    sent = support.post(ingress.url, json=data, headers=encoded)
    assert sent.status_code == 202

    assert len(subscriber.received) == 2
    for event, headers in zip(subscriber.received, subscriber.headers, strict=True):
        assert (event.id, event.subject, event.data) == ("ü 1", "bd-1", data)
        assert {name: headers[f"ce-{name}"] for name in attributes} == attributes | {"id": "%C3%BC%201"}
        assert headers["content-type"] == "application/json"


@pytest.mark.parametrize("data", [None, {}, [], 0, "text", {"title": "né"}])
def test_data_goes_on_as_it_came(running: contextlib.ExitStack, subscriber: Subscriber, data: object) -> None:
    """Empty data stays empty, and is not taken for none."""
    ingress = running.enter_context(router.serve(a_router(running, trigger(subscriber.url))))
    whole = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": data}

    support.post(ingress.url, content=json.dumps(whole), headers={"content-type": "application/cloudevents+json"})
    support.post(ingress.url, json=data, headers=WELL_FORMED)

    assert [event.data for event in subscriber.received] == [data, data]


def test_an_event_without_data_goes_on(running: contextlib.ExitStack, subscriber: Subscriber) -> None:
    """No body and no content type is an event without data."""
    ingress = running.enter_context(router.serve(a_router(running, trigger(subscriber.url))))

    assert support.post(ingress.url, headers=WELL_FORMED).status_code == 202
    assert [event.data for event in subscriber.received] == [None]


@pytest.mark.parametrize("mode", [binary, structured])
def test_a_reply_is_a_new_event(running: contextlib.ExitStack, subscriber: Subscriber, mode: object) -> None:
    """A 2xx whose body is a CloudEvent, in either mode, is routed again by its own type."""
    asked = start(running, Subscriber([mode(an_event("reply", cause="tick"))]))  # type: ignore[operator]
    route = a_router(running, trigger(asked.url), trigger(subscriber.url, "reply")).route

    assert route(an_event()) == router.ACCEPTED
    assert [(event.type, event.data) for event in subscriber.received] == [("reply", {"n": 1})]
    assert len(asked.received) == 1


def test_an_event_that_no_trigger_matches_is_accepted(running: contextlib.ExitStack, subscriber: Subscriber) -> None:
    """No matching Trigger is not a failure: change events have no subscriber here."""
    assert a_router(running, trigger(subscriber.url)).route(an_event("other")) == router.ACCEPTED
    assert subscriber.received == []


def test_a_body_that_is_not_an_event_is_a_failed_delivery(
    running: contextlib.ExitStack, subscriber: Subscriber, dead_letters: Subscriber
) -> None:
    """functions-framework's own 200 with the body OK is retried and dead-lettered, although the handler ran."""
    subscriber.replies = [Reply(200, b"OK")]

    routed = a_router(running, trigger(subscriber.url, dead_letter=dead_letters.url)).route(an_event())

    assert routed == router.ACCEPTED
    assert len(subscriber.received) == 3
    assert dead_letters.received[0].extensions["knativeerrorcode"] == "502"


def test_a_reply_that_is_a_broken_event_is_a_failed_delivery(
    running: contextlib.ExitStack, subscriber: Subscriber, dead_letters: Subscriber
) -> None:
    """A reply with a CloudEvent's headers that is not one is a failed delivery."""
    subscriber.replies = [Reply(200, b"{}", (("ce-specversion", "1.0"), ("ce-id", "2")))]

    a_router(running, trigger(subscriber.url, dead_letter=dead_letters.url)).route(an_event())

    assert len(subscriber.received) == 3
    assert dead_letters.received[0].extensions["knativeerrorcode"] == "502"


@pytest.mark.parametrize("status", [503, 500, 404, 408, 409, 425, 429])
def test_an_answer_that_may_change_is_retried_then_dead_lettered(
    running: contextlib.ExitStack, subscriber: Subscriber, dead_letters: Subscriber, status: int
) -> None:
    """After the last retry the event goes to the dead-letter sink as it was, plus Knative's three extensions."""
    subscriber.replies = [Reply(status, b"later")]

    routed = a_router(running, trigger(subscriber.url, dead_letter=dead_letters.url)).route(an_event(suspend="true"))

    assert routed == router.ACCEPTED
    assert len(subscriber.received) == 3
    (dead,) = dead_letters.received
    assert (dead.id, dead.type, dead.source, dead.data) == ("1", "t", "/s", {"n": 1})
    assert dead.extensions == {
        "suspend": "true",
        "knativeerrordest": subscriber.url,
        "knativeerrorcode": str(status),
        "knativeerrordata": base64.b64encode(b"later").decode(),
    }


def test_a_retry_that_succeeds_ends_the_delivery(
    running: contextlib.ExitStack, subscriber: Subscriber, dead_letters: Subscriber
) -> None:
    """The first success counts; there is no dead letter then."""
    subscriber.replies = [Reply(503), Reply(204)]

    assert a_router(running, trigger(subscriber.url, dead_letter=dead_letters.url)).route(an_event()) == router.ACCEPTED
    assert len(subscriber.received) == 2
    assert dead_letters.received == []


@pytest.mark.parametrize("status", [400, 413, 301])
def test_a_final_answer_is_not_retried(
    running: contextlib.ExitStack, subscriber: Subscriber, dead_letters: Subscriber, status: int
) -> None:
    """Sending a 400 again cannot help: the event goes to the dead-letter sink at once."""
    subscriber.replies = [Reply(status)]

    a_router(running, trigger(subscriber.url, dead_letter=dead_letters.url)).route(an_event())

    assert len(subscriber.received) == 1
    assert dead_letters.received[0].extensions["knativeerrorcode"] == str(status)


def test_a_subscriber_that_is_down_is_a_failed_delivery(
    running: contextlib.ExitStack, dead_letters: Subscriber, nobody: str
) -> None:
    """No connection is retried like a 5xx, and then dead-lettered with code 500, as Knative does."""
    assert a_router(running, trigger(nobody, dead_letter=dead_letters.url)).route(an_event()) == router.ACCEPTED

    (dead,) = dead_letters.received
    assert (dead.extensions["knativeerrorcode"], dead.extensions["knativeerrordest"]) == ("500", nobody)


def test_the_producer_is_answered_500_for_an_event_that_is_lost(running: contextlib.ExitStack, nobody: str) -> None:
    """Without a dead-letter sink that accepts it, an undelivered event is a 500 to its producer."""
    without = a_router(running, trigger(nobody))
    useless = a_router(running, trigger(nobody, dead_letter=nobody))
    ingress = running.enter_context(router.serve(without))
    headers, body = events.to_http(an_event())

    assert without.route(an_event()) == useless.route(an_event()) == router.NOT_DELIVERED
    assert support.post(ingress.url, headers=headers, content=body).status_code == 500


def test_a_reply_that_cannot_be_delivered_dead_letters_the_question(
    running: contextlib.ExitStack, subscriber: Subscriber, dead_letters: Subscriber, nobody: str
) -> None:
    """The reply's delivery is retried as the Trigger says; then the event that was replied to is the dead letter."""
    subscriber.replies = [binary(an_event("reply"))]
    observed: list[tuple[str, str | None, int | None]] = []
    route = a_router(
        running,
        trigger(subscriber.url, dead_letter=dead_letters.url),
        trigger(nobody, "reply", Delivery(0, "exponential", 0)),
        observe=lambda event, name, status: observed.append((event.type, name, status)),
    ).route

    assert route(an_event()) == router.ACCEPTED
    assert len(subscriber.received) == 1
    assert observed.count(("reply", None, None)) == 3
    assert [event.type for event in dead_letters.received] == ["t"]


def test_retries_wait_as_the_trigger_says(running: contextlib.ExitStack, subscriber: Subscriber) -> None:
    """Exponential back-off doubles from the delay."""
    subscriber.replies = [Reply(503)]

    a_router(running, trigger(subscriber.url, delivery=Delivery(2, "exponential", 0.1))).route(an_event())

    first, second, third = subscriber.times
    assert second - first >= 0.1
    assert third - second >= 0.2


def test_a_closed_router_waits_for_no_retry(
    running: contextlib.ExitStack, subscriber: Subscriber, dead_letters: Subscriber
) -> None:
    """A stop does not wait for a Trigger's retries, and the producer's answer is that the event was not delivered."""
    subscriber.replies = [Reply(503)]
    patient = trigger(subscriber.url, delivery=Delivery(9, "exponential", 3600), dead_letter=dead_letters.url)
    closing = router.Router([patient])
    with ThreadPoolExecutor(1) as pool:
        routed = pool.submit(closing.route, an_event())
        try:
            support.wait_for(lambda: subscriber.received, "the first try")
        finally:
            closing.close()
        assert routed.result(support.PATIENCE_SECONDS) == router.NOT_DELIVERED

    assert len(subscriber.received) == 1


def test_a_subscriber_that_answers_itself_is_stopped(
    running: contextlib.ExitStack, subscriber: Subscriber, caplog: pytest.LogCaptureFixture
) -> None:
    """Replies to replies end at the hop limit, with a line in the log and without retries."""
    subscriber.replies = [binary(an_event())]

    assert a_router(running, trigger(subscriber.url)).route(an_event()) == router.ACCEPTED
    assert len(subscriber.received) == router.MAX_HOPS
    assert [record.levelname for record in caplog.records if record.name == "beads.router"] == ["ERROR"]


def test_subscribers_do_not_wait_for_each_other(running: contextlib.ExitStack) -> None:
    """An event goes to all its subscribers at once: a slow one delays only the answer to the producer."""
    both = threading.Barrier(2, timeout=support.PATIENCE_SECONDS)

    def meets_the_other(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        both.wait()
        return wsgi_server.answer(start_response, 204)

    urls = [running.enter_context(wsgi_server.Server(meets_the_other, threads=1)).url for _ in range(2)]

    assert a_router(running, *[trigger(url) for url in urls]).route(an_event()) == router.ACCEPTED
    assert not both.broken


def test_the_observer_sees_the_event_and_each_delivery(
    running: contextlib.ExitStack, subscriber: Subscriber, dead_letters: Subscriber
) -> None:
    """A timeline can be built: the arrival, then every POST with its Trigger and status."""
    subscriber.replies = [Reply(503)]
    observed: list[tuple[str, str | None, int | None]] = []
    route = a_router(
        running,
        trigger(subscriber.url, delivery=Delivery(1, "exponential", 0), dead_letter=dead_letters.url),
        observe=lambda event, name, status: observed.append((event.id, name, status)),
    ).route

    route(an_event())

    assert observed == [
        ("1", None, None),
        ("1", "t-trigger", 503),
        ("1", "t-trigger", 503),
        ("1", "t-trigger/dead-letter", 204),
    ]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, b"{}"),
        ({"ce-specversion": "1.0", "ce-type": "t", "ce-source": "/s"}, b"{}"),
        (WELL_FORMED | {"ce-time": "soon"}, b"{}"),
        (WELL_FORMED | {"content-type": "text/plain"}, b"hi"),
        ({"content-type": "application/cloudevents+json"}, b"[]"),
        ({"content-type": "application/cloudevents-batch+json"}, b"[]"),
    ],
    ids=["no event", "no id", "bad time", "not JSON", "structured, no object", "batch"],
)
def test_a_malformed_event_is_refused(
    running: contextlib.ExitStack, subscriber: Subscriber, headers: dict[str, str], body: bytes
) -> None:
    """A request that is not a CloudEvent is answered 400 with the reason, and is not delivered."""
    ingress = running.enter_context(router.serve(a_router(running, trigger(subscriber.url))))

    refused = support.post(ingress.url, headers=headers, content=body)

    assert refused.status_code == 400
    assert refused.text.strip()
    assert subscriber.received == []


def test_the_ingress_takes_only_posts(running: contextlib.ExitStack, subscriber: Subscriber) -> None:
    """A GET is answered 405, with the method that is allowed."""
    ingress = running.enter_context(router.serve(a_router(running, trigger(subscriber.url))))

    refused = support.get(ingress.url)

    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


def test_a_body_that_is_too_large_is_refused(running: contextlib.ExitStack, subscriber: Subscriber) -> None:
    """Nothing larger than an event of ours is read."""
    ingress = running.enter_context(router.serve(a_router(running, trigger(subscriber.url))))
    client = http.client.HTTPConnection("127.0.0.1", ingress.port, timeout=support.PATIENCE_SECONDS)
    with contextlib.closing(client) as connection:
        connection.putrequest("POST", "/")
        connection.putheader("Content-Length", str(events.MAX_BODY_BYTES + 1))
        connection.endheaders()

        assert connection.getresponse().status == 413


def test_a_port_in_use_is_named_in_one_sentence(running: contextlib.ExitStack, subscriber: Subscriber) -> None:
    """Two routers on one port: the second's error names the port and what to do."""
    taken = running.enter_context(router.serve(a_router(running, trigger(subscriber.url))))

    with pytest.raises(wsgi_server.CannotListen, match=rf"cannot listen on 127\.0\.0\.1:{taken.port} .* another port"):
        router.serve(a_router(running, trigger(subscriber.url)), port=taken.port)


def test_the_deployed_backstop_works(running: contextlib.ExitStack) -> None:
    """A tick goes to the feeder, whose reply goes to dispatch; with the feeder down, the tick goes there itself."""
    request = events.Event(id="r", source=events.FEEDER_SOURCE, type=events.DISPATCH_REQUESTED, data={"waiting": 1})
    feeder, function = start(running, Subscriber([binary(request)])), start(running, Subscriber())
    other = start(running, Subscriber())
    addresses = {"feeder": feeder.url, "dispatch": function.url, "reap": other.url}
    source = "/apis/v1/namespaces/local/pingsources/dispatch"
    tick = events.Event(id="k", source=source, type=events.TICK, extensions={"suspend": "true", "tick": "dispatch"})
    deployed = a_router(running, *triggers.load_triggers(BASE, addresses))

    assert deployed.route(tick) == router.ACCEPTED
    assert [event.type for event in function.received] == [events.DISPATCH_REQUESTED]

    feeder.replies = [Reply(503)]
    assert deployed.route(tick) == router.ACCEPTED
    dead = function.received[-1]
    assert (dead.type, dead.tick, dead.suspended) == (events.TICK, "dispatch", True)
    assert len(feeder.received) == 4
    assert other.received == []
