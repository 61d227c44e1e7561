"""The command with several agents, on a real Dolt with real HTTP agents."""

import json
import pathlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from beads_dispatch import store
from beads_dispatch.cli import main
from local import processes
from tests import support
from tests.conftest import Beads

AGENTS = """\
[agents.agent]
url = "http://127.0.0.1:{nobody}"

[agents."agent:docs"]
url = "{docs}"
jobs_url = "{docs}"
max_in_flight = 4
"""

Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ask(
    beads: Beads, agent: support.Agent, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Ask]:
    """A command line with two agents: nobody listens at the first's address."""
    path = tmp_path / "agents.toml"
    path.write_text(AGENTS.format(nobody=processes.free_port(), docs=agent.url))
    env = {"BEADS_DIR": str(beads.workspace.beads_dir), "AGENTS_FILE": str(path)}

    def run(*words: str) -> tuple[int, str, str]:
        status = main.run(words, env)
        out, err = capsys.readouterr()
        return status, out, err

    yield run


def test_agents_lists_each_with_its_backend_and_hold(ask: Ask, beads: Beads, agent: support.Agent) -> None:
    """Reachable or why not, running, limit, hold, last job."""
    agent.active = 2
    beads.store.control.set_hold(
        "agent", store.Hold(), store.Hold(1, datetime.now(UTC) + timedelta(minutes=4), "agent service: HTTP 502")
    )
    beads.add("x-1", assignee="agent:docs")
    assert ask("dispatch", "x-1")[0] == 0
    status, out, _ = ask("agents", "--json")
    first, docs = json.loads(out)["agents"]
    assert (status, first["name"], first["reachable"], first["held_reason"]) == (
        0, "agent", False, "agent service: HTTP 502",
    )  # fmt: skip
    assert "ConnectError" in first["problem"] and first["last_job"] is None
    assert (docs["name"], docs["reachable"], docs["running"], docs["in_progress"], docs["max_in_flight"]) == (
        "agent:docs", True, 2, 1, 4,
    )  # fmt: skip
    assert docs["last_job"] and docs["held_until"] is None
    text = ask("agents")[1]
    assert "agent (beadboard): does not answer: ConnectError" in text
    assert "agent:docs (beadboard): answers, 2 running there" in text


def test_a_bead_is_dispatched_by_hand_to_its_own_agent(ask: Ask, beads: Beads, agent: support.Agent) -> None:
    """Its limits and its backend count, not the first agent's."""
    beads.add("x-1", assignee="agent:docs")
    assert ask("dispatch", "x-1")[0] == 0
    assert agent.posts == ["x-1"]
    beads.add("x-2")
    status, _, err = ask("dispatch", "x-2")
    assert status == 1 and "unknown whether the agent is busy" in err


def test_explain_of_an_unknown_agent_names_the_agents(ask: Ask, beads: Beads) -> None:
    """A typing error in the assignee is the bead's first unmet condition."""
    beads.add("x-1", assignee="agent:dcos")
    verdict = json.loads(ask("explain", "x-1", "--json")[1])["verdict"]
    assert verdict == "it is assigned to agent:dcos, not to agent or agent:docs"


def test_explain_asks_the_bead_s_own_agent(ask: Ask, beads: Beads, agent: support.Agent) -> None:
    """Its slots are counted, its backend is asked."""
    beads.add("x-1", assignee="agent:docs")
    conditions = json.loads(ask("explain", "x-1", "--json")[1])["conditions"]
    slots = next(one for one in conditions if one["name"] == "slots")
    assert slots["holds"] is True and "0 of 4 slots taken" in slots["detail"]


def test_an_option_chooses_the_agent(ask: Ask) -> None:
    """And names those that there are where it does not."""
    status, _, err = ask("status", "--assignee", "agent:nobody")
    assert status == 1 and "the agents are agent, agent:docs" in err
    assert ask("status", "--assignee", "agent:docs")[0] == 0
    assert (
        json.loads(ask("status", "--assignee", "agent:docs", "--max-in-flight", "7", "--json")[1])["max_in_flight"] == 7
    )


def test_a_bad_file_is_refused_with_line_and_key(ask: Ask, tmp_path: pathlib.Path) -> None:
    """As at the start of every process."""
    (tmp_path / "agents.toml").write_text('[agents.agent]\nurl = "http://x"\nmax_in_fligth = 2\n')
    status, _, err = ask("agents")
    assert status == 1 and "line 3: agents.agent.max_in_fligth: expected max_in_flight" in err
