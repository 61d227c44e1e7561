"""bd migrates its schema under the running system: nothing has to be restarted."""

import contextlib
import pathlib

from beads_dispatch.bead import Bead
from beads_dispatch.outcomes import Dispatched
from beads_dispatch.store import StoreError
from local.dolt import DoltServer
from local.workspace import Workspace
from tests import support
from tests.conftest import Beads, make_workspace
from tools import toolchain, world


def test_a_schema_that_is_migrated_is_obeyed_within_seconds(dolt_server: DoltServer, tmp_path: pathlib.Path) -> None:
    """From bd 1.0.2 to 1.3.0, on connections that were open before: dispatched, with row_lock and is_blocked."""
    old = make_workspace("1.0.2", dolt_server, tmp_path / "workspace")
    beads = Beads(old)
    beads.empty()
    with support.closing(support.Agent()) as agent, world.dispatcher(beads.dolt, agent.url) as dispatch:
        beads.add("x-1")
        beads.commit("a bead")
        assert isinstance(dispatch.run_once()[0], Dispatched)
        assert not dispatch.store._session.schema.row_lock
        Workspace(toolchain.bd("1.3.0"), old.folder).run("migrate", "schema")
        beads.add("x-2")
        beads.commit("another bead")

        def dispatched() -> bool:
            # A pass that begins with the schema of before may be refused a statement: its event is delivered again.
            with contextlib.suppress(StoreError):
                dispatch.run_once()
            return "x-2" in agent.posts

        support.wait_for(dispatched, "the second bead is dispatched")
        found: Bead | None = dispatch.store.claims.read_back("x-2")
        assert found is not None and found.record.job
        support.wait_for(lambda: dispatch.store._session.schema.is_blocked, "the new schema is read")
        beads.add("x-3")
        dispatch.run_once()
        assert beads.row("x-3")["row_lock"]
    beads.store.close()
