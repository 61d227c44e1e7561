"""Several agents in one system: real processes, an AGENTS_FILE, agents that hang and jobs that fail."""

import pathlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from beads_dispatch import events
from local.stand_in_agent import StandInAgent
from local.system import Ports, System
from tests import support
from tests.conftest import Beads
from tests.support import wait_for
from tools.servers import stalls

AGENTS = """\
[agents.agent]
url = "{well}"
jobs_url = "{well}"

[agents."agent:other"]
url = "{other}"
jobs_url = "{other}"
timeout_seconds = 60
max_in_flight = 4
"""


@dataclass
class Team:
    """A running system with two agents: the stand-in, and one that answers as a test says."""

    system: System
    beads: Beads
    other: support.Agent
    routed: list[events.Event]


@pytest.fixture
def team(beads: Beads, agent: support.Agent, tmp_path: pathlib.Path) -> Iterator[Team]:
    workspace, path = beads.workspace, tmp_path / "agents.toml"
    routed: list[events.Event] = []
    with StandInAgent(workspace.folder, workspace.bd, work_seconds=0.3, status_cache_seconds=0.2) as well:
        path.write_text(AGENTS.format(well=well.url, other=agent.url))
        with System(
            beads.dolt, "http://127.0.0.1:9", Ports.free(), tmp_path, environment={"AGENTS_FILE": str(path)},
            observe=routed.append, tick_seconds={"dispatch": 3600, "reap": 3600},
        ) as system:  # fmt: skip
            yield Team(system, beads, agent, routed)


def test_an_agent_that_hangs_delays_no_other(team: Team) -> None:
    """Its POST is in flight; the other's bead is done meanwhile, and each request names its agent."""
    team.other.behaviour = stalls
    slow = team.beads.workspace.create("slow", "ok", "--assignee", "agent:other")
    wait_for(lambda: slow in team.other.posts, "the POST that hangs")
    quick = team.beads.workspace.create("quick", "ok", "--assignee", "agent")
    wait_for(lambda: team.beads.workspace.show(quick)["status"] == "closed", "the other agent's bead")
    assert team.beads.row(slow)["status"] == "in_progress" and team.other.posts == [slow]
    requested = {event.extensions["agent"] for event in team.routed if event.type == events.DISPATCH_REQUESTED}
    assert requested == {"agent:other", "agent"}


def test_a_job_that_is_lost_reopens_its_bead_without_a_tick(team: Team) -> None:
    """The feeder asks the backend while jobs run, and requests reap; then the bead has a retry delay."""
    bead = team.beads.workspace.create("lost", "ok", "--assignee", "agent:other")
    wait_for(lambda: any(note.startswith("dispatched: ") for note in team.beads.notes(bead)), "the job's record")
    team.other.phase = ""
    wait_for(lambda: team.beads.row(bead)["status"] == "open", "the bead open again")
    assert "the service does not know the job" in team.beads.notes(bead)[-1]
    job = next(event for event in team.routed if event.type == events.REAP_REQUESTED)
    assert (job.extensions["agent"], job.extensions["cause"]) == ("agent:other", "job")
    assert team.other.posts == [bead]


def test_nothing_is_asked_while_nothing_runs(team: Team) -> None:
    """Zero requests to a backend without a job."""
    team.beads.workspace.create("nobody's", "ok")
    bead = team.beads.workspace.create("quick", "ok", "--assignee", "agent")
    wait_for(lambda: team.beads.workspace.show(bead)["status"] == "closed", "the bead closed")
    assert team.other.asked == [] and team.other.posts == []
