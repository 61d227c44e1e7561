"""Lost answers, from the claim to the job: dispatch and reap on a real Dolt, with services that keep a list of jobs."""

import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import pytest

from beads_dispatch import agents, notes, reaper
from beads_dispatch.bead import UNKNOWN
from beads_dispatch.cli import main
from beads_dispatch.dispatcher import Dispatcher
from beads_dispatch.outcomes import Dispatched, NothingEligible, OutcomeUnknown
from beads_dispatch.reaper import ReapResult
from beads_dispatch.settings import DispatchLimits
from tests import agent_servers, support
from tests.agent_servers import Relay, loses_the_answer, passes_on
from tests.conftest import Beads
from tests.integration.conftest import Clock
from tests.integration.test_dispatch import kinds, record
from tools.servers import hangs_up

LOST = int(os.environ.get("LOST_ANSWERS", "50"))
LIMITS = DispatchLimits(max_in_flight=LOST + 1)


@pytest.fixture(params=["a2a", "jobsink"])
def relay(request: pytest.FixtureRequest) -> Iterator[Relay]:
    with support.closing(Relay(agent_servers.SERVICES[request.param]())) as found:
        yield found


@pytest.fixture
def backend(relay: Relay, request: pytest.FixtureRequest) -> agents.Backend:
    return agent_servers.backend(request.node.callspec.params["relay"], relay.url)


@pytest.fixture
def dispatch(beads: Beads, backend: agents.Backend, clock: Clock) -> Dispatcher:
    clock.stop()
    return Dispatcher(beads.store, backend, LIMITS, clock, clock.sleep)


def reap(beads: Beads, clock: Clock, backend: agents.Backend) -> ReapResult:
    return reaper.run_once(beads.store, LIMITS, clock(), backend)


def test_a_lost_answer_is_found_after_a_grace_period(
    beads: Beads, relay: Relay, backend: agents.Backend, dispatch: Dispatcher, clock: Clock
) -> None:
    """Its job is recorded as if the answer had come: the same note, the same count, and reap follows it."""
    beads.add("x-1")
    relay.behaviour = loses_the_answer
    assert kinds(dispatch.run_once()) == [OutcomeUnknown]
    relay.behaviour = passes_on
    clock.passed += timedelta(seconds=LIMITS.claim_timeout_seconds - 1)
    assert reap(beads, clock, backend) == ReapResult()
    clock.passed += timedelta(seconds=1)
    assert reap(beads, clock, backend) == ReapResult(found=["x-1"])
    found = record(beads, "x-1")
    assert found.job and (found.outcome, found.jobs) == (None, 1)
    assert beads.notes("x-1")[-1] == notes.dispatched(found.job)
    relay.service.end(found.job, well=False)
    support.wait_for(lambda: backend.state(found.job or "").phase is agents.Phase.FAILED, "the end of the job")
    assert reap(beads, clock, backend) == ReapResult(reopened=["x-1"])


def test_one_command_opens_also_what_reap_blocked_after_an_outage(
    beads: Beads, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """An hour's outage is over: the beads with an unknown outcome or a POST that had begun are listed, reap has blocked
    the older ones, and all are opened again; not what somebody has changed since, nor a POST that may be under way."""

    def lost(bead: str, minutes_ago: int, *, recorded: bool = True) -> None:
        beads.add(bead)
        clock.passed = -timedelta(minutes=minutes_ago)
        claimed = beads.store.claims.claim(beads.store.eligible.first("agent", clock(), 1)[0], clock())
        beads.store.claims.mark_posting(claimed)
        if recorded:
            beads.store.claims.record_unknown(claimed, "no answer", clock())

    changes = {
        "x-edited": ("update", "x-edited", "--priority", "0"),
        "x-commented": ("comments", "add", "x-commented", "its job runs, I think"),
        "x-reopened": ("update", "x-reopened", "--status", "in_progress"),
        "x-unassigned": ("assign", "x-unassigned", ""),
    }
    for bead in ("x-blocked", "x-moved", *changes):
        lost(bead, 36)
    lost("x-begun", 35, recorded=False)
    lost("x-old", 150)
    clock.passed = timedelta()
    assert reaper.run_once(beads.store, DispatchLimits(), clock()).blocked[0] == "x-old"
    assert {row["status"] for row in beads.rows().values()} == {"blocked"}
    for words in changes.values():
        beads.workspace.run(*words, actor="bob")
    beads.workspace.run("update", "x-reopened", "--status", "blocked", actor="bob")
    beads.sql("UPDATE issues SET design = 'by SQL', updated_at = '2100-01-01' WHERE id = 'x-moved'")
    lost("x-recent", 5)
    lost("x-recent-begun", 5, recorded=False)
    lost("x-under-way", 1, recorded=False)

    expected = {"x-blocked", "x-begun", "x-recent", "x-recent-begun"}
    env = {"BEADS_DIR": str(beads.workspace.beads_dir), "BEADS_ACTOR": "ann"}
    release = ["release", "--outcome", "unknown", "--since", "2h", "--json"]
    for arguments in (release, [*release, "--yes"]):
        before = beads.rows()
        capsys.readouterr()
        assert main.run(arguments, env) == 0
        assert {json.loads(line)["bead"] for line in capsys.readouterr().out.splitlines()} == expected
        changed = {bead for bead, row in beads.rows().items() if row != before[bead]}
        assert changed == (expected if "--yes" in arguments else set())
    for bead in expected:
        assert beads.row(bead)["status"] == "open" and record(beads, bead).outcome is None
        assert beads.notes(bead)[-1] == notes.released("ann")
    clock.passed = timedelta()
    assert {bead.id for bead in beads.store.eligible.first("agent", clock(), None)} == expected
    assert main.run(release, env) == 0 and not capsys.readouterr().out


def test_while_the_service_is_away_nothing_is_decided(
    beads: Beads, relay: Relay, backend: agents.Backend, dispatch: Dispatcher, clock: Clock
) -> None:
    """Neither found nor never started."""
    beads.add("x-1")
    relay.behaviour = relay.get_behaviour = hangs_up
    if isinstance(relay.service, agent_servers.A2AService):
        relay.get_behaviour = passes_on  # it is asked for its load first
    assert kinds(dispatch.run_once()) == [OutcomeUnknown]
    relay.get_behaviour = hangs_up
    clock.passed += timedelta(minutes=5)
    assert reap(beads, clock, backend) == ReapResult()
    assert record(beads, "x-1").outcome == UNKNOWN and beads.row("x-1")["status"] == "in_progress"


@pytest.mark.parametrize("workspace", ["1.3.0"], indirect=True)
def test_of_many_lost_answers_each_bead_gets_exactly_one_job(
    beads: Beads, relay: Relay, backend: agents.Backend, dispatch: Dispatcher, clock: Clock
) -> None:
    """By the service's own list, whether the request or its answer was lost."""
    names = [f"x-{number}" for number in range(LOST)]
    beads.insert(names, acceptance_criteria="It works.", title="A bead")
    seeded = random.Random(20)
    relay.behaviour = lambda handler: seeded.choice((hangs_up, loses_the_answer))(handler)
    for _ in names:
        assert kinds(dispatch.run_once()) == [OutcomeUnknown]
        clock.passed += timedelta(hours=1)  # the hold's end
    relay.behaviour = passes_on
    started = relay.service.beads()
    assert LOST / 4 < len(started) < LOST and len(set(started)) == len(started)

    result = reap(beads, clock, backend)
    # JobSink cannot tell one that was never started, and starts it.
    found = names if isinstance(relay.service, agent_servers.JobSinkService) else started
    assert Counter(result.found) == Counter(found)
    assert Counter(result.reopened) == Counter(names) - Counter(found) and not result.blocked + result.left_alone
    outcomes = dispatch.run_once()
    assert Counter(kinds(outcomes)) == Counter([Dispatched] * len(result.reopened) + [NothingEligible])

    assert Counter(relay.service.beads()) == Counter(names)
    jobs = {record(beads, name).job for name in names}
    assert len(jobs) == LOST and None not in jobs
    assert reap(beads, clock, backend) == ReapResult()
