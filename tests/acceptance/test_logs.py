"""What the dispatch function logs of a pass, read from its process."""

import pathlib
from typing import Any

import pytest

from local.system import Ports, System
from tests.conftest import Beads
from tests.support import json_lines, wait_for
from tools.servers import Agent, Behaviour, answers, job

AGENT_FAILED = "agent failed (HTTP 502); dispatch is held for 30 s, {bead} is open again"


@pytest.mark.parametrize(
    ("behaviour", "level", "message"),
    [(job, "info", "dispatched 1 ({bead}); queue empty"), (answers(502), "warning", AGENT_FAILED)],
    ids=["accepted", "failed"],
)
def test_the_line_of_a_pass(
    beads: Beads, agent: Agent, tmp_path: pathlib.Path, behaviour: Behaviour, level: str, message: str
) -> None:
    """It states what the pass did to which bead; where the agent failed it is a warning."""
    agent.behaviour = behaviour
    with System(beads.dolt, agent.url, Ports.free(), tmp_path, tick_seconds={"dispatch": 3600, "reap": 3600}) as system:
        bead = beads.workspace.create("Logged", "ok")
        beads.workspace.run("assign", bead, "agent")
        log = system.processes["dispatch"].log

        def line() -> dict[str, Any] | None:
            lines = json_lines(log)
            return next((line for line in lines if line.get("action") == "pass" and bead in line["message"]), None)

        found = wait_for(line, "the pass in the log")
    assert (found["level"], found["message"]) == (level, message.format(bead=bead))
    assert found["dispatched" if level == "info" else "agent_failed"] == [bead]
