"""No bead is lost, none runs twice and every change event arrives while every part is replaced under load: 500
assignments, which go on until everything is Ready again.

The upgrade needs another version: PREVIOUS is a checkout of it, and PREVIOUS_IMAGE its image, which the cluster has.
"""

import os
import pathlib
from collections.abc import Iterator

import pytest

from beads_dispatch import store
from beads_dispatch.store.layout import VERSION
from tests.cluster import load
from tests.cluster.load import System, check_beads, check_events, under_load
from tools import cluster

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with load.running(tmp_path_factory.mktemp("rollout")) as system:
        yield system


def test_feeder_and_functions_are_rolled_out(system: System) -> None:
    """The feeder's pod is replaced, and each function gets another revision, whose first pods end within passes."""
    revisions = system.namespace.get("revisions")["items"]

    def roll_out() -> None:
        system.namespace.kubectl("rollout", "restart", "deployment/feeder")
        for name in ("dispatch", "reap"):
            system.namespace.kn("service", "update", name, "--env", "ROLLED_OUT=again", "--no-wait")
        cluster.until_ready(system.namespace)

    names = under_load(system, "roll", roll_out)
    check_beads(system, names)
    check_events(system, names, "rolled out")
    assert len(system.namespace.get("revisions")["items"]) == len(revisions) + 2


def test_an_older_version_is_upgraded(tmp_path: pathlib.Path) -> None:
    """With the database's users and manifests of each version: its tables in `beads_dispatch` go on in today's."""
    checkout, image = os.environ.get("PREVIOUS", ""), os.environ.get("PREVIOUS_IMAGE", "")
    if not checkout or not image:
        pytest.skip("needs PREVIOUS and PREVIOUS_IMAGE")
    if not (pathlib.Path(checkout) / "knative" / "overlays" / os.environ.get("BROKER", "")).exists():
        pytest.skip("that version has no overlay for this Broker")
    with load.running(tmp_path, image, pathlib.Path(checkout) / "knative") as system:
        older = layout(system)
        names = under_load(system, "upgrade", lambda: system.installation.apply(cluster.image()))
        check_beads(system, names)
        check_events(system, names, "upgraded")
        print(f"upgraded from layout {older} to {layout(system)}")
        assert older < layout(system) == VERSION


def layout(system: System) -> int:
    """The version of the tables."""
    state = store.STATE_DATABASE
    if not system.beads.sql(f"SHOW TABLES FROM {state} LIKE 'layout'"):
        return 1
    return int(system.beads.sql(f"SELECT version FROM {state}.layout")[0]["version"])
