"""One dispatch pass on a real Dolt, with a real HTTP agent, on each bd version."""

import json
import os
import random
import subprocess
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from beads_dispatch import notes, outcomes, reaper, settings, store, suspension
from beads_dispatch.bead import RECORD_NUMBERS, Bead, DispatchRecord
from beads_dispatch.cli import main
from beads_dispatch.outcomes import (
    AgentFailed,
    Dispatched,
    Held,
    LostRace,
    NoSlot,
    NothingEligible,
    OutcomeUnknown,
    Rejected,
    Suspended,
    Withdrawn,
)
from beads_dispatch.store.bead_change import BeadChange
from feeder.eligibility_check import EligibilityCheck
from feeder.requests import DueMoment, PendingRequest
from tests import support
from tests.conftest import Beads
from tests.integration.conftest import Clock, DispatcherFactory
from tools.servers import Behaviour, Handler

# Longer than all tests take, and shorter than what a clock that is ahead would write.
DELAYED = f'{{"dispatch": {{"retry_at": "{notes.timestamp(datetime.now(UTC) + timedelta(minutes=90))}"}}}}'


def record(beads: Beads, bead: str) -> DispatchRecord:
    return DispatchRecord.from_metadata(json.loads(beads.row(bead)["metadata"] or "{}"))


def unwell(beads: Beads) -> set[str]:
    """The checks that `bd doctor` complains about."""
    done = subprocess.run(
        [str(beads.workspace.bd), "doctor", "--json"],
        cwd=beads.workspace.folder,
        env={**os.environ, **beads.workspace.environment()},
        capture_output=True,
        text=True,
    )
    checks = json.loads(done.stdout)["checks"]
    assert len(checks) > 10
    return {check["name"] for check in checks if check["status"] != "ok"}


def kinds(found: list[outcomes.Outcome]) -> list[type]:
    return [type(outcome) for outcome in found]


def test_an_eligible_bead_is_claimed_posted_and_recorded(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory
) -> None:
    """Claim, POST, record: both notes, status in_progress, the job in metadata, our actor in the trail."""
    beads.add("x-1")
    outcomes = make_dispatcher().run_once()
    assert kinds(outcomes) == [Dispatched, NothingEligible]
    row, kept = beads.row("x-1"), record(beads, "x-1")
    assert agent.posts == ["x-1"]
    assert row["status"] == "in_progress"
    assert row["assignee"] == "agent"
    assert row["started_at"] is not None
    assert beads.notes("x-1") == [f"auto-dispatcher claimed at {kept.at}", f"dispatched: job={kept.job}"]
    assert kept.claim and kept.attempt == 1
    assert beads.actors("x-1") == ["beads-dispatcher", "beads-dispatcher"]


def test_each_write_is_one_dolt_commit_with_our_author(beads: Beads, make_dispatcher: DispatcherFactory) -> None:
    """A claim and its record are two commits by beads-dispatcher, and leave nothing uncommitted."""
    beads.add("x-1")
    beads.sql("CALL DOLT_COMMIT('-Am', 'bead')")
    make_dispatcher().run_once()
    log = beads.sql("SELECT committer, message FROM dolt_log LIMIT 3")
    assert [entry["message"] for entry in log] == [
        "beads-dispatcher: record the job of x-1",
        "beads-dispatcher: claim x-1",
        "bead",
    ]
    assert [entry["committer"] for entry in log[:2]] == ["beads-dispatcher"] * 2
    assert beads.sql("SELECT * FROM dolt_status WHERE table_name = 'issues'") == []


@pytest.mark.parametrize(
    ("why", "columns"),
    [
        ("blank acceptance criteria", {"acceptance": " \t\n\u00a0\u3000\ufeff "}),
        ("no acceptance criteria", {"acceptance": ""}),
        ("somebody else's", {"assignee": "bob"}),
        ("nobody's", {"assignee": None}),
        ("blocked", {"status": "blocked"}),
        ("closed", {"status": "closed"}),
        ("deferred status", {"status": "deferred"}),
        ("deferred until later", {"defer_until": datetime(2100, 1, 1)}),
        ("ephemeral", {"ephemeral": 1}),
        ("a template", {"is_template": 1}),
        ("in progress", {"status": "in_progress"}),
        ("metadata is a list", {"metadata": "[1]"}),
        ("metadata is a text", {"metadata": '"mine"'}),
        ("its retry time is not come", {"metadata": DELAYED}),
        ("its retry time is no moment", {"metadata": '{"dispatch": {"retry_at": "3000 or so"}}'}),
    ],
)
def test_what_is_not_eligible_is_not_touched(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, why: str, columns: dict[str, object]
) -> None:
    """A bead that misses one condition of the predicate is neither claimed nor written to."""
    beads.add("x-1", **columns)  # type: ignore[arg-type]
    before = beads.row("x-1")
    assert kinds(make_dispatcher().run_once()) == [NothingEligible], why
    assert agent.posts == []
    assert beads.row("x-1") == before
    assert beads.store.eligible.count("agent", Clock()()) == 0


def test_a_bead_behind_an_open_blocker_waits_for_it(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory
) -> None:
    """Blocked by a dependency: not eligible; once the blocker is closed: eligible."""
    blocker = beads.workspace.create("blocker", "ok")
    blocked = beads.workspace.create("blocked", "ok")
    beads.workspace.run("dep", "add", blocked, blocker)
    beads.workspace.run("assign", blocked, "agent")
    assert kinds(make_dispatcher().run_once()) == [NothingEligible]
    beads.workspace.run("close", blocker)
    assert kinds(make_dispatcher().run_once()) == [Dispatched, NothingEligible]
    assert agent.posts == [blocked]


@pytest.mark.parametrize("metadata", [None, "null", "{}", '{"dispatch": null}', '{"dispatch": {"claim": 7, "at": 3}}'])
def test_metadata_that_holds_no_record_of_ours_is_no_obstacle(
    beads: Beads, make_dispatcher: DispatcherFactory, metadata: str | None
) -> None:
    """NULL, JSON null, and nonsense where our record would be, are replaced by our record."""
    beads.add("x-1", metadata=metadata)
    assert kinds(make_dispatcher().run_once()) == [Dispatched, NothingEligible]
    assert record(beads, "x-1").attempt == 1


def nested(depth: int, inner: str = "1") -> str:
    return '{"a": ' * depth + inner + "}" * depth


# Metadata that bd and Dolt take, and that cannot be used.
UNUSABLE = {
    "a list": "[1]",
    "a text": '"mine"',
    "a number": "5",
    "dispatch is a number": '{"dispatch": 7}',
    "dispatch is a list": '{"dispatch": [1]}',
    "dispatch is nested deep": f'{{"dispatch": {nested(1500)}}}',
    "dispatch is long": json.dumps({"dispatch": {"note": "x" * 5000}}),
    **{
        f"{name} is {value}": f'{{"dispatch": {{"{name}": {value}}}}}'
        for name in RECORD_NUMBERS
        for value in ("-1", "1.5", "1e300", "99999999999999999999999", '"x"', '{"a": 1}', "[]", "true")
    },
}


@pytest.mark.parametrize("metadata", UNUSABLE.values(), ids=UNUSABLE)
def test_a_row_that_cannot_be_used_delays_no_other(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock, metadata: str
) -> None:
    """It is not eligible, stays as it is, and the bead behind it is dispatched, also while the agent was failing."""
    beads.add("x-1", priority=0, metadata=metadata)
    beads.add("x-2")
    before = beads.row("x-1")
    beads.store.control.set_hold("agent", store.Hold(), store.Hold(1, clock() - timedelta(seconds=1), "it was down"))
    assert kinds(make_dispatcher().run_once()) == [Dispatched, NothingEligible]
    assert agent.posts == ["x-2"]
    assert beads.row("x-1") == before
    assert not beads.store.eligible.diagnose("agent", clock(), "x-1")[0].conditions["metadata"]


def test_a_bead_in_progress_that_cannot_be_used_is_shown_and_reaped(beads: Beads, clock: Clock) -> None:
    """Whatever it has as a claim: `status` shows it, and reap blocks it in time."""
    claims = ("7", "{}", "null", "[]", "true", '""', f'"c", "note": {nested(1500)}')
    for number, metadata in enumerate((*UNUSABLE.values(), *(f'{{"dispatch": {{"claim": {one}}}}}' for one in claims))):
        beads.add(f"x-{number}", status="in_progress", metadata=metadata)
    every = {*beads.rows()}
    assert command(beads, "status") == 0
    assert {*reaper.run_once(beads.store, settings.DispatchLimits(), clock()).blocked} == every


def test_metadata_of_any_depth_beside_ours_is_no_obstacle(beads: Beads, make_dispatcher: DispatcherFactory) -> None:
    """Only our record is read of it; the rest stays."""
    beads.add("x-1", metadata=f'{{"theirs": {nested(1500)}}}')
    assert kinds(make_dispatcher().run_once()) == [Dispatched, NothingEligible]
    assert beads.sql("SELECT JSON_LENGTH(metadata, '$.theirs') AS n FROM issues") == [{"n": 1}]


# What may stand where a date of ours should be.
NO_DATES = (
    "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59Z", "2100-01-01", "1999",
    "9999-99-99", "", "z" * 500, 7, -1, 10**25, 1e300, True, None, {"a": 1}, ["2026-07-15T09:30:00Z"],
)  # fmt: skip
FIELDS = [field.name for field in fields(DispatchRecord)]


def test_a_date_that_cannot_be_used_fails_nothing(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock
) -> None:
    """Of an open bead or of one in progress: it is shown, the next due moment is known, a pass of dispatch and one of
    reap go on, and `release` ends a claim."""
    dated = [
        {name: date for name in FIELDS if name not in (*RECORD_NUMBERS, "claim", "job", "outcome")} for date in NO_DATES
    ]
    now = clock().replace(tzinfo=None)
    for number, found in enumerate(dated):
        beads.add(f"open-{number}", metadata=json.dumps({"dispatch": found}), updated_at=now)
    beads.add("x-last", priority=4)
    everything_is_read(beads)
    make_dispatcher(max_in_flight=len(dated) + 1).run_once()
    assert agent.posts[-1] == "x-last"

    for kind in ("released", "reaped"):
        for number, found in enumerate(dated):
            metadata = json.dumps({"dispatch": {**found, "claim": "c"}})
            beads.add(f"{kind}-{number}", status="in_progress", metadata=metadata, updated_at=now)
    assert command(beads, "status") == 0
    for number in range(len(dated)):
        assert command(beads, "release", f"released-{number}") == 0
        assert beads.row(f"released-{number}")["status"] == "open"
    clock.passed += timedelta(hours=1)
    assert make_dispatcher().run_once()
    result = reaper.run_once(beads.store, settings.DispatchLimits(), clock())
    later = {f"reaped-{number}" for number, date in enumerate(NO_DATES) if (notes.moment(date) or clock()) > clock()}
    assert {f"reaped-{number}" for number in range(len(dated))} - {*result.blocked, *result.reopened} == later


def test_generated_metadata_fails_nothing(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock
) -> None:
    """Any JSON at all, of open beads and of those in progress: the bead behind them is dispatched, reap ends each, the
    next due moment is known, and each command ends without a traceback."""
    odd = {f"x-{seed}": any_metadata(random.Random(seed)) for seed in range(24)}
    for number, (bead, metadata) in enumerate(odd.items()):
        status = "in_progress" if number % 2 else "open"
        changed = clock().replace(tzinfo=None)
        beads.add(bead, priority=0, metadata=json.dumps(metadata), status=status, updated_at=changed)
    beads.add("x-last")
    everything_is_read(beads)
    for bead in list(odd)[:4]:
        assert command(beads, "release", bead) in (0, 1)
        assert command(beads, "dispatch", bead, BEADBOARD_URL=agent.url) in (0, 1)
    make_dispatcher(max_in_flight=2 * len(odd)).run_once()
    assert agent.posts[-1] == "x-last"
    beads.commit("dispatched")
    clock.passed += timedelta(hours=1)
    reaper.run_once(beads.store, settings.DispatchLimits(), clock())
    assert {bead["status"] for bead in beads.rows().values()} <= {"open", "blocked"}
    everything_is_read(beads)


def everything_is_read(beads: Beads) -> None:
    """By the feeder for its next due moment, and by each command that shows beads."""
    DueMoment(EligibilityCheck(beads.store, settings.DispatchLimits(), None)).look(PendingRequest())
    in_progress = {bead: row["status"] == "in_progress" for bead, row in beads.rows().items()}
    shown = [bead for bead, begun in in_progress.items() if not begun]
    for bead in (*shown, *[bead for bead, begun in in_progress.items() if begun][:1]):  # it reads all others of these
        assert command(beads, "explain", bead) == 0
    for words in ("status", "reap", "agents", "replay --from 10s", "release --outcome unknown --since 9999d"):
        assert command(beads, *words.split()) == 0


def command(beads: Beads, *words: str, **env: str) -> int:
    """Run `beads-dispatch` on the workspace."""
    return main.run(words, {"BEADS_DIR": str(beads.workspace.beads_dir), "BEADS_ACTOR": "ann", **env})


def any_metadata(chance: random.Random, depth: int = 0) -> Any:
    """Random JSON, often with what looks like our record."""
    plain = [*NO_DATES, 0, 1.5, "x", "2026-01-01T00:00:00Z", "unknown", "posting", "\u0001😀", "\udc00"]
    kind = chance.random()
    if depth > 3 or (depth > 1 and kind < 0.7):
        return chance.choice(plain)
    if kind < 0.1:
        return [any_metadata(chance, depth + 1) for _ in range(chance.randrange(4))]
    found = {name: any_metadata(chance, depth + 2) for name in chance.sample(FIELDS, chance.randrange(9))}
    return {"dispatch": found, "theirs": any_metadata(chance, depth + 1)} if depth == 0 else found


def test_other_metadata_stays(beads: Beads, make_dispatcher: DispatcherFactory) -> None:
    """What people keep in metadata is theirs."""
    beads.add("x-1", metadata='{"team": "blue", "dispatch": {"attempt": 2}}')
    make_dispatcher().run_once()
    assert json.loads(beads.row("x-1")["metadata"])["team"] == "blue"
    assert record(beads, "x-1").attempt == 3


def test_beads_go_by_priority_then_age_then_id(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory
) -> None:
    """Priority first, the longest unchanged next, the id last."""
    beads.add("x-late", priority=1, updated_at=datetime(2026, 1, 2))
    beads.add("x-b", priority=1)
    beads.add("x-a", priority=1)
    beads.add("x-urgent", priority=0, updated_at=datetime(2026, 1, 3))
    make_dispatcher(health=True, max_in_flight=9).run_once()
    assert agent.posts == ["x-urgent", "x-a", "x-b", "x-late"]


@pytest.mark.parametrize("bead", ["x-o'brien", 'x-"q"', "x-100%s", "x-%(id)s", "x-ünï-😀", "x-back\\slash", "x; DROP"])
def test_odd_ids_are_only_ids(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, bead: str
) -> None:
    """Quotes, per cents, unicode and SQL in an id reach the agent as they are, and nothing else happens."""
    beads.add(bead)
    assert kinds(make_dispatcher().run_once()) == [Dispatched, NothingEligible]
    assert agent.posts == [bead]
    assert beads.row(bead)["status"] == "in_progress"


def test_a_very_long_description_is_no_obstacle(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory
) -> None:
    """A description as long as the schema holds (1 MB on bd 1.3.0) stays as it is."""
    longest = 1_000_000 if beads.store._session.schema.notes_limit > 2**16 else 60_000
    beads.add("x-1", description="d" * longest)
    assert kinds(make_dispatcher().run_once()) == [Dispatched, NothingEligible]
    assert len(beads.row("x-1")["description"]) == longest


def test_notes_that_are_full_are_not_cut(beads: Beads, make_dispatcher: DispatcherFactory) -> None:
    """Where our note does not fit, a person's notes stay whole, and ours is in the audit trail."""
    limit = min(beads.store._session.schema.notes_limit, 1_000_000)
    text = "n" * (limit - 10)
    beads.add("x-1", notes=text)
    assert kinds(make_dispatcher().run_once()) == [Dispatched, NothingEligible]
    assert beads.row("x-1")["notes"].startswith(text)
    comments = [row["comment"] for row in beads.sql("SELECT comment FROM events WHERE issue_id = 'x-1'")]
    assert any(comment.startswith("auto-dispatcher claimed at") for comment in comments)
    assert any(comment.startswith("dispatched: job=") for comment in comments)


# --- slots ---------------------------------------------------------------------------------------------------


def test_only_as_many_beads_as_slots_are_at_work(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory
) -> None:
    """MAX_IN_FLIGHT 1, by our own claims: the second bead stays in the queue."""
    beads.add("x-1")
    beads.add("x-2")
    assert kinds(make_dispatcher().run_once()) == [Dispatched, NoSlot]
    assert agent.posts == ["x-1"]


def test_a_busy_agent_gets_no_bead(beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory) -> None:
    """BeadBoard answers busy (a manual dispatch, for one): nothing is claimed."""
    beads.add("x-1")
    agent.busy = True
    assert kinds(make_dispatcher().run_once()) == [NoSlot]
    assert beads.notes("x-1") == []


def test_health_counts_manual_dispatches(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory
) -> None:
    """With AGENT_HEALTH_URL the agent's own number decides."""
    beads.add("x-1")
    agent.active = 2
    assert kinds(make_dispatcher(health=True, max_in_flight=2).run_once()) == [NoSlot]
    assert kinds(make_dispatcher(health=True, max_in_flight=3).run_once()) == [Dispatched, NothingEligible]


def test_an_inactive_bead_in_progress_holds_no_slot(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock
) -> None:
    """An agent that gave up and left its bead in_progress does not hold the queue for long."""
    beads.add("x-1")
    beads.add("x-2")
    dispatch = make_dispatcher(slot_silence_minutes=10)
    assert kinds(dispatch.run_once()) == [Dispatched, NoSlot]
    clock.passed += timedelta(minutes=11)
    assert kinds(dispatch.run_once()) == [Dispatched, NothingEligible]
    assert agent.posts == ["x-1", "x-2"]


def test_a_freed_slot_is_waited_for(beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory) -> None:
    """cause=slot: the agent's process ends a little after its bead, so dispatch waits for it, within limits."""
    beads.add("x-1")
    agent.busy = True
    dispatch = make_dispatcher()
    assert kinds(dispatch.run_once(slot_freed=True)) == [NoSlot]

    def ends_soon(seconds: float) -> None:
        agent.busy = False

    dispatch.sleep = ends_soon
    assert kinds(dispatch.run_once(slot_freed=True)) == [Dispatched, NothingEligible]


# --- suspension and the hold -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "stops"), [
    ("true", True), ("dispatch", True), ("TRUE", True), ("ture", True),
    ("reap", False), ("false", False), ("off", False), ("", False),
])  # fmt: skip
def test_suspension_in_bd_config(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, value: str, stops: bool
) -> None:
    """`bd config set custom.auto-dispatch.suspend`: true or dispatch stop it, and so does a typing error."""
    beads.workspace.run("config", "set", suspension.CONFIG_KEY, value) if value else None
    beads.add("x-1")
    outcomes = make_dispatcher().run_once()
    assert isinstance(outcomes[-1], Suspended) == stops
    assert agent.posts == ([] if stops else ["x-1"])
    if stops:
        assert beads.notes("x-1") == []


def test_a_suspended_pingsource(beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory) -> None:
    """What the feeder mirrors counts as much as bd's config, for its own function only."""
    beads.add("x-1")
    beads.store.control.mirror_pingsource("dispatch", True)
    outcomes = make_dispatcher().run_once()
    assert outcomes == [Suspended("PingSource dispatch has suspend=true")]
    assert beads.store.control.suspension().reap is None
    beads.store.control.mirror_pingsource("dispatch", False)
    assert kinds(make_dispatcher().run_once()) == [Dispatched, NothingEligible]


def test_suspension_stops_a_pass_that_is_under_way(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory
) -> None:
    """Set while a bead is being POSTed, it stops before the next claim."""
    for number in range(5):
        beads.add(f"x-{number}")

    def suspends(handler: Handler) -> None:
        beads.workspace.run("config", "set", suspension.CONFIG_KEY, "true")
        support.job(handler)

    agent.behaviours["x-1"] = suspends
    outcomes = make_dispatcher(health=True, max_in_flight=9).run_once()
    assert kinds(outcomes) == [Dispatched, Dispatched, Suspended]
    assert agent.posts == ["x-0", "x-1"]
    assert beads.notes("x-2") == []


# --- what the agent may answer --------------------------------------------------------------------------------


def test_a_refused_bead_is_rolled_back_and_waits_for_its_retry(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock
) -> None:
    """A 400 is the bead's: open again, the note byte for byte, and retry times of 2, 5, 10, 30 minutes."""
    clock.stop()
    beads.add("x-1", metadata='{"team": "blue"}')
    agent.behaviour = support.answers(400, b'{"error": "no such bead"}')
    dispatch = make_dispatcher()
    for minutes in (2, 5, 10, 30):
        outcomes = dispatch.run_once()
        assert kinds(outcomes) == [Rejected, NothingEligible]
        row = beads.row("x-1")
        assert (row["status"], row["assignee"], row["started_at"]) == ("open", "agent", None)
        assert beads.notes("x-1")[-1] == 'dispatch failed HTTP 400: {"error": "no such bead"}'
        assert record(beads, "x-1").claim is None
        clock.passed += timedelta(minutes=minutes, seconds=-20)
        assert kinds(dispatch.run_once()) == [NothingEligible]
        clock.passed += timedelta(seconds=40)
    assert beads.store.control.hold("agent") == store.Hold()
    assert json.loads(beads.row("x-1")["metadata"])["team"] == "blue"


def test_the_fifth_refusal_blocks_and_reopening_gives_five_more(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock
) -> None:
    """A bead that fails five times in a row is blocked with a note; a person may open it again."""
    beads.add("x-1")
    agent.behaviour = support.answers(422, b"bad")
    dispatch = make_dispatcher()
    for _ in range(5):
        outcomes = dispatch.run_once()
        clock.passed += timedelta(hours=1)
    assert isinstance(outcomes[0], Rejected) and outcomes[0].blocked
    assert beads.row("x-1")["status"] == "blocked"
    assert beads.notes("x-1")[-2:] == ["dispatch failed HTTP 422: bad", "dispatch failed 5 times — blocking"]
    assert kinds(dispatch.run_once()) == [NothingEligible]
    beads.workspace.run("update", "x-1", "--status", "open")
    agent.behaviour = support.job
    assert kinds(dispatch.run_once()) == [Dispatched, NothingEligible]


def test_a_refused_bead_does_not_delay_the_others(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory
) -> None:
    """A bead that is always refused at the head: the next one goes in the same pass."""
    beads.add("x-refused", priority=0)
    beads.add("x-good", priority=1)
    agent.behaviours["x-refused"] = support.answers(400, b"no")
    assert kinds(make_dispatcher().run_once()) == [Rejected, Dispatched, NothingEligible]


@pytest.mark.parametrize("code", [500, 502, 503, 409, 429, 401, 302])
def test_a_failing_agent_sets_a_hold_and_counts_against_no_bead(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock, code: int
) -> None:
    """5xx, busy, or not letting us in: one bead gets one note, dispatch is held for 30 s."""
    clock.stop()
    beads.add("x-1")
    beads.add("x-2")
    agent.behaviour = support.answers(code, b"down", Location="http://127.0.0.1:9/")
    dispatch = make_dispatcher()
    outcomes = dispatch.run_once()
    assert kinds(outcomes) == [AgentFailed]
    assert beads.notes("x-1")[-1] == f"dispatch failed HTTP {code}: down"
    assert beads.notes("x-2") == []
    assert beads.row("x-1")["status"] == "open"
    assert record(beads, "x-1").failures == 0
    assert kinds(dispatch.run_once()) == [Held]
    assert len(agent.posts) == 1
    clock.passed += timedelta(seconds=31)
    agent.behaviour = support.job
    assert kinds(dispatch.run_once()) == [Dispatched, NoSlot]
    assert beads.store.control.hold("agent").failures == 0


def test_holds_double_up_to_ten_minutes(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock
) -> None:
    """30 s, 1, 2, 4, 8, 10, 10 minutes."""
    beads.add("x-1")
    agent.behaviour = support.answers(500)
    dispatch = make_dispatcher()
    seconds = []
    for _ in range(7):
        failed = dispatch.run_once()[-1]
        assert isinstance(failed, AgentFailed)
        seconds.append(failed.hold_seconds)
        clock.passed += timedelta(minutes=11)
    assert seconds == [30, 60, 120, 240, 480, 600, 600]


def test_an_agent_that_cannot_be_reached_leaves_the_beads_alone(
    beads: Beads, make_dispatcher: DispatcherFactory
) -> None:
    """Nothing listens: noticed before the claim, so the hold has the reason and no bead is written to."""
    beads.add("x-1")
    outcomes = make_dispatcher(url="http://127.0.0.1:9").run_once()
    assert kinds(outcomes) == [AgentFailed]
    assert beads.notes("x-1") == []
    assert "ConnectError" in beads.store.control.hold("agent").reason


def test_an_outage_while_nobody_waits_holds_up_nobody(beads: Beads, make_dispatcher: DispatcherFactory) -> None:
    """A hold set then would delay the bead that is assigned once the agent is back."""
    beads.add("x-1", status="closed")
    outcomes = make_dispatcher(url="http://127.0.0.1:9", health=False).run_once()
    assert outcomes == [NothingEligible()]
    assert beads.store.control.hold("agent") == store.Hold()


def test_a_connection_refused_at_the_post_rolls_back(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory
) -> None:
    """The agent went away between the check of its slots and the POST: nothing was sent, so the bead is open again."""
    beads.add("x-1")
    dispatch = make_dispatcher(url="http://127.0.0.1:9", health=True)
    assert kinds(dispatch.run_once()) == [AgentFailed]
    assert beads.notes("x-1")[-1].startswith("dispatch failed HTTP 000: ConnectError")
    assert beads.row("x-1")["status"] == "open"


@pytest.mark.parametrize(("name", "behaviour"), [
    ("200 without job_id", support.answers(200, b"{}")),
    ("200 with a job_id that is not text", support.answers(200, b'{"job_id": 7}')),
    ("200 with HTML", support.answers(200, b"<html>ok</html>", "text/html")),
    ("200 with a JSON list", support.answers(200, b"[1]")),
    ("200 with 10 MB", support.answers(200, b'{"job_id": "' + b"x" * 10_000_000 + b'"}')),
    ("half a body", support.half_a_body(200)),
    ("hangs up", support.hangs_up),
])  # fmt: skip
def test_an_answer_that_cannot_be_used_is_noted_and_nothing_is_repeated(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, name: str, behaviour: Behaviour
) -> None:
    """The job may run: no roll-back, no second POST, a note with what is unknown."""
    beads.add("x-1")
    agent.behaviour = behaviour
    dispatch = make_dispatcher()
    assert kinds(dispatch.run_once()) == [OutcomeUnknown], name
    assert beads.row("x-1")["status"] == "in_progress"
    assert beads.notes("x-1")[-1].startswith("dispatch outcome unknown: ")
    assert len(beads.notes("x-1")[-1]) < 600
    assert kinds(dispatch.run_once()) == [Held]
    assert agent.posts == ["x-1"]
    assert record(beads, "x-1").outcome == "unknown"


def test_an_agent_that_never_answers_times_out(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory
) -> None:
    """AGENT_TIMEOUT_SECONDS after the POST the outcome is unknown."""
    beads.add("x-1")

    def never_answers(handler: Handler) -> None:
        agent.released.wait(support.PATIENCE_SECONDS)
        handler.hang_up()

    agent.behaviour = never_answers
    # Long enough for the question before the POST, which is answered: whether the agent is busy.
    assert kinds(make_dispatcher(timeout_seconds=2).run_once()) == [OutcomeUnknown]
    assert "ReadTimeout" in beads.notes("x-1")[-1]


def test_a_huge_refusal_is_cut(beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory) -> None:
    """10 MB of error page become 500 characters on one line."""
    beads.add("x-1")
    agent.behaviour = support.answers(400, b"no\n" * 3_500_000)
    assert kinds(make_dispatcher().run_once()) == [Rejected, NothingEligible]
    last = beads.notes("x-1")[-1]
    assert last == f"dispatch failed HTTP 400: {('no ' * 200)[:500]}"


def test_an_answer_cannot_forge_a_note(beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory) -> None:
    """Line breaks in an answer or a job id do not become lines of their own."""
    beads.add("x-1")
    agent.behaviour = support.answers(200, json.dumps({"job_id": "j\ndispatched: job=evil"}).encode())
    make_dispatcher().run_once()
    assert beads.notes("x-1")[-1] == "dispatched: job=j dispatched: job=evil"


# --- people, at the same moment --------------------------------------------------------------------------------


def test_a_bead_that_changed_since_it_was_read_is_lost(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock
) -> None:
    """Reassigned between the look and the claim: the precondition in the UPDATE fails, nothing is written."""
    beads.add("x-1")
    found = beads.store.eligible.first("agent", clock(), 1)[0]
    beads.workspace.run("assign", "x-1", "bob")
    with pytest.raises(store.ClaimLost):
        beads.store.claims.claim(found, clock())
    assert beads.notes("x-1") == []
    assert beads.row("x-1")["assignee"] == "bob"


def test_a_change_merged_with_our_claim_is_found_and_only_our_part_undone(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock
) -> None:
    """Dolt merges a claim and a reassignment cell by cell; the read-back sees it, and bob keeps the bead."""
    beads.add("x-1")
    dispatch = make_dispatcher()
    claim = beads.store.claims.claim

    def claim_then_somebody_takes_it(bead: object, now: datetime, **more: Any) -> object:
        claimed = claim(bead, now)  # type: ignore[arg-type]
        beads.sql("UPDATE issues SET assignee = 'bob' WHERE id = 'x-1'")
        return claimed

    beads.store.claims.claim = claim_then_somebody_takes_it  # type: ignore[method-assign,assignment]
    outcomes = dispatch.run_once()
    assert kinds(outcomes) == [Withdrawn, NothingEligible]
    row = beads.row("x-1")
    assert (row["assignee"], row["status"], row["started_at"]) == ("bob", "open", None)
    assert record(beads, "x-1").claim is None
    assert beads.notes("x-1")[-1] == "auto-dispatcher withdrew its claim: the bead was assigned to bob"
    assert agent.posts == []


# What somebody may do to a bead just after it was claimed, without touching a cell that the claim wrote.
MERGED = {
    "UPDATE issues SET issue_type = 'gate' WHERE id = 'x-1'": "the bead became one of a type that is not dispatched",
    "UPDATE issues SET pinned = 1 WHERE id = 'x-1'": "the bead was pinned",
    "UPDATE issues SET is_template = 1 WHERE id = 'x-1'": "the bead became a template",
    "UPDATE issues SET ephemeral = 1 WHERE id = 'x-1'": "the bead became ephemeral",
    "UPDATE issues SET defer_until = '2100-01-01' WHERE id = 'x-1'": "the bead was deferred",
    "UPDATE issues SET acceptance_criteria = ' ' WHERE id = 'x-1'": "the bead lost its acceptance criteria",
    "UPDATE issues SET defer_until = '2100-01-01' WHERE id = 'x-parent'": "the bead's parent was deferred",
    "bd dep add x-1 x-other": "the bead became blocked",
    "bd dep add x-1 x-other --type conditional-blocks": "the bead became blocked",
}


@pytest.mark.parametrize("change", MERGED)
def test_what_makes_a_claimed_bead_not_eligible_is_found_before_the_post(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, change: str
) -> None:
    """A dependency is a row of another table, and Dolt merges other cells of ours: the read-back finds both."""
    beads.add("x-1", priority=0)
    beads.add("x-parent", assignee=None)
    beads.add("x-other", assignee=None)
    beads.depend(("x-1", "x-parent", "parent-child"))
    beads.commit("beads")
    dispatch = make_dispatcher()
    mark = beads.store.claims.mark_posting

    def mark_then_somebody_changes_it(bead: Bead) -> None:
        mark(bead)
        if change.startswith("bd "):
            beads.workspace.run(*change.split()[1:])
        else:
            beads.sql(f"{change.replace(' WHERE', ', updated_at = updated_at WHERE')}")

    beads.store.claims.mark_posting = mark_then_somebody_changes_it  # type: ignore[method-assign]
    outcomes = dispatch.run_once()
    assert kinds(outcomes) == [Withdrawn, NothingEligible]
    assert beads.row("x-1")["status"] == "open"
    assert beads.notes("x-1")[-1] == f"auto-dispatcher withdrew its claim: {MERGED[change]}"
    assert agent.posts == []


@pytest.mark.parametrize("change", [
    lambda beads: beads.workspace.run("note", "x-1", "mended"),
    # bd 1.3.0 writes nothing where the assignee stays, so nothing can be seen of that.
    lambda beads: [beads.workspace.run("assign", "x-1", name) for name in ("ann", "agent")],
    lambda beads: beads.workspace.run("update", "x-1", "--priority", "1"),
    lambda beads: beads.sql("UPDATE issues SET title = 'Clearer', updated_at = '2100-01-01' WHERE id = 'x-1'"),
], ids=["note", "assigned again", "priority", "plain SQL"])  # fmt: skip
def test_a_refused_bead_that_somebody_changes_is_tried_at_once(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, change: Callable[[Beads], object]
) -> None:
    """It was fixed: its retry delay is over. Without a change it is not, even within the second of the refusal."""
    beads.workspace.run("create", "A bead", "--id", "x-1", "--assignee", "agent", "--acceptance", "Works.", "--force")
    agent.behaviour = support.answers(400)
    dispatch = make_dispatcher()
    assert kinds(dispatch.run_once()) == [Rejected, NothingEligible]
    assert kinds(dispatch.run_once()) == [NothingEligible]
    change(beads)
    agent.behaviour = support.job
    assert kinds(dispatch.run_once())[0] is Dispatched


def test_a_deferred_bead_is_claimed_when_its_date_has_passed(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, clock: Clock
) -> None:
    """Nobody runs `bd ready`. bd reads it well afterwards, and no old date is left on it."""
    beads.add("x-1")
    beads.commit("a bead")
    until = datetime.now(UTC) + timedelta(hours=1)
    beads.workspace.run("defer", "x-1", "--until", until.strftime("%Y-%m-%dT%H:%M:%SZ"))
    dispatch = make_dispatcher()
    assert kinds(dispatch.run_once()) == [NothingEligible]
    clock.passed += timedelta(hours=1, seconds=2)
    assert kinds(dispatch.run_once())[0] is Dispatched
    shown = json.loads(beads.workspace.run("show", "x-1", "--json"))[0]
    assert (shown["status"], shown.get("defer_until")) == ("in_progress", None)
    assert "x-1" not in beads.workspace.run("ready")
    assert "in_progress" in beads.workspace.run("history", "x-1")


def test_withdrawing_does_not_undo_what_they_did(beads: Beads, clock: Clock) -> None:
    """bob claimed it too (in_progress on both sides merges): his status stays when ours goes."""
    beads.add("x-1")
    claimed = beads.store.claims.claim(beads.store.eligible.first("agent", clock(), 1)[0], clock())
    beads.sql("UPDATE issues SET assignee = 'bob' WHERE id = 'x-1'")
    beads.sql(
        "INSERT INTO events (id, issue_id, event_type, actor, created_at) VALUES (UUID(), 'x-1', 'claimed', 'bob', %s)",
        clock().replace(tzinfo=None),
    )
    assert beads.store.claims.withdraw(claimed, "the bead was assigned to bob", clock())
    assert beads.row("x-1")["status"] == "in_progress"


def test_withdrawing_does_not_reopen_what_was_closed(beads: Beads, clock: Clock) -> None:
    """Closed after our claim: the status stays closed."""
    beads.add("x-1")
    claimed = beads.store.claims.claim(beads.store.eligible.first("agent", clock(), 1)[0], clock())
    beads.workspace.run("close", "x-1", "--force", actor="agent")
    assert beads.store.claims.withdraw(claimed, "the bead became closed", clock())
    assert beads.row("x-1")["status"] == "closed"


def test_a_bead_edited_while_being_claimed_is_claimed_again(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory
) -> None:
    """A change that leaves the bead eligible costs one claim, not its turn."""
    beads.add("x-1")
    dispatch = make_dispatcher()
    claim = beads.store.claims.claim
    edits = iter([True])

    def claim_then_edit(bead: object, now: datetime, **more: Any) -> object:
        claimed = claim(bead, now)  # type: ignore[arg-type]
        if next(edits, False):
            beads.sql("UPDATE issues SET title = 'New', updated_at = '2027-01-01' WHERE id = 'x-1'")
        return claimed

    beads.store.claims.claim = claim_then_edit  # type: ignore[method-assign,assignment]
    assert kinds(dispatch.run_once()) == [Withdrawn, Dispatched, NothingEligible]
    assert beads.row("x-1")["title"] == "New"
    assert agent.posts == ["x-1"]


def test_a_bead_deleted_while_being_claimed_is_forgotten(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory
) -> None:
    """Deleted between claim and read-back: no POST, no error."""
    beads.add("x-1")
    dispatch = make_dispatcher()
    claim = beads.store.claims.claim

    def claim_then_delete(bead: object, now: datetime, **more: Any) -> object:
        claimed = claim(bead, now)  # type: ignore[arg-type]
        beads.sql("DELETE FROM issues WHERE id = 'x-1'")
        return claimed

    beads.store.claims.claim = claim_then_delete  # type: ignore[method-assign,assignment]
    assert kinds(dispatch.run_once()) == [Withdrawn, NothingEligible]
    assert agent.posts == []


def test_an_agent_that_closes_at_once_keeps_its_close(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory
) -> None:
    """The bead is closed before our record of the job: the note is added, the status stays closed."""
    beads.add("x-1")

    def closes(handler: Handler) -> None:
        beads.workspace.run("note", "x-1", "claimed by agent", actor="agent")
        beads.workspace.run("close", "x-1", actor="agent")
        support.job(handler)

    agent.behaviour = closes
    assert kinds(make_dispatcher().run_once()) == [Dispatched, NothingEligible]
    assert beads.row("x-1")["status"] == "closed"
    assert "claimed by agent" in beads.notes("x-1")
    assert beads.notes("x-1")[-1].startswith("dispatched: job=")


def test_the_loser_of_a_race_goes_to_the_next_bead(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory
) -> None:
    """Somebody else's claim came first: nothing of ours is left, and the next bead is taken."""
    beads.add("x-1")
    beads.add("x-2")
    dispatch = make_dispatcher()
    other = store.Store(beads.dolt)
    claim = beads.store.claims.claim

    def second(bead: object, now: datetime, **more: Any) -> object:
        if bead.id == "x-1":  # type: ignore[attr-defined]
            other.claims.claim(bead, now)  # type: ignore[arg-type]
        return claim(bead, now)  # type: ignore[arg-type]

    beads.store.claims.claim = second  # type: ignore[method-assign,assignment]
    outcomes = dispatch.run_once()
    other.close()
    assert kinds(outcomes)[:1] == [LostRace]
    assert agent.posts == []  # x-1's claim by the other holds the only slot
    assert isinstance(outcomes[-1], NoSlot)
    assert len(beads.notes("x-1")) == 1


def test_a_claim_that_fails_half_way_leaves_nothing(
    beads: Beads, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error after the UPDATE, before the commit: no status, no note, no event."""
    beads.add("x-1")
    found = beads.store.eligible.first("agent", clock(), 1)[0]
    before = beads.row("x-1")
    monkeypatch.setattr(BeadChange, "audit", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        beads.store.claims.claim(found, clock())
    assert beads.row("x-1") == before
    assert beads.actors("x-1") == []


def test_bd_reads_well_after_our_writes(beads: Beads, make_dispatcher: DispatcherFactory) -> None:
    """show, note, history, ready, doctor and close of bd itself take our writes for their own."""
    bead = beads.workspace.create("t", "ok")
    beads.workspace.run("assign", bead, "agent")
    before = unwell(beads)
    make_dispatcher().run_once()
    shown = beads.workspace.show(bead)
    assert shown["status"] == "in_progress"
    assert [line.split(" ")[0] for line in shown["notes"].splitlines()] == ["auto-dispatcher", "dispatched:"]
    beads.workspace.run("note", bead, "working", actor="agent")
    assert beads.notes(bead)[-1] == "working"
    assert len(beads.notes(bead)) == 3
    assert "beads-dispatcher" in beads.workspace.run("history", bead)
    assert bead not in beads.workspace.run("ready")
    assert unwell(beads) == before
    beads.workspace.run("close", bead, actor="agent")
    assert beads.row(bead)["status"] == "closed"


def test_timestamps_are_utc_and_whole_seconds() -> None:
    """The claim's note and token carry the same moment, which Dolt's DATETIME holds exactly."""
    assert notes.timestamp(datetime.fromisoformat("2026-07-15T11:30:00.999+02:00")) == "2026-07-15T09:30:00Z"
