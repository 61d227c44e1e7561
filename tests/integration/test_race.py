"""Eight processes and the same beads: exactly one claim, one POST each."""

import collections
import multiprocessing
from datetime import UTC, datetime

import pytest

from beads_dispatch import settings, store
from beads_dispatch.agents import beadboard
from beads_dispatch.dispatcher import Dispatcher
from tests import support
from tests.conftest import Beads

PROCESSES = 8
BEADS = 12  # tools.bench.race takes 200


def _compete(dolt: settings.DoltSettings, url: str, barrier: object) -> None:
    dispatch = Dispatcher(
        store.Store(dolt),
        beadboard.BeadBoard(settings.AgentSettings(url, f"{url}/health")),
        settings.DispatchLimits(max_in_flight=10_000),
        lambda: datetime.now(UTC),
        lambda _: None,
    )
    barrier.wait()  # type: ignore[attr-defined]
    for _ in range(5):  # a pass ends when all that is left was lost to others
        dispatch.run_once()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # fork beside the servers' threads
def test_eight_dispatchers_post_each_bead_once(beads: Beads, agent: support.Agent) -> None:
    """A claim excludes: whoever loses posts nothing and leaves no note."""
    names = [beads.add(f"x-{number:03}") for number in range(BEADS)]
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(PROCESSES)
    workers = [context.Process(target=_compete, args=(beads.dolt, agent.url, barrier)) for _ in range(PROCESSES)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
    assert [worker.exitcode for worker in workers] == [0] * PROCESSES
    assert collections.Counter(agent.posts) == dict.fromkeys(names, 1)
    for name in names:
        assert [note.split(" ")[0] for note in beads.notes(name)] == ["auto-dispatcher", "dispatched:"]
        assert beads.row(name)["status"] == "in_progress"
