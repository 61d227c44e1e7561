"""One trace from a change to the agent's job, and events as the schemas say: real processes, a real Dolt."""

import json
import pathlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import pytest

from beads_dispatch import events, settings, store, trace
from feeder import http, metrics
from feeder.eligibility_check import EligibilityCheck
from feeder.health import HealthState
from local import processes
from local.system import Ports, System
from tests import support
from tests.conftest import Beads
from tests.integration.test_feed import Running
from tests.support import wait_for
from tests.unit.test_schemas import refusals
from tools import servers


class RawSink(support.Sink):
    """Keeps each event as it was sent too: in CloudEvents' JSON format, read without our own parser."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[dict[str, Any]] = []

    def post(self, handler: support.Handler) -> None:
        body = handler.body()
        self.sent.append(in_json(dict(handler.headers), body))
        if self.behaviour is support.accepted:
            self.received.append(events.from_request(dict(handler.headers), body))
        self.behaviour(handler)


def in_json(headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    names = {name.lower(): unquote(value) for name, value in headers.items()}
    attributes = {name.removeprefix("ce-"): value for name, value in names.items() if name.startswith("ce-")}
    return {**attributes, "datacontenttype": names["content-type"], "data": json.loads(body)}


@pytest.fixture
def raw() -> Iterator[RawSink]:
    with support.closing(RawSink()) as sink:
        yield sink


@pytest.fixture
def feed(beads: Beads, raw: RawSink) -> Iterator[Running]:
    with support.closing(Running(beads.dolt, raw.url)) as running:
        running.wait_until_started(beads)
        yield running


def test_what_the_feed_sends_is_as_its_schema_says(beads: Beads, raw: RawSink, feed: Running) -> None:
    """A creation, an assignment by bd, one by SQL without an actor, a status without an assignee, a close, a deletion,
    with names in any script; and the requests."""
    bead = beads.workspace.create('né "1" 100 % <b>', "ok")
    beads.workspace.run("assign", bead, "agent", actor="Ada Lövelace")
    wait_for(lambda: raw.of_type(events.DISPATCH_REQUESTED), "a request")
    beads.sql("UPDATE issues SET assignee = 'bob', status = 'in_progress' WHERE id = %s", bead)
    beads.sql("UPDATE issues SET assignee = '' WHERE id = %s", bead)
    beads.workspace.run("close", bead)
    beads.add("x-1", assignee="bob", priority=0)
    beads.sql("DELETE FROM issues WHERE id = 'x-1'")
    wait_for(lambda: len(raw.about("x-1")) == 2, "the deletion")
    assert len(raw.about(bead)) == 4
    for sent in raw.sent:
        assert sent["dataschema"] == f"urn:beads:schema:{sent['type']}"
        assert refusals(sent["dataschema"], sent["data"]) == []
        assert refusals(f"{sent['dataschema']}#/$defs/event", sent) == []


def test_a_recovered_change_is_as_its_schema_says(beads: Beads, raw: RawSink) -> None:
    """A change that is found by comparing is published in the same form."""
    beads.add("x-1", assignee="bob")
    beads.store.feed_state.begin(beads.store.feed_state.executed(), "start")
    state = f"{store.STATE_DATABASE}.seen"
    beads.sql(f"UPDATE {state} SET assignee = 'carol' WHERE bead = 'x-1'")
    beads.sql(f"INSERT INTO {state} (feed, bead, assignee, status, event) VALUES (%s, 'x-2', '', 'closed', 'e')",
              beads.dolt.database)  # fmt: skip
    with support.closing(Running(beads.dolt, raw.url)) as running:
        running.wait_for(beads, lambda: len(raw.of_type(events.ISSUE_CHANGED)) >= 2, "both changes")
    published = [sent for sent in raw.sent if sent["type"] == events.ISSUE_CHANGED]
    assert {sent["subject"] for sent in published} == {"x-1", "x-2"}
    for sent in published:
        assert sent["recovered"] == "true"
        assert refusals(f"{sent['dataschema']}#/$defs/event", sent) == []


def test_the_reply_to_a_tick_is_as_its_schema_says(beads: Beads) -> None:
    """Dispatch and reap, over the feeder's HTTP endpoint."""
    beads.add("x-1")
    beads.add("x-2", status="in_progress")
    own = store.Store(beads.dolt)
    feed = settings.FeederSettings("http://sink.test", {}, processes.free_port(), "127.0.0.1")
    scrape = metrics.Scrape(store.Store(beads.dolt), [settings.DispatchLimits()], HealthState())
    check = EligibilityCheck(own, settings.DispatchLimits(), None)
    server = http.serve(http.Endpoint({"agent": check}, HealthState(), scrape), feed)
    threading.Thread(target=servers.run_until_closed, args=(server,), daemon=True).start()
    try:
        for name in ("dispatch", "reap"):
            headers, _ = events.to_http(events.Event(f"t-{name}", f"/x/pingsources/{name}", events.TICK))
            answer = support.post(f"http://127.0.0.1:{feed.port}/", headers=headers, content=b"{}")
            sent = in_json(answer.headers, answer.content)
            assert (sent["type"], sent["cause"]) == (f"dev.beads.{name}.requested.v1", "tick")
            assert refusals(f"urn:beads:schema:{sent['type']}#/$defs/event", sent) == []
    finally:
        server.close()
        own.close()


def test_an_event_that_is_published_again_has_the_same_trace(beads: Beads, raw: RawSink, feed: Running) -> None:
    """By the same feed, because the sink did not accept it; and by the next one, whose position does not cover it."""
    position = beads.store.feed_state.position()
    assert position is not None
    raw.behaviour = support.answers(503)
    beads.add("x-1", assignee="bob")
    wait_for(lambda: len(raw.sent) > 1, "two tries")
    raw.behaviour = support.accepted
    wait_for(lambda: raw.about("x-1"), "the change")
    feed.close()
    beads.store.feed_state.set_position(position, {})  # as if it had been killed before it could store the next one
    with support.closing(Running(beads.dolt, raw.url)) as running:
        running.wait_for(beads, lambda: len(raw.about("x-1")) >= 2, "the change again")
    published = [sent for sent in raw.sent if sent["type"] == events.ISSUE_CHANGED]
    assert len(published) > 2
    assert len({sent["id"] for sent in published}) == len({sent["traceparent"] for sent in published}) == 1


class Traced:
    """The whole system around an agent that keeps the header of each POST."""

    def __init__(self, system: System, logs: pathlib.Path) -> None:
        self.system = system
        self.routed: list[events.Event] = []
        self.headers: dict[str, str | None] = {}
        self._logs = logs

    def lines(self, name: str = "dispatch") -> list[dict[str, Any]]:
        """What the function has logged."""
        return support.json_lines(self._logs / f"{name}.log")

    def send(self, function: str, **extensions: str) -> None:
        """A request straight to a function."""
        kind = events.DISPATCH_REQUESTED if function == "dispatch" else events.REAP_REQUESTED
        self.post(function, events.Event("by-hand", "/test", kind, None, extensions, {}))

    def post(self, function: str, event: events.Event) -> None:
        headers, body = events.to_http(event)
        port = getattr(self.system.ports, function)
        assert support.post(f"http://127.0.0.1:{port}/", headers=headers, content=body).status_code == 204


@pytest.fixture
def traced(beads: Beads, agent: support.Agent, tmp_path: pathlib.Path) -> Iterator[Traced]:
    def job(handler: Any) -> None:
        found.headers[agent.posts[-1]] = handler.headers["traceparent"]
        handler.answer(200, b'{"job_id": "job-1"}')

    agent.behaviour = job
    quiet = {"dispatch": 3600.0, "reap": 3600.0}
    system = System(
        beads.dolt, agent.url, Ports.free(), tmp_path, tick_seconds=quiet,
        environment={"AGENT_HEALTH_URL": f"{agent.url}/health"}, observe=lambda event: found.routed.append(event),
    )  # fmt: skip
    found = Traced(system, tmp_path)
    with system:
        yield found


def test_one_trace_from_the_change_to_the_job(beads: Beads, traced: Traced) -> None:
    """The change, the request and the POST are in it, each in a span of its own; the function's lines name it."""
    bead = beads.workspace.create("do it", "ok")
    beads.workspace.run("assign", bead, "agent")
    wait_for(lambda: bead in traced.headers, "the POST")
    wait_for(lambda: [line for line in traced.lines() if line.get("action") == "pass" and line.get("jobs")], "its line")
    posted = trace.parse(traced.headers[bead])
    assert posted is not None
    change = next(event for event in traced.routed if event.subject == bead)
    request = next(event for event in traced.routed if event.type == events.DISPATCH_REQUESTED)
    assert change.id == request.id
    spans = [trace.parse(event.extensions["traceparent"]) for event in (change, request)] + [posted]
    assert {span.trace_id for span in spans if span} == {posted.trace_id}
    assert len({span.span_id for span in spans if span}) == 3
    named = {line["action"]: line for line in traced.lines() if line.get("trace") == posted.trace_id}
    assert {"claim", "dispatch", "pass"} <= named.keys()
    assert named["pass"]["jobs"] == ["job-1"] and named["pass"]["dispatched"] == [bead]
    assert named["claim"]["bead"] == named["dispatch"]["bead"] == bead


@pytest.mark.parametrize(
    "traceparent",
    ["", "hello", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", "ff-" + "1" * 32 + "x" * 999],
)
def test_a_malformed_traceparent_is_ignored(beads: Beads, traced: Traced, traceparent: str) -> None:
    """The pass is done all the same, in a trace that it begins; nothing of what was sent is in a header or a line."""
    traced.system.processes["feeder"].kill()  # or it would request a pass first
    beads.add("x-1")
    traced.send("dispatch", traceparent=traceparent)
    posted = trace.parse(traced.headers["x-1"])
    assert posted is not None
    assert posted.trace_id not in traceparent
    (line,) = (line for line in traced.lines() if line.get("action") == "pass" and line["event"] == "by-hand")
    assert line["trace"] == posted.trace_id


def test_the_senders_trace_is_continued(beads: Beads, traced: Traced) -> None:
    """Its id and whether it is recorded; reap names it too."""
    theirs = trace.Trace("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", sampled=False)
    traced.system.processes["feeder"].kill()  # or it would request a pass first
    beads.add("x-1")
    traced.send("reap", traceparent=theirs.traceparent)
    traced.send("dispatch", traceparent=theirs.traceparent)
    posted = trace.parse(traced.headers["x-1"])
    assert posted is not None
    assert (posted.trace_id, posted.sampled) == (theirs.trace_id, False)
    assert posted.span_id != theirs.span_id
    for name in ("reap", "dispatch"):
        (line,) = (line for line in traced.lines(name) if line.get("action") == "pass" and line["event"] == "by-hand")
        assert line["trace"] == theirs.trace_id


def test_a_tick_begins_a_trace(beads: Beads, traced: Traced) -> None:
    """A dead letter, straight from the PingSource: it has none, and each pass has its own."""
    for number in range(2):
        source = "/apis/v1/namespaces/local/pingsources/dispatch"
        traced.post("dispatch", events.Event(f"tick-{number}", source, events.TICK, None, {}, {}))
    begun = [line["trace"] for line in traced.lines() if line.get("cause") == "tick"]
    assert len(begun) == len(set(begun)) == 2
    assert all(trace.parse(f"00-{each}-{'1' * 16}-01") for each in begun)
