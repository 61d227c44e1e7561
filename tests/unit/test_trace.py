"""W3C Trace Context: what is made is well-formed, and what is not well-formed is not passed on."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beads_dispatch import events, trace
from feeder import changes

# The specification's own example.
ID, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
WELL_FORMED = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[01]")


@pytest.mark.parametrize(
    ("text", "sampled"),
    [
        (f"00-{ID}-{SPAN}-01", True),
        (f"00-{ID}-{SPAN}-00", False),
        (f"00-{ID}-{SPAN}-03", True),  # with the random flag of level 2
        (f"01-{ID}-{SPAN}-01", True),
        (f"cc-{ID}-{SPAN}-01-what-the-future-will-be-like", True),
    ],
)
def test_what_is_well_formed_is_read(text: str, sampled: bool) -> None:
    """Of a later version, what this one knows of it."""
    assert trace.parse(text) == trace.Trace(ID, SPAN, sampled)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "00",
        f"00-{ID}-{SPAN}",
        f"00-{ID}-{SPAN}-",
        f"00-{ID}-{SPAN}-1",
        f"00-{ID}-{SPAN}-01-more",  # version 00 has no more
        f"cc-{ID}-{SPAN}-01more",
        f"ff-{ID}-{SPAN}-01",
        f"0-{ID}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{ID}-{'0' * 16}-01",
        f"00-{ID.upper()}-{SPAN}-01",
        f"00-{ID[:-1]}-{SPAN}-01",
        f"00-{ID}-{SPAN}-0g",
        f" 00-{ID}-{SPAN}-01",
        f"00-{ID}-{SPAN}-01\n",
        f"00-{ID}-{SPAN}-01\r\nX-Evil: 1",
        f"cc-{ID}-{SPAN}-01-x\r\nX-Evil: 1",
        "00-" + "٣" * 32 + f"-{SPAN}-01",  # digits, but not ASCII ones
    ],
)
def test_what_is_not_well_formed_is_none(text: str | None) -> None:
    """As the specification has it; nothing of it could reach a header."""
    assert trace.parse(text) is None


@given(st.text())
def test_nothing_else_is_passed_on(text: str) -> None:
    """Whatever is sent, what goes on is well-formed."""
    found = trace.parse(text)
    assert found is None or WELL_FORMED.fullmatch(found.traceparent)


def test_a_child_is_in_the_same_trace_with_a_span_of_its_own() -> None:
    """And asks for as much as its parent did."""
    for sampled in (True, False):
        parent = trace.Trace(ID, SPAN, sampled)
        child = parent.child()
        assert (child.trace_id, child.sampled) == (ID, sampled)
        assert child.span_id not in (SPAN, parent.child().span_id)
        assert WELL_FORMED.fullmatch(child.traceparent)


def test_two_that_are_begun_are_two() -> None:
    """Random, well-formed."""
    first, second = trace.begun(), trace.begun()
    assert first.trace_id != second.trace_id
    assert WELL_FORMED.fullmatch(first.traceparent)


def test_a_repeat_is_in_the_trace_of_the_first() -> None:
    """After a crash an event is published again: the same id gives the same traceparent, another one another."""
    published = [
        changes.request(changes.RequestReason("change", id), 1, events.DISPATCH_REQUESTED)
        for id in ("a:1:0", "a:1:0", "b")
    ]
    first, repeat, other = (event.extensions["traceparent"] for event in published)
    assert WELL_FORMED.fullmatch(first)
    assert first == repeat != other


def test_a_request_is_in_the_trace_of_what_caused_it() -> None:
    """The request has the id of the change: the same trace, a span of its own."""
    change, request = (trace.of_event("a:1:0", kind) for kind in (events.ISSUE_CHANGED, events.DISPATCH_REQUESTED))
    assert change.trace_id == request.trace_id
    assert change.span_id != request.span_id
