"""From `bd assign` to the closed bead, and what people and outages do to it on the way."""

import json
import time
import urllib.request
from datetime import UTC, datetime, timedelta

import pytest

from beads_dispatch import events, notes, store, suspension
from beads_dispatch.bead import DispatchRecord
from beads_dispatch.store.bead_change import BeadChange
from tests.acceptance.conftest import Running
from tests.support import PATIENCE_SECONDS, wait_for


def tick(running: Running, name: str, **extensions: str) -> int:
    """Send the router what a PingSource sends."""
    source = f"/apis/v1/namespaces/local/pingsources/{name}"
    headers, body = events.to_http(
        events.Event(f"tick-{time.monotonic_ns()}", source, events.TICK, None, {"tick": name, **extensions}, {})
    )
    url = f"http://127.0.0.1:{running.system.ports.router}/"
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=120) as response:
        return int(response.status)


def test_an_assigned_bead_is_worked_and_closed(running: Running) -> None:
    """`bd assign <id> agent`, and nothing else: one POST, both notes, closed by the agent."""
    bead = running.beads.workspace.create("do it", "it is done")
    running.beads.workspace.run("assign", bead, "agent", actor="alice")
    wait_for(lambda: running.beads.row(bead)["status"] == "closed", "closed")
    running.wait_until_recorded(bead)
    assert running.posts(bead) == 1
    firsts = [line.split(" ")[0] for line in running.beads.notes(bead)]
    assert firsts[0] == "auto-dispatcher"
    assert "dispatched:" in firsts
    assert {"claimed", "working"} <= set(firsts)
    wait_for(
        lambda: [e for e in running.routed if e.subject == bead and e.extensions["status"] == "closed"],
        "its change event",
    )
    published = [(e.extensions.get("actor"), e.extensions["status"]) for e in running.routed if e.subject == bead]
    assert published == [("alice", "open"), ("beads-dispatcher", "in_progress"), ("agent", "closed")]


def test_the_next_bead_follows_without_a_tick(running: Running) -> None:
    """The close of one frees the slot for the next."""
    workspace = running.beads.workspace
    names = [workspace.create(f"bead {number}", "ok") for number in range(3)]
    workspace.run("config", "set", suspension.CONFIG_KEY, "true")  # or one may be closed before the next is assigned
    for bead in names:
        workspace.run("assign", bead, "agent")
    workspace.run("config", "set", suspension.CONFIG_KEY, "false")
    for bead in names:
        wait_for(lambda bead=bead: running.beads.row(bead)["status"] == "closed", f"{bead} closed")  # type: ignore[misc]
    assert [running.posts(bead) for bead in names] == [1, 1, 1]
    causes = {e.extensions["cause"] for e in running.routed if e.type == events.DISPATCH_REQUESTED}
    assert "slot" in causes and "tick" not in causes


def test_a_bead_without_acceptance_criteria_is_left_alone_until_it_has_some(running: Running) -> None:
    """Blank: no claim, no note. With criteria: dispatched at once, as the edit makes it eligible."""
    bead = running.beads.workspace.create("vague")
    running.beads.workspace.run("assign", bead, "agent")
    wait_for(lambda: [e for e in running.routed if e.subject == bead], "the change event")
    running.beads.workspace.run("update", bead, "--acceptance", "now it has")
    wait_for(lambda: running.posts(bead), "the POST")
    assert not [e for e in running.routed if e.type == events.DISPATCH_REQUESTED and e.data["waiting"] != 1]


def test_suspending_and_resuming(running: Running) -> None:
    """`bd config set … true`: nothing starts, with or without ticks. `false`: at once, by cause=resume."""
    workspace = running.beads.workspace
    workspace.run("config", "set", suspension.CONFIG_KEY, "true")
    bead = workspace.create("later", "ok")
    workspace.run("assign", bead, "agent")
    wait_for(lambda: [e for e in running.routed if e.subject == bead], "the change event")
    assert tick(running, "dispatch") == 202
    assert running.posts(bead) == 0
    assert running.beads.notes(bead) == []
    assert not [e for e in running.routed if e.type == events.DISPATCH_REQUESTED]
    workspace.run("config", "set", suspension.CONFIG_KEY, "false")
    # At once: less than the 30 s until the binlog's next heartbeat, and far less than a tick's period.
    wait_for(lambda: running.posts(bead), "the POST", 20)
    assert next(e.extensions["cause"] for e in running.routed if e.type == events.DISPATCH_REQUESTED) == "resume"


def test_a_manual_post_is_not_suspended(running: Running) -> None:
    """People may dispatch from BeadBoard as before."""
    workspace = running.beads.workspace
    workspace.run("config", "set", suspension.CONFIG_KEY, "true")
    bead = workspace.create("manual", "ok", "--assignee", "agent")
    request = urllib.request.Request(f"{running.agent.url}/api/agent-dispatch", json.dumps({"taskId": bead}).encode())
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as response:
        assert "job_id" in json.load(response)
    wait_for(lambda: running.beads.row(bead)["status"] == "closed", "closed by the agent")


def test_a_tick_with_nothing_to_do_starts_no_pass(running: Running) -> None:
    """The feeder answers it with an empty 204; no request event is made."""
    assert tick(running, "dispatch") == 202
    assert tick(running, "reap") == 202
    assert [e.type for e in running.routed] == [events.TICK, events.TICK]


def test_a_tick_finds_a_bead_without_a_change(running: Running) -> None:
    """A retry delay that has elapsed: nothing changed the bead, and the tick's eligibility check finds it."""
    ends = notes.timestamp(datetime.now(UTC) + timedelta(minutes=30))
    running.beads.add("x-1", metadata=f'{{"dispatch": {{"retry_at": "{ends}"}}}}')
    wait_for(lambda: [e for e in running.routed if e.subject == "x-1"], "the change event")
    assert tick(running, "dispatch") == 202
    assert running.posts("x-1") == 0
    claims = running.beads.store.claims
    found = claims.read_back("x-1")
    assert found is not None

    def clear_the_delay(change: BeadChange) -> None:
        change.update("x-1", found.updated_at, note="n", record=DispatchRecord(), where="TRUE", params={})
        change.audit("x-1", "n", found.updated_at)

    # Written by our own actor, so that the feed does not request a pass for it.
    claims._commit(store.DISPATCHER, "test", clear_the_delay)
    assert tick(running, "dispatch") == 202
    assert running.posts("x-1") == 1
    assert "tick" in {e.extensions["cause"] for e in running.routed if e.type == events.DISPATCH_REQUESTED}


def test_with_the_feeder_gone_the_tick_reaches_dispatch_as_a_dead_letter(running: Running) -> None:
    """The backstop: no feeder, and the bead is dispatched at the next tick; later the feeder publishes the gap."""
    running.system.processes["feeder"].kill()
    bead = running.beads.workspace.create("no feeder", "ok")
    running.beads.workspace.run("assign", bead, "agent")
    assert tick(running, "dispatch") == 202
    wait_for(lambda: running.posts(bead), "the POST")
    assert not [e for e in running.routed if e.subject == bead]
    running.system.start_feeder()
    wait_for(lambda: [e for e in running.routed if e.subject == bead], "the change events of the gap")
    assert running.posts(bead) == 1


def test_a_dead_letter_with_suspend_starts_nothing(running: Running) -> None:
    """`kn source ping update dispatch --ce-override suspend=true` puts suspend=true on each tick."""
    running.system.processes["feeder"].kill()
    bead = running.beads.workspace.create("suspended", "ok")
    running.beads.workspace.run("assign", bead, "agent")
    assert tick(running, "dispatch", suspend="true") == 202
    assert running.posts(bead) == 0


@pytest.mark.parametrize("part", ["dispatch", "feeder"])
def test_a_process_that_crashed_loses_nothing(running: Running, part: str) -> None:
    """kill -9, started again: a bead that was assigned meanwhile is dispatched once."""
    running.system.processes[part].kill()
    bead = running.beads.workspace.create("meanwhile", "ok")
    running.beads.workspace.run("assign", bead, "agent")
    if part == "feeder":
        running.system.start_feeder()
    else:
        running.system.start_function(part)
    wait_for(lambda: running.beads.row(bead)["status"] == "closed", "closed", 120)
    assert running.posts(bead) == 1


def test_reap_blocks_through_the_whole_path(running: Running) -> None:
    """Tick, eligibility check, request, reap: a bead inactive since January is blocked with its note."""
    running.beads.add("x-1", status="in_progress")
    assert tick(running, "reap") == 202
    wait_for(lambda: running.beads.row("x-1")["status"] == "blocked", "blocked")
    assert running.beads.notes("x-1")[-1].endswith("(threshold 30m) — blocking")
    wait_for(lambda: [e for e in running.routed if e.extensions.get("actor") == "beads-reaper"], "its change event")
