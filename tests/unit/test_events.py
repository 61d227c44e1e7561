"""CloudEvents in and out: what is written, what is read, and what is refused."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beads_dispatch import events

BINARY = {
    "Ce-Specversion": "1.0",
    "Ce-Type": events.DISPATCH_REQUESTED,
    "Ce-Source": "/beads/feeder",
    "Ce-Id": "1",
    "Content-Type": "application/json",
}
STRUCTURED = {"specversion": "1.0", "type": events.DISPATCH_REQUESTED, "source": "/beads/feeder", "id": "1"}


def structured(body: object, content_type: str = "application/cloudevents+json") -> events.Event:
    return events.from_request({"Content-Type": content_type}, json.dumps(body).encode())


def test_binary_mode_is_read() -> None:
    """Attributes from ce- headers, extensions as text, data from the body."""
    event = events.from_request({**BINARY, "Ce-Cause": "slot", "Ce-Subject": "x-1"}, b'{"waiting": 2}')
    assert event == events.Event(
        "1", "/beads/feeder", events.DISPATCH_REQUESTED, "x-1", {"cause": "slot"}, {"waiting": 2}
    )


def test_structured_mode_is_read() -> None:
    """The same event, whole in the body."""
    event = structured({**STRUCTURED, "cause": "slot", "subject": "x-1", "data": {"waiting": 2}})
    assert event == events.Event(
        "1", "/beads/feeder", events.DISPATCH_REQUESTED, "x-1", {"cause": "slot"}, {"waiting": 2}
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"Ce-Id": ""},
        {"Ce-Id": "  "},
        {"Ce-Source": ""},
        {"Ce-Type": ""},
        {"Ce-Specversion": "0.3"},
        {"Ce-Specversion": "7"},
        {"Ce-Specversion": ""},
        {"Ce-Time": "yesterday"},
        {"Ce-Time": "2026-13-01T00:00:00Z"},
        {"Ce-Time": "1"},
    ],
)
def test_bad_attributes_are_refused_in_both_modes(changes: dict[str, str]) -> None:
    """Empty or wrong, in a header or in the body."""
    with pytest.raises(events.InvalidEvent):
        events.from_request({**BINARY, **changes}, b"{}")
    with pytest.raises(events.InvalidEvent):
        structured({**STRUCTURED, **{name[3:].lower(): value for name, value in changes.items()}})


@pytest.mark.parametrize("missing", ["Ce-Id", "Ce-Source", "Ce-Type", "Ce-Specversion"])
def test_missing_attributes_are_refused_in_both_modes(missing: str) -> None:
    """Each of the four is required."""
    with pytest.raises(events.InvalidEvent):
        events.from_request({name: value for name, value in BINARY.items() if name != missing}, b"{}")
    with pytest.raises(events.InvalidEvent):
        structured({name: value for name, value in STRUCTURED.items() if name != missing[3:].lower()})


@pytest.mark.parametrize("body", [[STRUCTURED], "an event", 7, None, True, {}, {"specversion": "1.0"}])
def test_json_that_is_no_event_is_refused(body: object) -> None:
    """A bare array, a string, a number: functions-framework itself answers 500 to some of them."""
    with pytest.raises(events.InvalidEvent):
        structured(body)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Type": "application/cloudevents-batch+json"}, json.dumps([STRUCTURED]).encode()),
        ({"Content-Type": "application/cloudevents+json"}, b"{"),
        ({"Content-Type": "application/cloudevents+json"}, b""),
        ({"Content-Type": "application/cloudevents+json"}, b"\xff\xfe"),
        ({"Content-Type": "application/cloudevents+json"}, b"[" * 30_000),
        ({"Content-Type": "application/json"}, b'{"context": {"eventId": "1"}, "data": {}}'),
        ({"Content-Type": "application/json"}, json.dumps(STRUCTURED).encode()),
        ({"Content-Type": "application/cloudevents+json"}, json.dumps({**STRUCTURED, "id": "\ud800"}).encode()),
        ({"Content-Type": "application/cloudevents+json"}, json.dumps({**STRUCTURED, "subject": "\udfff"}).encode()),
        ({}, b""),
        (BINARY, b"{broken"),
        (BINARY, b"[" * 30_000),
        (BINARY, b"\xff"),
        (BINARY, b" " * (events.MAX_BODY_BYTES + 1)),
    ],
)
def test_everything_else_is_refused(headers: dict[str, str], body: bytes) -> None:
    """Batches, legacy background events, broken JSON, too deep, too long: InvalidEvent and nothing else."""
    with pytest.raises(events.InvalidEvent):
        events.from_request(headers, body)


def test_a_refusal_repeats_nothing_of_the_request() -> None:
    """Headers and bodies may hold tokens."""
    with pytest.raises(events.InvalidEvent) as refused:
        events.from_request({**BINARY, "Ce-Id": "", "Authorization": "Bearer s3cret"}, b"s3cret")
    assert "s3cret" not in str(refused.value)


@given(
    st.dictionaries(st.text(max_size=20), st.text(max_size=40), max_size=6),
    st.binary(max_size=300),
    st.sampled_from(["", "application/json", "application/cloudevents+json", "text/plain"]),
    st.booleans(),
)
def test_no_request_raises_anything_else(headers: dict[str, str], body: bytes, kind: str, binary: bool) -> None:
    """Whatever comes in, it is an event or an InvalidEvent."""
    headers = {**(BINARY if binary else {}), **headers, "content-type": kind}
    with contextlib.suppress(events.InvalidEvent):
        events.from_request(headers, body)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_no_structured_body_raises_anything_else(body: object) -> None:
    """JSON of any shape, with and without the attributes of an event around it."""
    for candidate in (body, {**STRUCTURED, "data": body}, {**STRUCTURED, "id": body}, {**STRUCTURED, "time": body}):
        with contextlib.suppress(events.InvalidEvent):
            structured(candidate)


@given(st.text(min_size=1, max_size=60).filter(str.strip), st.text(max_size=60), st.text(max_size=60))
def test_what_is_written_is_read_again(name: str, actor: str, title: str) -> None:
    """Ids, actors and titles of any script survive the way through headers that are ASCII."""
    event = events.Event(
        "g:1:2", "/dolt/db", events.ISSUE_CHANGED, name, {"actor": actor} if actor else {}, {"title": title}
    )
    headers, body = events.to_http(event)
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    assert {key: value for key, value in headers.items() if key != "ce-time"}.keys() <= {
        "ce-specversion", "ce-id", "ce-source", "ce-type", "ce-subject", "ce-actor", "content-type"
    }  # fmt: skip
    assert events.from_request(headers, body) == event


def test_empty_extensions_are_left_out_and_overrides_win() -> None:
    """An unknown actor is left out; a SinkBinding's extension is put on top."""
    event = events.Event("1", "/s", "t", None, {"actor": "", "cause": "tick"}, {})
    headers, _ = events.to_http(event, {"cause": "other", "cluster": "blue"})
    assert "ce-actor" not in headers
    assert headers["ce-cause"] == "other"
    assert headers["ce-cluster"] == "blue"


def test_a_tick_says_which_one_it_is_and_whether_it_is_suspended() -> None:
    """The last segment of its source; suspend=true from the PingSource's ceOverrides."""
    source = "/apis/v1/namespaces/beads/pingsources/dispatch"
    tick = events.from_request({**BINARY, "Ce-Type": events.TICK, "Ce-Source": source, "Ce-Suspend": "true"}, b"{}")
    assert (tick.tick, tick.suspended) == ("dispatch", True)
    assert events.Event("1", source, events.DISPATCH_REQUESTED).tick is None
    assert not events.Event("1", source, events.TICK, extensions={"suspend": "false"}).suspended
    assert structured({**STRUCTURED, "suspend": True}).suspended
