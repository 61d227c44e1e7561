"""Lost answers, from the claim to the job: dispatch and reap on a real Dolt, with services that keep a list of jobs."""

import os
import random
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import pytest

from beads_dispatch import agents, notes, reaper
from beads_dispatch.bead import UNKNOWN
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
