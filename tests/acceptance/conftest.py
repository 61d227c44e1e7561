"""The whole system as people run it: real processes, the real bd, the stand-in agent."""

import pathlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from beads_dispatch import events
from local.stand_in_agent import StandInAgent
from local.system import Ports, System
from tests.conftest import Beads
from tests.support import wait_for
from tools import toolchain


@dataclass
class Running:
    """A running system on an empty workspace, with the events that passed its router."""

    system: System
    beads: Beads
    agent: StandInAgent
    routed: list[events.Event]

    def posts(self, bead: str) -> int:
        return sum(name == bead for _, name in self.agent.received)

    def wait_until_recorded(self, bead: str) -> None:
        """Wait until dispatch has recorded the bead's job, which may be a moment after the agent closed it."""
        wait_for(lambda: any(note.startswith("dispatched: ") for note in self.beads.notes(bead)), "the job's record")


def programs() -> dict[str, str]:
    """The environment that `make up` gives to `python -m local`."""
    return {"DOLT": str(toolchain.dolt()), "BD": str(toolchain.bd())}


@pytest.fixture
def running(beads: Beads, tmp_path: pathlib.Path) -> Iterator[Running]:
    routed: list[events.Event] = []
    workspace = beads.workspace
    with (
        StandInAgent(workspace.folder, workspace.bd, work_seconds=0.3, status_cache_seconds=0.2) as agent,
        # Ticks only where a test sends them.
        System(
            beads.dolt, agent.url, Ports.free(), tmp_path, observe=routed.append,
            tick_seconds={"dispatch": 3600, "reap": 3600},
        ) as system,
    ):  # fmt: skip
        yield Running(system, beads, agent, routed)
