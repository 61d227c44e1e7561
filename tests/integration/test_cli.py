"""The command beads-dispatch on a real Dolt, with both bd versions, and bd itself for the commands that it offers."""

import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from beads_dispatch import notes, reaper, settings, store, suspension
from beads_dispatch.bead import DispatchRecord
from beads_dispatch.cli import conditions, main, terminal
from beads_dispatch.store.claims import Claims
from beads_dispatch.store.control import Control
from beads_dispatch.store.snapshot import SnapshotSession
from local.dolt import DoltServer
from tests import support
from tests.conftest import Beads
from tests.integration.conftest import Clock, DispatcherFactory

SCRIPT = pathlib.Path(sys.executable).parent / "beads-dispatch"


@dataclass
class Answer:
    """What a command line came to."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Answer]


@pytest.fixture
def ask(beads: Beads, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `beads-dispatch …` in this process and expects a status, 0 by default; None: any."""

    def ask(*words: str, status: int | None = 0, **env: str) -> Answer:
        capsys.readouterr()
        found = main.run(words, {"BEADS_DIR": str(beads.workspace.beads_dir), **env})
        answer = Answer(found, *capsys.readouterr())
        assert status in (answer.status, None), answer.err
        return answer

    return ask


def condition(answer: Answer, name: str) -> dict[str, Any]:
    """One condition of an explanation in JSON."""
    (found,) = [one for one in answer.json["conditions"] if one["name"] == name]
    return dict(found)


# --- explain: every condition, and the command that fixes it ------------------------------------------------

NEXT = "it is eligible: the first in the queue"


def fix(beads: Beads, command: str) -> None:
    """Run the command as it is offered, without the remark behind it."""
    words = shlex.split(command.partition("   (")[0].replace("<what is true when it is done>", "It works."))
    if words[0] == "bd":
        beads.workspace.run(*words[1:])
    else:
        assert words[0] == "beads-dispatch"
        assert main.run(words[1:], {"BEADS_DIR": str(beads.workspace.beads_dir)}) == 0


def in_an_hour() -> datetime:
    return (datetime.now(UTC) + timedelta(hours=1)).replace(tzinfo=None, microsecond=0)


def link(beads: Beads, one: str, other: str, kind: str) -> None:
    """A dependency of `one` on `other`."""
    beads.workspace.run("dep", "add", one, other, "--type", kind)


def not_assigned(beads: Beads) -> None:
    beads.sql("UPDATE issues SET assignee = NULL WHERE id = 'x-1'")


def assigned_to_a_person(beads: Beads) -> None:
    beads.sql("UPDATE issues SET assignee = 'ann' WHERE id = 'x-1'")


def closed(beads: Beads) -> None:
    beads.sql("UPDATE issues SET status = 'closed', closed_at = UTC_TIMESTAMP() WHERE id = 'x-1'")


def blocked_by_status(beads: Beads) -> None:
    beads.sql("UPDATE issues SET status = 'blocked' WHERE id = 'x-1'")


def blank_acceptance(beads: Beads) -> None:
    beads.sql("UPDATE issues SET acceptance_criteria = %s WHERE id = 'x-1'", "\u00a0\n\t ")


def metadata_is_a_list(beads: Beads) -> None:
    beads.sql("UPDATE issues SET metadata = '[1, 2]' WHERE id = 'x-1'")


def blocked_by_another(beads: Beads) -> None:
    link(beads, "x-1", beads.add("x-2", assignee=None, title="Comes first"), "blocks")


def blocked_parent(beads: Beads) -> None:
    parent, blocker = beads.add("x-2", assignee=None), beads.add("x-3", assignee=None)
    link(beads, "x-1", parent, "parent-child")
    link(beads, parent, blocker, "blocks")


def conditionally_blocked(beads: Beads) -> None:
    link(beads, "x-1", beads.add("x-2", assignee=None), "conditional-blocks")


def waiting_for_a_child(beads: Beads) -> None:
    spawner, child = beads.add("x-2", assignee=None), beads.add("x-3", assignee=None)
    link(beads, child, spawner, "parent-child")
    link(beads, "x-1", spawner, "waits-for")


def behind_a_timer(beads: Beads) -> None:
    """A gate whose time has come: bd opens it when somebody runs the check."""
    timer: dict[str, Any] = {
        "issue_type": "gate",
        "await_type": "timer",
        "timeout_ns": 10**9,
        "created_at": "2026-01-01",
    }
    link(beads, "x-1", beads.add("x-2", assignee=None, **timer), "blocks")


def behind_a_persons_gate(beads: Beads) -> None:
    link(beads, "x-1", beads.add("x-2", assignee=None, issue_type="gate", await_type="human"), "blocks")


def of_a_type_that_bd_hides(beads: Beads) -> None:
    beads.sql("UPDATE issues SET issue_type = 'molecule' WHERE id = 'x-1'")


def pinned(beads: Beads) -> None:
    beads.sql("UPDATE issues SET pinned = 1 WHERE id = 'x-1'")


def open_with_a_date(beads: Beads) -> None:
    beads.sql("UPDATE issues SET defer_until = %s WHERE id = 'x-1'", in_an_hour())


def deferred_without_a_date(beads: Beads) -> None:
    beads.workspace.run("defer", "x-1")


def deferred_parent(beads: Beads) -> None:
    link(beads, "x-1", beads.add("x-2", assignee=None, defer_until=in_an_hour()), "parent-child")


def suspended(beads: Beads) -> None:
    beads.workspace.run("config", "set", suspension.CONFIG_KEY, "true")


BROKEN: dict[Callable[[Beads], None], tuple[str, str]] = {
    not_assigned: ("assignee", "assigned to nobody, not to agent"),
    assigned_to_a_person: ("assignee", "assigned to ann, not to agent"),
    blocked_by_status: ("status", "it is blocked, not open"),
    blank_acceptance: ("acceptance", "it has no acceptance criteria"),
    metadata_is_a_list: ("metadata", "its metadata is a JSON array"),
    blocked_by_another: ("blocked", "it is blocked by x-2 (Comes first), which is open"),
    blocked_parent: ("blocked", "its ancestor x-2 is blocked by x-3"),
    conditionally_blocked: ("blocked", "it is blocked by x-2"),
    waiting_for_a_child: ("blocked", "it waits for the child x-3 (Bead x-3) of x-2, which is open"),
    behind_a_timer: ("blocked", "it is behind the gate x-2 (Bead x-2), which waits for: timer"),
    behind_a_persons_gate: ("blocked", "it is behind the gate x-2 (Bead x-2), which waits for: human"),
    of_a_type_that_bd_hides: ("type", "it is of type molecule, which `bd ready` leaves out too"),
    pinned: ("pinned", "it is pinned"),
    open_with_a_date: ("defer", "it is deferred until"),
    deferred_without_a_date: ("status", "it is deferred without a date"),
    deferred_parent: ("parent", "its parent x-2 (Bead x-2) is deferred until"),
    suspended: ("suspension", f"dispatch is suspended: bd config {suspension.CONFIG_KEY} is true"),
}


def test_an_id_is_text_in_the_statement_that_fixes_its_bead(beads: Beads, ask: Command) -> None:
    """Whoever pastes it changes that bead alone."""
    for bead in ("x-1", "x' OR ''='", "x\\"):
        beads.add(bead, pinned=1)
    beads.commit("pinned")
    for bead, fixed in (("x' OR ''='", 1), ("x\\", 2)):
        program, command, statement = shlex.split(ask("explain", "--json", "--", bead).json["fix"])
        assert (program, command) == ("bd", "sql")
        beads.sql(statement)
        assert beads.sql("SELECT COUNT(*) AS n FROM issues WHERE pinned = 0") == [{"n": fixed}]


@pytest.mark.parametrize("break_it", BROKEN, ids=lambda function: function.__name__)
def test_explain_names_the_unmet_condition_and_the_command_that_fixes_it(
    beads: Beads, ask: Command, break_it: Callable[[Beads], None]
) -> None:
    """The command is run, and then the bead is eligible."""
    beads.add("x-1")
    assert ask("explain", "x-1", "--json").json["verdict"] == NEXT
    break_it(beads)
    answer = ask("explain", "x-1", "--json")
    name, detail = BROKEN[break_it]
    assert detail in answer.json["verdict"]
    assert condition(answer, name)["holds"] is False
    assert [one["name"] for one in answer.json["conditions"] if one["holds"] is False] == [name]
    fix(beads, answer.json["fix"])
    # Some of bd's commands take the assignee away with the status.
    again = ask("explain", "x-1", "--json").json
    if again["fix"]:
        assert "assigned to nobody" in again["verdict"]
        fix(beads, again["fix"])
    assert ask("explain", "x-1", "--json").json["verdict"] == NEXT


def test_a_timer_is_checked_and_a_persons_gate_resolved(beads: Beads, ask: Command) -> None:
    """Gates stay bd's to close: the timer whose time has come by its check, the other by hand."""
    beads.add("x-1")
    behind_a_timer(beads)
    assert ask("explain", "x-1", "--json").json["fix"] == "bd gate check"
    beads.sql("UPDATE issues SET await_type = 'human' WHERE id = 'x-2'")
    assert ask("explain", "x-1", "--json").json["fix"] == "bd gate resolve x-2"


def test_a_bead_with_a_date_is_dispatched_by_itself_and_explain_says_when(beads: Beads, ask: Command) -> None:
    """Deferred until later: both conditions say so, and the one command opens it now."""
    beads.add("x-1")
    until = datetime.now(UTC) + timedelta(hours=2)
    beads.workspace.run("defer", "x-1", "--until", until.strftime("%Y-%m-%dT%H:%M:%SZ"))
    answer = ask("explain", "x-1", "--json").json
    assert "it is deferred until" in answer["verdict"] and "and is dispatched then" in answer["verdict"]
    fix(beads, answer["fix"])
    assert ask("explain", "x-1", "--json").json["verdict"] == NEXT


def test_an_epic_waits_for_its_children(beads: Beads, ask: Command) -> None:
    """An epic with an open child is not dispatched; the child is."""
    beads.add("x-1", issue_type="epic")
    link(beads, beads.add("x-2"), "x-1", "parent-child")
    answer = ask("explain", "x-1", "--json").json
    assert answer["verdict"] == "it is an epic, and its child x-2 (Bead x-2) is open"
    assert answer["fix"] == "bd close x-2"
    assert ask("explain", "x-2", "--json").json["verdict"] == NEXT
    beads.sql("UPDATE issues SET status = 'closed' WHERE id = 'x-2'")
    assert ask("explain", "x-1", "--json").json["verdict"] == NEXT


@pytest.mark.parametrize("option", ["--no-history", "--ephemeral"])
def test_a_bead_without_history_is_found_and_its_command_moves_it(beads: Beads, ask: Command, option: str) -> None:
    """bd keeps it in another table: explain says which, and how to move it; never that there is no such bead."""
    arguments = ("create", "Elsewhere", option, "--assignee", "agent", "--acceptance", "It works.", "--silent")
    bead = beads.workspace.run(*arguments).strip()
    answer = ask("explain", bead, status=1)
    assert f"{bead} is not dispatched: it is " in answer.err and "in the table wisps, not in issues" in answer.err
    if "This version of bd has no command" in answer.err:
        assert not beads.store._session.schema.is_blocked
        return
    fix(beads, answer.err.partition("To fix: ")[2].strip())
    assert ask("explain", bead, "--json").json["verdict"] == NEXT


def test_a_stale_mark_of_bds_is_named_with_the_command_that_recomputes_it(beads: Beads, ask: Command) -> None:
    """bd's column says blocked, and nothing is in the way."""
    if not beads.store._session.schema.is_blocked:
        pytest.skip("this bd has no such column")
    beads.add("x-1", is_blocked=1)
    beads.commit("a pull that was resolved by hand")
    answer = ask("explain", "x-1", "--json").json
    assert "nothing that is open blocks it" in answer["verdict"]
    fix(beads, answer["fix"])
    assert ask("explain", "x-1", "--json").json["verdict"] == NEXT


def test_explain_names_the_first_of_several_reasons_and_shows_all(beads: Beads, ask: Command) -> None:
    """In the order of the predicate, each with its own command."""
    beads.add("x-1", assignee=None, acceptance="", is_template=1)
    suspended(beads)
    answer = ask("explain", "x-1")
    assert "Now: it is assigned to nobody, not to agent." in answer.out
    assert "fix it with: bd assign x-1 agent" in answer.out
    for part in ("NO   acceptance", "NO   template", "NO   suspension", "beads-dispatch resume"):
        assert part in answer.out
    assert "\x1b" not in answer.out


def test_an_ephemeral_bead_is_never_ready(beads: Beads, ask: Command) -> None:
    """bd's view leaves it out."""
    beads.add("x-1", ephemeral=1)
    answer = ask("explain", "x-1", "--json")
    assert answer.json["verdict"] == "it is ephemeral"
    assert answer.json["fix"] == "bd update x-1 --persistent"


def test_a_closed_bead_is_done_and_nothing_is_offered(beads: Beads, ask: Command) -> None:
    """When and by whom it was closed, as far as Dolt's history has it; whatever else is wrong with it."""
    bead = beads.workspace.create("A bead", "It works.")
    beads.workspace.run("assign", bead, "agent")
    beads.workspace.run("close", bead, actor="agent")
    answer = ask("explain", bead, "--json").json
    at = answer["history"][-1]["at"].replace("T", " ")
    assert answer["verdict"] == f"it is done: closed {at} by agent"
    assert (answer["fix"], {one["fix"] for one in answer["conditions"]}) == (None, {None})
    assert "fix it with" not in ask("explain", bead).out
    assert f"Now: it is done: closed {at} by agent." in ask("explain", bead).out
    assert ask("explain", bead, "--as-of", "HEAD", "--json").json["verdict"] == answer["verdict"]
    suspended(beads)
    beads.add("done-2", assignee="ann", acceptance="", status="closed")
    answer = ask("explain", "done-2", "--json").json
    assert (answer["verdict"], answer["fix"]) == ("it is done: closed", None)
    beads.workspace.run("update", bead, "--status", "open")
    beads.sql("UPDATE issues SET status = 'closed' WHERE id = %s", bead)
    assert ask("explain", bead, "--json").json["verdict"] == "it is done: closed"  # the close before is not this one


def test_a_retry_delay_is_shown_with_its_end(beads: Beads, ask: Command, now: datetime) -> None:
    """And how long it still takes."""
    retry = notes.timestamp(now + timedelta(minutes=5))
    beads.add("x-1", metadata=json.dumps({"dispatch": {"failures": 2, "attempt": 2, "retry_at": retry}}))
    answer = ask("explain", "x-1", "--json")
    assert answer.json["verdict"].startswith("after 2 refusals in a row its retry delay ends at ")
    assert answer.json["fix"].startswith("beads-dispatch dispatch x-1")


def test_metadata_that_people_wrote_never_breaks_an_answer(beads: Beads, ask: Command) -> None:
    """Whatever they put where our record is."""
    beads.add("x-1", metadata=json.dumps({"dispatch": {"retry_at": "zzz", "claim": 3, "failures": "many"}}))
    assert "its retry delay ends at zzz" in ask("explain", "x-1").out
    beads.add("x-2", title="a\x1b[31m\nforged: line", metadata=json.dumps({"dispatch": "x"}))
    assert "\x1b" not in ask("explain", "x-2").out
    assert "\x1b" not in ask("status").out


def test_a_hold_is_shown_with_its_reason(beads: Beads, ask: Command, now: datetime) -> None:
    """Nothing is dispatched, whatever the bead is."""
    beads.add("x-1")
    beads.store.control.set_hold(
        "agent", store.Hold(), store.Hold(3, now + timedelta(minutes=4), "agent service: HTTP 502")
    )
    answer = ask("explain", "x-1", "--json")
    assert "after 3 failures of the agent: agent service: HTTP 502" in answer.json["verdict"]
    assert condition(answer, "hold")["holds"] is False


def test_a_suspended_pingsource_is_resumed_with_kn(beads: Beads, ask: Command) -> None:
    """bd's config has nothing to do with it."""
    beads.add("x-1")
    beads.store.control.mirror_pingsource("dispatch", True)
    answer = ask("explain", "x-1", "--json")
    assert answer.json["verdict"] == "dispatch is suspended: PingSource dispatch has suspend=true"
    assert answer.json["fix"] == "kn source ping resume dispatch"


def test_a_bead_needs_a_slot_that_another_takes(
    beads: Beads, ask: Command, make_dispatcher: DispatcherFactory, agent: support.Agent
) -> None:
    """By Dolt alone, and by the agent's answer where its address is known."""
    beads.add("x-1", priority=1)
    beads.add("x-2")
    make_dispatcher().run_once()
    slots = condition(ask("explain", "x-2", "--json"), "slots")
    assert (slots["holds"], slots["detail"].partition(";")[0]) == (False, "1 of 1 slots taken: x-1")
    assert slots["fix"].startswith("beads-dispatch release x-1")
    assert ask("explain", "x-2", "--json", "--max-in-flight", "2").json["verdict"] == NEXT
    agent.busy = True
    slots = condition(ask("explain", "x-2", "--json", "--max-in-flight", "2", BEADBOARD_URL=agent.url), "slots")
    assert (slots["holds"], "the agent is busy" in slots["detail"]) == (False, True)


def test_the_place_in_the_queue_is_shown(beads: Beads, ask: Command) -> None:
    """Priority, then updated_at, then id."""
    for number, priority in enumerate((3, 0, 2, 1)):
        beads.add(f"x-{number}", priority=priority)
    verdict = ask("explain", "x-2", "--json").json["verdict"]
    assert verdict == "it is eligible: number 3 in the queue, after x-1, x-3"


def test_a_bead_in_progress_is_explained_as_such(
    beads: Beads, ask: Command, make_dispatcher: DispatcherFactory
) -> None:
    """With its job and its last activity."""
    beads.add("x-1")
    make_dispatcher().run_once()
    job = beads.store.claims.read_back("x-1").record.job  # type: ignore[union-attr]
    verdict = ask("explain", "x-1", "--json").json["verdict"]
    assert verdict.startswith("it is in progress already, claimed 20")
    assert f", job {job}; last activity" in verdict
    assert "change by beads-dispatcher" in verdict


def test_a_bead_that_is_claimed_while_it_is_explained_is_in_progress(
    beads: Beads, ask: Command, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bead and slots are read one after the other: it must not seem to wait for the slot that it occupies itself."""
    beads.add("x-1")
    now = conditions.now

    def claimed_meanwhile(*arguments: Any) -> list[conditions.Condition]:
        for bead in beads.store.eligible.first("agent", clock(), 1):
            beads.store.claims.claim(bead, clock())
        return now(*arguments)

    monkeypatch.setattr(conditions, "now", claimed_meanwhile)
    answer = ask("explain", "x-1", "--json").json
    assert answer["verdict"].startswith("it is in progress already, claimed")
    assert answer["fix"] is None


def test_a_bead_that_is_not_there_is_an_error(ask: Command) -> None:
    """One line, status 1, now and then."""
    for words in (["explain", "nope"], ["explain", "nope", "--as-of", "HEAD"], ["release", "nope"]):
        answer = ask(*words, status=1)
        assert answer.out == ""
        assert answer.err.startswith("beads-dispatch: there is no bead nope in ")
        assert len(answer.err.splitlines()) == 1


# --- explain: what happened ---------------------------------------------------------------------------------


def test_the_history_shows_claims_jobs_failures_and_blocks_with_their_actors(
    beads: Beads, ask: Command, make_dispatcher: DispatcherFactory, agent: support.Agent, clock: Clock
) -> None:
    """A refusal, a job, an inactive agent, a person who opens it again."""
    bead = beads.workspace.create("A bead", "It works.")
    beads.workspace.run("assign", bead, "agent", actor="ann")
    agent.behaviour = support.answers(400, b'{"error": "no such bead"}')
    dispatcher = make_dispatcher()
    dispatcher.run_once()
    agent.behaviour = support.job
    clock.passed += timedelta(minutes=3)
    dispatcher.run_once()
    job = beads.store.claims.read_back(bead).record.job  # type: ignore[union-attr]
    clock.passed += timedelta(minutes=31)
    reaper.run_once(beads.store, settings.DispatchLimits(), clock())
    beads.workspace.run("update", bead, "--status", "open", actor="bob")
    steps = [(step["what"], step["actor"], step["detail"]) for step in ask("explain", bead, "--json").json["history"]]
    assert [(what.partition(", retry")[0], actor) for what, actor, _ in steps] == [
        ("created", steps[0][1]),
        ("assigned to agent", "ann"),
        ("claimed, attempt 1", "beads-dispatcher"),
        ("released, refusal 1 in a row", "beads-dispatcher"),
        ("claimed, attempt 2", "beads-dispatcher"),
        (f"dispatched, job {job}", "beads-dispatcher"),
        ("became blocked", "beads-reaper"),
        ("became open", "bob"),
    ]
    details = {what: detail for what, _, detail in steps}
    assert details[f"dispatched, job {job}"] == f"dispatched: job={job}"
    assert details["became blocked"] == "reaper: no progress for 31m (threshold 30m) — blocking"
    refused = next(detail for what, _, detail in steps if what.startswith("released"))
    assert refused == 'dispatch failed HTTP 400: {"error": "no such bead"}'


# --- explain --as-of ----------------------------------------------------------------------------------------


def test_the_past_is_asked_the_same_question(beads: Beads, ask: Command) -> None:
    """By commit, by the beginning of one, by moment, by how long ago; each state has its own answer."""
    commits = {}
    for name, words in (
        ("created", ("create", "A bead", "--id", f"{prefix(beads)}-9")),
        ("assigned", ("assign", f"{prefix(beads)}-9", "agent")),
        ("accepted", ("update", f"{prefix(beads)}-9", "--acceptance", "It works.")),
        ("closed", ("close", f"{prefix(beads)}-9", "--reason", "done")),
    ):
        beads.workspace.run(*words, actor="agent")
        commits[name] = beads.sql("SELECT commit_hash, date FROM dolt_log LIMIT 1")[0]
    bead = f"{prefix(beads)}-9"
    expected = {
        "created": "it is assigned to nobody, not to agent",
        "assigned": "it has no acceptance criteria",
        "accepted": "every condition that has a history held; unknown: suspension, hold, slots",
        "closed": f"it is done: closed {terminal.moment(commits['closed']['date'].replace(tzinfo=UTC))} by agent",
    }
    for name, verdict in expected.items():
        commit, date = commits[name]["commit_hash"], commits[name]["date"]
        moment = date.replace(tzinfo=UTC).isoformat(timespec="milliseconds")
        for written in (commit, commit[:12], moment):
            answer = ask("explain", bead, "--as-of", written, "--json").json
            assert (answer["verdict"], answer["commit"], answer["fix"]) == (verdict, commit, None)
            assert answer["history"][-1]["commit"] == commit
    assert ask("explain", bead, "--as-of", "HEAD~1", "--json").json["commit"] == commits["accepted"]["commit_hash"]
    assert ask("explain", bead, "--as-of", "0s", "--json").json["commit"] == commits["closed"]["commit_hash"]


def prefix(beads: Beads) -> str:
    return str(beads.sql("SELECT value FROM config WHERE `key` = 'issue_prefix'")[0]["value"])


def test_what_has_no_history_is_unknown(beads: Beads, ask: Command, now: datetime) -> None:
    """Suspended and held now; what was then nobody knows, and nobody guesses."""
    beads.add("x-1")
    beads.sql("CALL DOLT_COMMIT('-Am', 'a bead')")
    beads.store.control.mirror_pingsource("dispatch", True)
    beads.store.control.set_hold("agent", store.Hold(), store.Hold(1, now + timedelta(minutes=9), "down"))
    answer = ask("explain", "x-1", "--as-of", "HEAD", "--json")
    for name in ("suspension", "hold", "slots"):
        found = condition(answer, name)
        assert (found["holds"], found["detail"].startswith("unknown: ")) == (None, True)
    assert "suspension, hold, slots" in answer.json["verdict"]


def test_slots_of_the_past_are_known_as_far_as_activity_has_a_history(
    beads: Beads, ask: Command, make_dispatcher: DispatcherFactory
) -> None:
    """Events are versioned by bd 1.0.2, and kept out of the commits by bd 1.3.0."""
    beads.add("x-1", priority=1)
    beads.add("x-2")
    beads.sql("CALL DOLT_COMMIT('-Am', 'two beads')")
    make_dispatcher().run_once()
    found = condition(ask("explain", "x-2", "--as-of", "HEAD", "--json"), "slots")
    if beads.sql("SELECT 1 FROM dolt_ignore WHERE pattern = 'events'"):
        assert found["holds"] is None
        assert "unknown: 1 of our claims in progress then: x-1; activity and" in found["detail"]
    else:
        assert (found["holds"], found["detail"]) == (False, "no slot was free: 1 of our claims in progress then: x-1")


def test_a_deferral_and_a_retry_count_by_the_clock_of_then(beads: Beads, ask: Command, now: datetime) -> None:
    """A state that was, asked at a moment before and at one after they were over."""
    until = (now + timedelta(seconds=30)).replace(microsecond=0)
    beads.add("x-1", defer_until=until.replace(tzinfo=None))
    beads.add("x-2", metadata=json.dumps({"dispatch": {"failures": 1, "retry_at": notes.timestamp(until)}}))
    link(beads, "x-1", beads.add("x-3", assignee=None), "parent-child")
    beads.sql("CALL DOLT_COMMIT('-Am', 'deferred', '--allow-empty')")
    commit = beads.store.history.commit("HEAD")
    assert commit is not None
    for moment, eligible in ((until - timedelta(seconds=1), []), (until, ["x-1", "x-2"])):
        past = store.Snapshot(beads.dolt, commit.hash)
        assert [bead.id for bead in past.eligible.first("agent", moment, 9)] == eligible
        assert [one.holds() for one in past.eligible.diagnose("agent", moment, "x-1")] == [bool(eligible)]
        past.close()


@pytest.mark.parametrize("written", ["nonsense", "2026-99-99", "0000000", "HEAD~99999", "'; DROP TABLE issues"])
def test_a_past_that_cannot_be_found_is_an_error(beads: Beads, ask: Command, written: str) -> None:
    """One line with what it could be."""
    beads.add("x-1")
    answer = ask("explain", "x-1", "--as-of", written, status=1)
    assert "is not a single commit of this database, nor a moment such as" in answer.err


def test_a_moment_before_the_history_is_an_error(beads: Beads, ask: Command) -> None:
    """Not an empty answer."""
    beads.add("x-1")
    first = beads.sql("SELECT commit_hash FROM dolt_log ORDER BY commit_order LIMIT 1")[0]["commit_hash"]
    answer = ask("explain", "x-1", "--as-of", "2000-01-01", status=1)
    assert f"is before Dolt's history: it begins with commit {first} at " in answer.err
    assert "is older than bd's tables" in ask("explain", "x-1", "--as-of", first, status=1).err


# --- status -------------------------------------------------------------------------------------------------


def test_status_shows_everything_at_once(
    beads: Beads, ask: Command, make_dispatcher: DispatcherFactory, now: datetime
) -> None:
    """What is in progress, the queue in its order, retry delays, what is not eligible and why."""
    beads.add("w-1", priority=0)
    make_dispatcher().run_once()
    retry = notes.timestamp(now + timedelta(minutes=5))
    beads.add("c-1", metadata=json.dumps({"dispatch": {"failures": 2, "retry_at": retry}}))
    beads.add("n-1", acceptance="")
    beads.add("n-2", defer_until=in_an_hour())
    beads.add("q-2", priority=2)
    beads.add("q-1", priority=1)
    # bd takes ids with another prefix for another project's.
    beads.add("q-3")
    link(beads, "q-3", "q-1", "blocks")
    found = ask("status", "--json").json
    assert [one["bead"] for one in found["in_progress"]] == ["w-1"]
    assert found["in_progress"][0]["job"].startswith("job-")
    assert found["in_progress"][0]["activity"] == "change by beads-dispatcher"
    assert [one["bead"] for one in found["queue"]] == ["q-1", "q-2"]
    assert [(one["bead"], one["until"], one["detail"]) for one in found["retry_delayed"]] == [
        ("c-1", retry, "refused 2 times in a row")
    ]
    reasons = {one["bead"]: one["detail"] for one in found["not_eligible"]}
    assert (reasons["n-1"], reasons["q-3"]) == ("no acceptance criteria", "blocked")
    assert reasons["n-2"].startswith("deferred until ")
    text = ask("status").out
    for line in ("dispatch:  on", "reap:      on", "hold:      none", "In progress: 1 (limit 1)", "1.  q-1"):
        assert line in text


def test_the_last_activity_is_shown_with_its_actor(
    beads: Beads, ask: Command, make_dispatcher: DispatcherFactory, clock: Clock
) -> None:
    """A comment, and where there are leases a heartbeat, count as the bead's own changes do."""
    beads.add("x-1")
    clock.passed -= timedelta(minutes=1)
    make_dispatcher().run_once()
    later = (clock() + timedelta(seconds=5)).replace(tzinfo=None, microsecond=0)
    beads.sql(
        "INSERT INTO comments (id, issue_id, author, text, created_at) VALUES (UUID(), 'x-1', 'ann', '', %s)", later
    )
    (working,) = ask("status", "--json").json["in_progress"]
    assert (working["activity"], working["last_activity"][:19]) == ("comment by ann", later.isoformat())
    if beads.sql("SHOW TABLES LIKE 'leases'"):
        beats = later + timedelta(seconds=5)
        beads.sql(
            "INSERT INTO leases (issue_id, holder, granted_at, lease_expires_at, heartbeat_at)"
            " VALUES ('x-1', 'agent', %s, %s, %s)", later, beats, beats,
        )  # fmt: skip
        (working,) = ask("status", "--json").json["in_progress"]
        assert (working["activity"], working["last_activity"][:19]) == ("heartbeat by agent", beats.isoformat())


def test_the_lag_of_the_feed_is_counted(beads: Beads, ask: Command) -> None:
    """From the stored position to what the server has executed."""
    assert "no feeder has stored a position" in ask("status").out
    beads.store.feed_state.begin(beads.store.feed_state.executed(), "test")
    before = ask("status", "--json").json["feed"]["behind"]
    for number in range(3):
        beads.add(f"x-{number}")
    assert ask("status", "--json").json["feed"]["behind"] == before + 3
    assert f"{before + 3} transactions behind" in ask("status").out


def test_status_shows_who_suspended_it(beads: Beads, ask: Command, now: datetime) -> None:
    """bd's config, a PingSource, the hold."""
    beads.workspace.run("config", "set", suspension.CONFIG_KEY, "dispatch")
    beads.store.control.mirror_pingsource("reap", True)
    beads.store.control.set_hold(
        "agent", store.Hold(), store.Hold(1, now + timedelta(minutes=2), "agent service: HTTP 503")
    )
    text = ask("status").out
    assert f"dispatch:  suspended: bd config {suspension.CONFIG_KEY} is dispatch" in text
    assert "reap:      suspended: PingSource reap has suspend=true" in text
    assert "more): agent service: HTTP 503" in text


# --- reap --dry-run -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["reap"], ["reap", "--dry-run"]], ids=" ".join)
def test_reap_shows_what_the_reaper_then_does(
    beads: Beads, ask: Command, make_dispatcher: DispatcherFactory, now: datetime, words: list[str]
) -> None:
    """A claim without a job, an inactive bead, one with activity; and it changes nothing, with --dry-run or without."""
    early = now - timedelta(minutes=40)
    claimed = beads.store.claims.claim(_bead(beads, "a-1"), early)
    inactive = _bead(beads, "s-1")
    beads.store.claims.record_dispatched(beads.store.claims.claim(inactive, early), "job-1", early)
    _bead(beads, "w-1")
    make_dispatcher(max_in_flight=9).run_once()
    found = ask(*words, "--json").json
    assert (found["to_reopen"], found["to_block"]) == ([claimed.id], ["s-1"])
    assert [one["bead"] for one in found["later"]] == ["w-1"]
    text = ask(*words).out
    assert "would reopen: a-1" in text and "would block: s-1" in text and "in progress: w-1" in text
    status = ask("status", "--json").json
    assert (status["to_reopen"], status["to_block"]) == (["a-1"], ["s-1"])
    result = reaper.run_once(beads.store, settings.DispatchLimits(), datetime.now(UTC))
    assert (result.reopened, result.blocked) == (found["to_reopen"], found["to_block"])
    assert "would do nothing now" in ask(*words).out


def _bead(beads: Beads, name: str) -> Any:
    beads.add(name)
    return next(bead for bead in beads.store.eligible.first("agent", datetime.now(UTC), 99) if bead.id == name)


# --- suspend, resume ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "value", "expected"), [
    (["suspend"], "true", (True, True)),
    (["suspend dispatch"], "dispatch", (True, False)),
    (["suspend dispatch", "suspend reap"], "true", (True, True)),
    (["suspend", "resume reap"], "dispatch", (True, False)),
    (["suspend", "resume dispatch"], "reap", (False, True)),
    (["suspend", "resume"], "false", (False, False)),
    (["suspend reap", "suspend reap", "resume dispatch"], "reap", (False, True)),
])  # fmt: skip
def test_the_config_is_set_as_bd_kv_set_does_it(
    beads: Beads, ask: Command, steps: list[str], value: str, expected: tuple[bool, bool]
) -> None:
    """bd reads the same value, the functions obey it, and it is committed."""
    for step in steps:
        ask(*step.split())
    assert beads.workspace.run("kv", "get", suspension.KV).strip().endswith(value)
    found = beads.store.control.suspension()
    assert (found.dispatch is not None, found.reap is not None) == expected
    assert beads.sql("SELECT * FROM dolt_status WHERE table_name = 'config'") == []
    (row,) = beads.sql("SELECT `value` FROM config AS OF 'HEAD' WHERE `key` = %s", suspension.KV_KEY)
    assert row["value"] == value


def test_a_value_of_a_persons_own_is_obeyed_and_replaced(beads: Beads, ask: Command) -> None:
    """`bd config set … stop` stops both; resuming one leaves the other."""
    beads.workspace.run("config", "set", suspension.CONFIG_KEY, "stop")
    assert "dispatch is on" in ask("resume", "dispatch").out
    assert beads.store.control.suspension().reap is not None


# --- dispatch by hand ---------------------------------------------------------------------------------------


def test_dispatch_by_hand_is_the_functions_own_dispatch(beads: Beads, ask: Command, agent: support.Agent) -> None:
    """Claim, POST, record; suspension, hold and retry delay do not stop a person."""
    later = notes.timestamp(datetime.now(UTC) + timedelta(minutes=9))
    beads.add("x-1", metadata=json.dumps({"dispatch": {"failures": 1, "attempt": 1, "retry_at": later}, "mine": 1}))
    suspended(beads)
    beads.store.control.set_hold("agent", store.Hold(), store.Hold(1, datetime.now(UTC) + timedelta(minutes=9), "down"))
    answer = ask("dispatch", "x-1", "--json", BEADBOARD_URL=agent.url)
    assert agent.posts == ["x-1"]
    found = beads.store.claims.read_back("x-1")
    assert found is not None
    assert (found.status, found.record.job, found.record.attempt) == ("in_progress", answer.json["job"], 2)
    assert beads.notes("x-1")[-1] == f"dispatched: job={answer.json['job']}"
    assert set(beads.actors("x-1")) == {"beads-dispatcher"}
    assert json.loads(beads.row("x-1")["metadata"])["mine"] == 1
    assert beads.store.control.hold("agent") == store.Hold()
    for part in ("dispatch is suspended", "its retry delay ends at", "dispatch is held until"):
        assert part in answer.err
    assert answer.err.count("dispatched by hand all the same") == 3


@pytest.mark.parametrize("break_it", [assigned_to_a_person, closed, blank_acceptance, blocked_by_another, pinned])
def test_a_bead_that_is_not_eligible_is_not_dispatched_by_hand_either(
    beads: Beads, ask: Command, agent: support.Agent, break_it: Callable[[Beads], None]
) -> None:
    """The reason and the command that fixes it, for a closed one none; nothing is sent or written."""
    beads.add("x-1")
    break_it(beads)
    before = beads.row("x-1")
    answer = ask("dispatch", "x-1", status=1, BEADBOARD_URL=agent.url)
    _, detail = BROKEN.get(break_it, ("status", "it is closed, not open"))
    assert detail in answer.err and ("To fix: bd " in answer.err) is (break_it is not closed)
    assert (agent.posts, beads.row("x-1")) == ([], before)


def test_by_hand_too_a_slot_has_to_be_free(beads: Beads, ask: Command, agent: support.Agent) -> None:
    """MAX_IN_FLIGHT is a promise."""
    beads.add("x-1")
    agent.busy = True
    assert "no slot is free" in ask("dispatch", "x-1", status=1, BEADBOARD_URL=agent.url).err
    assert (agent.posts, beads.notes("x-1")) == ([], [])


def test_what_the_agent_refuses_is_rolled_back_by_hand_too(beads: Beads, ask: Command, agent: support.Agent) -> None:
    """As the function does: a note, a retry delay, status 1."""
    beads.add("x-1")
    agent.behaviour = support.answers(400, b"no such task")
    assert "x-1: refused with HTTP 400" in ask("dispatch", "x-1", status=1, BEADBOARD_URL=agent.url).err
    found = beads.store.claims.read_back("x-1")
    assert found is not None
    assert (found.status, found.record.failures) == ("open", 1)
    assert beads.notes("x-1")[-1] == "dispatch failed HTTP 400: no such task"


def test_dispatch_by_hand_needs_the_agents_address(beads: Beads, ask: Command) -> None:
    """A wrong guess would start paid work somewhere else."""
    beads.add("x-1")
    assert "BEADBOARD_URL is not set" in ask("dispatch", "x-1", status=1).err
    assert (
        "it is unknown whether the agent is busy"
        in ask("dispatch", "x-1", status=1, BEADBOARD_URL="http://127.0.0.1:9").err
    )


# --- release ------------------------------------------------------------------------------------------------


def test_a_claim_is_released_in_a_persons_name(beads: Beads, ask: Command, make_dispatcher: DispatcherFactory) -> None:
    """Open again, with a note, an audit row and a Dolt commit of theirs; the warning is that the job may run on."""
    beads.add("x-1")
    make_dispatcher().run_once()
    answer = ask("release", "x-1", BEADS_ACTOR="Ann Other <ann@example.com>")
    found = beads.store.claims.read_back("x-1")
    assert found is not None
    assert (found.status, found.record.claim, found.record.job, found.assignee) == ("open", None, None, "agent")
    assert found.record.attempt == 1
    assert beads.notes("x-1")[-1] == "auto-dispatcher claim released by Ann Other ann@example.com — reopening"
    assert "Ann Other ann@example.com" in beads.actors("x-1")
    commit = beads.store.history.commit("HEAD")
    assert commit is not None
    assert commit.author == "Ann Other ann@example.com"
    assert "may still run" in answer.out and "bd assign x-1 ''" in answer.out
    assert beads.workspace.show("x-1")["status"] == "open"
    beads.workspace.run("close", "x-1", "--force", actor="agent")  # most often in the same second
    released, closed = ask("explain", "x-1", "--json").json["history"][-2:]
    assert (released["what"], released["actor"]) == ("released", "Ann Other ann@example.com")
    assert (closed["what"], closed["actor"]) == ("became closed", "agent")


@pytest.mark.parametrize(("status", "claim", "reason"), [
    ("closed", "t", "x-1 is closed: only a bead in progress has a claim to release"),
    ("blocked", "t", "x-1 is blocked: only a bead in progress"),
    ("in_progress", None, "without a claim of beads-dispatch. `bd update x-1 --status open` opens it"),
])  # fmt: skip
def test_what_is_not_in_progress_by_our_claim_stays_as_it_is(
    beads: Beads, ask: Command, status: str, claim: str | None, reason: str
) -> None:
    """A closed bead is never opened."""
    record = DispatchRecord(claim=claim, attempt=1, at="2026-01-01T00:00:00Z")
    beads.add("x-1", status=status, metadata=json.dumps({"dispatch": json.loads(record.to_json())}))
    before = beads.row("x-1")
    assert reason in ask("release", "x-1", status=1).err
    assert beads.row("x-1") == before


def test_a_bead_that_is_closed_while_it_is_released_stays_closed(
    beads: Beads, ask: Command, make_dispatcher: DispatcherFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The precondition is repeated in the write."""
    beads.add("x-1")
    make_dispatcher().run_once()
    read = Claims.read_back

    def read_then_close(self: Claims, bead_id: str) -> Any:
        found = read(self, bead_id)
        beads.sql("UPDATE issues SET status = 'closed' WHERE id = 'x-1'")
        return found

    monkeypatch.setattr(Claims, "read_back", read_then_close)
    assert "changed at this moment" in ask("release", "x-1", status=1).err
    assert beads.row("x-1")["status"] == "closed"


# --- replay -------------------------------------------------------------------------------------------------


@pytest.fixture
def played(beads: Beads, make_dispatcher: DispatcherFactory) -> str:
    """A small history: two beads, dispatched one after the other; returns the commit before it."""
    commit = beads.store.history.commit("HEAD")
    assert commit is not None
    for name, priority in (("x-1", 1), ("x-2", 2)):
        beads.add(name, priority=priority)
    beads.sql("CALL DOLT_COMMIT('-Am', 'two beads')")
    dispatcher = make_dispatcher()
    for name in ("x-1", "x-2"):
        dispatcher.run_once()
        beads.sql("UPDATE issues SET status = 'closed' WHERE id = %s", name)
        beads.sql("CALL DOLT_COMMIT('-Am', %s)", f"close {name}")
    return commit.hash


def test_the_replay_of_what_was_agrees_with_it(beads: Beads, ask: Command, played: str) -> None:
    """Each would have been dispatched when it was, but for the time that dispatch itself took."""
    found = ask("replay", "--from", played, "--to", "HEAD", "--json").json
    rows = {row["bead"]: row for row in found["attempts"]}
    claims = {
        name: beads.sql(
            "SELECT date AS at FROM dolt_log WHERE message = %s ORDER BY date DESC LIMIT 1",
            f"beads-dispatcher: claim {name}",
        )[0]["at"]
        for name in rows
    }
    assert list(rows) == ["x-1", "x-2"]
    for name, row in rows.items():
        assert row["dispatched_at"] == claims[name].isoformat(timespec="milliseconds") + "Z"
        assert row["would_dispatch_at"] <= row["dispatched_at"]
    assert rows["x-1"]["would_dispatch_at"] == rows["x-1"]["eligible_at"] == rows["x-2"]["eligible_at"]
    assert rows["x-2"]["would_dispatch_at"] > rows["x-1"]["would_dispatch_at"]
    text = ask("replay", "--from", played).out
    assert "2 would have been dispatched" in text and "2 were" in text


def test_a_replay_asks_what_if(beads: Beads, ask: Command, played: str) -> None:
    """With two slots the second starts at once; with another assignee none would have been dispatched."""
    rows = ask("replay", "--from", played, "--max-in-flight", "2", "--json").json["attempts"]
    assert {row["bead"]: row["would_dispatch_at"] == row["eligible_at"] for row in rows} == {"x-1": True, "x-2": True}
    rows = ask("replay", "--from", played, "--assignee", "robot", "--json").json["attempts"]
    assert {row["note"] for row in rows} == {"not eligible with these limits"}
    assert {row["would_dispatch_at"] for row in rows} == {None}


def test_a_replay_and_the_past_write_nothing(beads: Beads, ask: Command, played: str) -> None:
    """Same log, same working set, same own database; Dolt refuses writes to a past, whatever is tried."""

    def state() -> list[Any]:
        return [
            beads.sql("SELECT commit_hash FROM dolt_log"),
            beads.sql("SELECT * FROM dolt_status"),
            beads.sql("SELECT DOLT_HASHOF_DB('WORKING') AS h"),
            beads.sql(f"SELECT * FROM {store.STATE_DATABASE}.agent_holds"),
            beads.store.feed_state.executed(),
        ]

    before = state()
    ask("replay", "--from", played, "--max-in-flight", "3", "--reap-after-minutes", "0.001")
    ask("explain", "x-1", "--as-of", played, status=1)
    ask("explain", "x-1", "--as-of", "HEAD")
    assert state() == before
    past = SnapshotSession(beads.dolt, played)
    control, now = Control(past), datetime.now(UTC)
    bead = _bead(beads, "x-3")
    writes: list[Callable[[], Any]] = [
        lambda: control.set_configured(dispatch=True, reap=True),
        lambda: control.mirror_pingsource("dispatch", True),
        lambda: control.set_hold("agent", store.Hold(), store.Hold(1, now, "x")),
    ]
    before = state()
    for write in writes:
        with pytest.raises(store.StoreError, match=r"read-only|READ ONLY"):
            write()
        past.close()
    with pytest.raises(AttributeError):  # a snapshot's session has neither a transaction nor a write lock
        Claims(past).claim(bead, now)  # type: ignore[arg-type]
    assert state() == before


def test_a_replay_shows_inactivity_and_suspension(
    beads: Beads, ask: Command, make_dispatcher: DispatcherFactory, clock: Clock
) -> None:
    """What would have been blocked when, beside when it was; and bd's config as far as it was committed."""
    start = beads.store.history.commit("HEAD")
    assert start is not None
    beads.add("x-1")
    beads.sql("CALL DOLT_COMMIT('-Am', 'a bead')")
    make_dispatcher().run_once()
    suspended(beads)
    beads.sql("CALL DOLT_COMMIT('-Am', 'suspended', '--allow-empty')")
    beads.workspace.run("config", "set", suspension.CONFIG_KEY, "false")
    # Longer than the limit below, which is longer than the claim and its record are apart on a busy machine.
    quiet_until = datetime.now(UTC) + timedelta(seconds=8)
    support.wait_for(lambda: datetime.now(UTC) > quiet_until, "inactivity")
    clock.passed += timedelta(minutes=31)
    reaper.run_once(beads.store, settings.DispatchLimits(), clock())
    found = ask("replay", "--from", start.hash, "--reap-after-minutes", "0.1", "--json").json
    assert found["suspensions"][0]["dispatch"] == f"bd config {suspension.CONFIG_KEY} is true"
    (inactive,) = found["inactive"]
    blocked = beads.sql("SELECT date FROM dolt_log WHERE author = 'beads-reaper' ORDER BY date DESC LIMIT 1")[0]["date"]
    assert inactive["bead"] == "x-1"
    assert inactive["blocked_at"] == blocked.isoformat(timespec="milliseconds") + "Z"
    versioned = not beads.sql("SELECT 1 FROM dolt_ignore WHERE pattern = 'events'")
    assert any("events and heartbeats" in one for one in found["unknown"]) is not versioned


def test_a_retry_that_comes_between_two_commits_is_seen(beads: Beads, ask: Command) -> None:
    """Nothing is committed at that moment; the bead is eligible from it on all the same."""
    start = beads.store.history.commit("HEAD")
    assert start is not None
    retry = (datetime.now(UTC) + timedelta(seconds=7)).replace(microsecond=0)
    refused = {"dispatch": {"failures": 1, "attempt": 1, "retry_at": notes.timestamp(retry)}}
    beads.add("x-1", metadata=json.dumps(refused), updated_at=datetime.now(UTC).replace(tzinfo=None, microsecond=0))
    beads.sql("CALL DOLT_COMMIT('-Am', 'a bead')")
    assert datetime.now(UTC) < retry, "the machine was too slow for this test: the retry came before the commit"
    support.wait_for(lambda: datetime.now(UTC) > retry + timedelta(milliseconds=10), "the end of the retry delay")
    (row,) = ask("replay", "--from", start.hash, "--json").json["attempts"]
    assert row["would_dispatch_at"] == retry.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_a_replay_from_before_the_history_begins_at_its_first_commit(beads: Beads, ask: Command) -> None:
    """With a line beside the result; a moment before the history is an error elsewhere."""
    first = beads.store.history.first_commit()
    last = beads.sql("SELECT commit_hash AS h FROM dolt_log ORDER BY commit_order LIMIT 3")[-1]["h"]
    answer = ask("replay", "--from", "2000-01-01", "--to", last, "--json")
    assert answer.json["start"] == first.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert (answer.json["commits"], answer.json["attempts"]) == (2, [])
    assert f"before Dolt's history: it begins with commit {first.hash}" in answer.err
    assert "is before Dolt's history" in ask("replay", "--from", last, "--to", "2000-01-01", status=1).err


def test_a_replay_backwards_is_an_error(beads: Beads, ask: Command) -> None:
    """--to comes after --from."""
    assert "is before --from" in ask("replay", "--from", "now", "--to", "1s", status=1).err


# --- the version --------------------------------------------------------------------------------------------


def test_the_version_is_of_all_parts(beads: Beads, ask: Command) -> None:
    """Ours, Dolt's, and that of bd's schema: the number of its newest migration."""
    ours, dolt, schema = ask("--version").out.splitlines()
    versions = beads.sql("SELECT DOLT_VERSION() AS dolt, (SELECT MAX(version) FROM schema_migrations) AS migration")[0]
    assert ours.startswith("beads-dispatch 0.")
    assert dolt == f"Dolt {versions['dolt']} at {beads.dolt.host}:{beads.dolt.port}"
    assert schema == f"bd's schema {versions['migration']} in database {beads.dolt.database}"


# --- JSON, and the documents about it -----------------------------------------------------------------------


def documented() -> dict[str, set[str]]:
    """The fields in docs/cli.md, by command."""
    page = (pathlib.Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    sections = re.findall(r"^### (\w+)$(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL)
    return {command: set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)) for command, text in sections}


def fields(value: Any, path: str = "") -> set[str]:
    """The fields of a JSON value, as the document writes them."""
    if isinstance(value, dict):
        return {found for key, one in value.items() for found in fields(one, f"{path}.{key}" if path else key)}
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        return {found for one in value for found in fields(one, f"{path}[]")}
    return {path}


@pytest.fixture
def watch(ask: Command, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """Runs `beads-dispatch watch …` until Ctrl-C, during what `happens`."""

    def watch(happens: Callable[[], Any], *words: str, **env: str) -> Answer:
        polls: list[Callable[[], Any]] = [happens, lambda: signal.default_int_handler(signal.SIGINT, None)]
        clock = types.SimpleNamespace(sleep=lambda seconds: polls.pop(0)())
        monkeypatch.setattr("beads_dispatch.cli.watch.time", clock)
        return ask("watch", *words, **env)

    return watch


def test_the_fields_of_each_commands_json_are_the_documented_ones(
    beads: Beads,
    ask: Command,
    watch: Callable[..., Answer],
    agent: support.Agent,
    make_dispatcher: DispatcherFactory,
    now: datetime,
) -> None:
    """Neither more nor less, and `schema` is the first; every list has something in it."""
    start = beads.store.history.commit("HEAD")
    assert start is not None
    retry = notes.timestamp(now + timedelta(minutes=5))
    beads.add("r-1", metadata=json.dumps({"dispatch": {"failures": 2, "retry_at": retry}}))
    beads.add("n-1", acceptance="")
    for bead in ("q-1", "q-2", "w-1", "w-2"):
        beads.add(bead, priority=0 if bead == "w-1" else 2)
    suspended(beads)
    beads.sql("CALL DOLT_COMMIT('-Am', 'beads', '--allow-empty')")
    ask("resume")
    answers = {"watch": watch(lambda: make_dispatcher().run_once(), "--json")}
    # What happened, one object a line.
    answers["watch"].out = answers["watch"].out.splitlines()[0]
    quiet_until = datetime.now(UTC) + timedelta(seconds=1.5)
    support.wait_for(lambda: datetime.now(UTC) > quiet_until, "inactivity")
    for command, words in {
        "doctor": [],
        "status": [],
        "agents": [],
        "explain": ["w-1"],
        "reap": [],
        "verify": [],
        "suspend": [],
        "resume": [],
        "replay": ["--from", start.hash, "--reap-after-minutes", "0.005"],
        "dispatch": ["q-1", "--max-in-flight", "9"],
        "release": ["q-1"],
    }.items():
        answers[command] = ask(command, *words, "--json", status=None, BEADBOARD_URL=agent.url)
    assert {name: next(iter(answer.json.items())) for name, answer in answers.items()} == dict.fromkeys(
        answers, ("schema", 1)
    )
    assert {name: fields(answer.json) - {"schema"} for name, answer in answers.items()} == documented()


# --- text from the database ---------------------------------------------------------------------------------

# An escape sequence, one that begins with a single character, and a right-to-left mark: what is visible of it is [35m.
EVIL = "\x1b[35m\x9b1m\u202e\n"
OUR_STYLES = re.compile(r"\x1b\[(?:0|1|2|31|32|33)m")


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize("on_a_terminal", [False, True], ids=["piped", "terminal"])
def test_no_commands_output_controls_the_terminal(
    beads: Beads,
    ask: Command,
    watch: Callable[..., Answer],
    agent: support.Agent,
    make_dispatcher: DispatcherFactory,
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
    as_json: bool,
    on_a_terminal: bool,
) -> None:
    """Whatever is in ids, titles, names, jobs, reasons and errors; in colour, only our own styles are left."""
    start = beads.store.history.commit("HEAD")
    assert start is not None
    assignee, working, queued, blocker = (f"{name}{EVIL}" for name in ("agent", "w", "q", "b"))
    claimed = {"claim": f"t{EVIL}", "attempt": 1, "at": notes.timestamp(now), "job": f"j{EVIL}"}
    working_record = {"dispatch": {**claimed, "outcome": EVIL}}
    beads.add(working, assignee=assignee, title=EVIL, status="in_progress", metadata=json.dumps(working_record))
    beads.add(queued, assignee=assignee, title=EVIL, priority=1)
    beads.add(blocker, assignee=f"ann{EVIL}", title=EVIL, status=f"open{EVIL}"[:30])
    beads.add(f"s{EVIL}", assignee=assignee, title=EVIL, metadata=json.dumps({"dispatch": {"retry_at": f"zz{EVIL}"}}))
    beads.sql("INSERT INTO comments (id, issue_id, author, text) VALUES (UUID(), %s, %s, '')", working, f"eve{EVIL}")
    beads.sql("CALL DOLT_COMMIT('-Am', %s, '--author', %s)", f"beads{EVIL}", "eve \x1b[35m <e@example.com>")
    # A second job for one claim: verify has something to report.
    beads.sql("UPDATE issues SET metadata = JSON_SET(metadata, '$.dispatch.job', %s) WHERE id = %s", EVIL, working)
    beads.sql("CALL DOLT_COMMIT('-Am', 'another job')")
    beads.store.control.set_hold("agent", store.Hold(), store.Hold(2, now + timedelta(minutes=4), f"down{EVIL}"))
    beads.sql(
        f"REPLACE INTO {store.STATE_DATABASE}.positions (feed, gtid_set) VALUES (%s, %s)", beads.dolt.database, EVIL
    )
    beads.sql("REPLACE INTO config (`key`, value) VALUES (%s, %s)", suspension.CONFIG_KEY, f"stop{EVIL}")
    agent.behaviour = support.answers(400, f"no{EVIL}".encode())
    monkeypatch.setattr("sys.stdout.isatty", lambda: on_a_terminal, raising=False)

    more = ["--json"] if as_json else []
    env = {"AGENT_ASSIGNEE": assignee, "BEADBOARD_URL": agent.url}

    def wake() -> None:
        beads.sql("UPDATE issues SET status = 'closed' WHERE id = %s", queued)
        beads.sql("CALL DOLT_COMMIT('-Am', 'closed')")

    shown = [
        ask("status", *more, **env),
        *(ask("explain", bead, *more, **env) for bead in (working, queued, blocker, f"s{EVIL}")),
        ask("explain", working, "--as-of", "HEAD", *more, **env),
        ask("explain", f"none{EVIL}", status=1, **env),
        ask("explain", working, "--as-of", EVIL, status=1, **env),
        ask("status", status=1, **env, DOLT_DATABASE=f"no{EVIL}"),
        ask("replay", "--from", start.hash, *more, **env),
        ask("reap", "--claim-timeout-seconds", "99", "--reap-after-minutes", "0.0001", *more, **env),
        ask("verify", *more, status=None, **env),
        ask("dispatch", queued, "--max-in-flight", "9", *more, status=1, **env),
        watch(wake, *more, **env),
        ask("release", queued, status=1, **env),
        ask("release", working, "--actor", f"ann{EVIL}", *more, **env),
    ]
    for answer in [*shown, ask("suspend", *more, **env), ask("resume", *more, **env)]:
        left = OUR_STYLES.sub("", answer.out + answer.err) if on_a_terminal and not as_json else answer.out + answer.err
        assert all(char.isprintable() or char == "\n" for char in left), (left, answer)
    for answer in shown:
        assert "[35m" in answer.out + answer.err
        if as_json and answer.status == 0:
            assert all(json.loads(line) for line in answer.out.splitlines()) if answer is shown[-3] else answer.json


# --- the process --------------------------------------------------------------------------------------------


@dataclass
class Script:
    """The console script as a process of its own, in the workspace's folder."""

    folder: pathlib.Path

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [SCRIPT, *words], cwd=self.folder, env={**os.environ, **env}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *words: str, **env: str) -> Answer:
        process = self.start(*words, **env)
        out, err = process.communicate(timeout=2 * support.PATIENCE_SECONDS)
        return Answer(process.returncode, out, err)


@pytest.fixture
def script(beads: Beads) -> Script:
    deep = beads.workspace.folder / "src" / "deep"
    deep.mkdir(parents=True, exist_ok=True)
    return Script(deep)


def test_the_workspace_is_found_from_a_folder_inside_it(beads: Beads, script: Script) -> None:
    """As bd finds it, with nothing set."""
    beads.add("x-1")
    assert [one["bead"] for one in script.run("status", "--json").json["queue"]] == ["x-1"]


@pytest.mark.parametrize("words", [["status"], ["explain", "x-1"], ["suspend"], ["watch"], ["replay", "--from", "1h"]])
def test_a_dolt_that_cannot_be_reached_is_one_line(script: Script, words: list[str]) -> None:
    """No traceback, no password, status 1."""
    away = {"DOLT_HOST": "127.0.0.1", "DOLT_PORT": "9", "DOLT_DATABASE": "b", "DOLT_PASSWORD": "s3cret"}
    answer = script.run(*words, **away)
    assert (answer.status, answer.out) == (1, "")
    line = answer.err.splitlines()[-1]
    assert line.startswith("beads-dispatch: cannot reach Dolt at 127.0.0.1:9, database b, user root")
    assert "Traceback" not in answer.err and "s3cret" not in answer.err


def test_settings_that_are_wrong_are_one_line(script: Script) -> None:
    """The limits are checked as the functions check them."""
    answer = script.run("status", "--max-in-flight", "none")
    assert (answer.status, answer.err.splitlines()) == (
        1,
        ["beads-dispatch: MAX_IN_FLIGHT is 'none', expected a whole number of at least 1. Its default is 1."],
    )


def test_a_reader_that_goes_away_causes_no_traceback(beads: Beads, script: Script) -> None:
    """`beads-dispatch status | head -1`"""
    # More than a pipe holds; in one statement.
    beads.sql(
        "INSERT INTO issues (id, title, description, design, acceptance_criteria, notes, assignee) VALUES "
        + ", ".join(f"('x-{number}', REPEAT('t', 400), '', '', 'It works.', '', 'agent')" for number in range(300))
    )
    process = script.start("status", "--json")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(support.PATIENCE_SECONDS) in (0, 1)
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.fixture
def watching(script: Script) -> Iterator[tuple[subprocess.Popen[str], list[dict[str, Any]]]]:
    """A `watch` that begins to follow, and the steps it has printed so far."""
    process = script.start("watch", "--json")
    assert process.stderr is not None and process.stdout is not None
    assert "Ctrl-C" in process.stderr.readline()
    os.set_blocking(process.stdout.fileno(), False)
    yield process, []
    process.kill()
    process.communicate()


def test_watch_shows_each_step_by_dolt_alone(
    beads: Beads, watching: tuple[subprocess.Popen[str], list[dict[str, Any]]], make_dispatcher: DispatcherFactory
) -> None:
    """Assigned, claimed, dispatched, closed; ended by Ctrl-C without a word."""
    process, shown = watching
    stdout = process.stdout
    assert stdout is not None

    def steps(bead: str = "probe") -> list[str]:
        while line := stdout.readline():
            shown.append(json.loads(line))
        return [step["what"] for step in shown if step["bead"] == bead]

    # What happens before it has read the newest commit, a moment after its first line, is not shown.
    def follows() -> bool:
        beads.sql("UPDATE issues SET assignee = IF(assignee = 'agent', 'ann', 'agent') WHERE id = 'probe'")
        beads.sql("CALL DOLT_COMMIT('-Am', 'assigned')")
        return bool(steps())

    beads.add("probe", acceptance="")
    support.wait_for(follows, "the first step")
    bead = beads.workspace.create("Watched", "It works.")
    beads.workspace.run("assign", bead, "agent")
    make_dispatcher().run_once()
    beads.workspace.run("close", bead, actor="agent")
    support.wait_for(lambda: steps(bead)[-1:] == ["closed"], "the step closed")
    assert steps(bead) == ["assigned", "claimed", "dispatched", "closed"]
    assert {step["bead"] for step in shown} == {"probe", bead}
    first = next(step for step in shown if step["bead"] == bead)
    assert (first["bead"], first["title"], first["after_ms"]) == (bead, "Watched", None)
    process.send_signal(signal.SIGINT)
    assert process.wait(support.PATIENCE_SECONDS) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""


def test_every_command_works_for_a_user_who_may_only_read(
    beads: Beads, dolt_server: DoltServer, ask: Command, played: str
) -> None:
    """SELECT on the beads' database and on ours is enough to read; to suspend it is not."""
    name, database = "looker", beads.dolt.database
    beads.sql(f"CREATE USER IF NOT EXISTS '{name}'@'%%' IDENTIFIED BY 'p'")
    beads.sql(f"GRANT SELECT ON `{database}`.* TO '{name}'@'%%'")
    beads.sql(f"GRANT SELECT ON `{store.STATE_DATABASE}`.* TO '{name}'@'%%'")
    who = {"DOLT_USER": name, "DOLT_PASSWORD": "p"}
    for words in (
        ["status"], ["explain", "x-1"], ["explain", "x-1", "--as-of", "HEAD"], ["reap"], ["replay", "--from", played],
        ["--version"],
    ):  # fmt: skip
        ask(*words, **who)
    answer = ask("suspend", status=1, **who)
    assert "user looker refused a statement" in answer.err or "denied" in answer.err


def report_of_a_feeder(beads: Beads, minutes: float, *, sink_accepts: bool = True) -> None:
    """A feeder's report, so many minutes old."""
    beats = datetime.now(UTC) - timedelta(minutes=minutes)
    beads.sql(
        f"REPLACE INTO {store.STATE_DATABASE}.feeders (feed, instance, user, host, process, version, beat_at,"
        " sink_accepts, replica) VALUES (%s, 'i', 'beads-feeder', 'feeder-7d9c', 7, '0.2.0', %s, %s, '1234abcd')",
        beads.dolt.database, beats.replace(tzinfo=None), sink_accepts,
    )  # fmt: skip


@pytest.mark.parametrize("command", ["status", "explain"])
def test_a_feeder_that_is_away_is_named_before_a_bead_that_is_eligible(
    beads: Beads, ask: Command, command: str
) -> None:
    """With how long ago it reported, and which it was; and that it dispatches with a tick only."""
    beads.add("x-1")
    words = ["x-1"] if command == "explain" else []

    def problem() -> str:
        answer = ask(command, *words, "--json").json["feeder"]
        return str(answer if command == "explain" else answer["problem"])

    assert problem() == "no feeder has reported yet"
    report_of_a_feeder(beads, 1)
    assert problem() == ""
    assert "no feeder has reported" not in ask(command, *words).out.lower()
    report_of_a_feeder(beads, 12.5)
    known = "no feeder has reported for 12 min; the last was user beads-feeder, process 7 on host feeder-7d9c"
    assert problem() == f"{known}, version 0.2.0"
    text = ask(command, *words).out
    eligible = "1.  x-1" if command == "status" else "it is eligible"
    assert 0 < text.lower().find(known) < text.find(eligible)
    if command == "explain":
        assert "waits for a tick" in text and "within a second" not in text
    report_of_a_feeder(beads, 1, sink_accepts=False)
    assert problem() == "the feeder's sink did not accept the last event"


def test_a_clone_that_does_not_dispatch_says_so_and_how_to_change_it(beads: Beads, ask: Command) -> None:
    """The key is bd's, the id is this clone's own: the fix is bd's command with it, and works."""
    beads.add("x-1")
    report_of_a_feeder(beads, 1)
    beads.workspace.run("kv", "set", "auto-dispatch.replica", "99999999")
    try:
        answer = ask("explain", "x-1", "--json")
        suspended = condition(answer, "suspension")
        assert suspended["holds"] is False
        assert "bd kv auto-dispatch.replica is 99999999, and this clone is 1234abcd" in suspended["detail"]
        assert suspended["fix"] == "bd kv set auto-dispatch.replica 1234abcd"
        beads.workspace.run(*suspended["fix"].split()[1:])
        assert condition(ask("explain", "x-1", "--json"), "suspension")["holds"] is True
    finally:
        beads.workspace.run("kv", "clear", "auto-dispatch.replica")
