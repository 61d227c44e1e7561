"""Nothing is lost and nothing runs twice while every part is replaced under load: 500 assignments."""

from collections.abc import Iterator

import pytest

from local.dolt import DoltServer
from tests.cluster import load
from tests.cluster.load import System, check_beads, under_load
from tools import cluster

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def system(dolt_server: DoltServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with load.running(dolt_server, tmp_path_factory.mktemp("rollout"), "rollout") as system:
        yield system


def test_feeder_and_functions_are_rolled_out(system: System) -> None:
    """The feeder's pod is replaced, and each function gets another revision, whose first pods end within passes."""
    revisions = system.namespace.get("revisions")["items"]

    def roll_out() -> None:
        system.namespace.kubectl("rollout", "restart", "deployment/feeder")
        for name in ("dispatch", "reap"):
            system.namespace.kn("service", "update", name, "--env", "ROLLED_OUT=again", "--no-wait")

    names = under_load(system, "roll", roll_out)
    check_beads(system, names)
    cluster.until_ready(system.namespace)
    assert len(system.namespace.get("revisions")["items"]) == len(revisions) + 2
