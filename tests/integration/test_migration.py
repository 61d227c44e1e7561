"""bd migrates its schema under the running system: nothing has to be restarted."""

import contextlib
import pathlib
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from beads_dispatch import events, reaper, store
from beads_dispatch.bead import Bead
from beads_dispatch.outcomes import Dispatched
from beads_dispatch.settings import DispatchLimits
from local.dolt import DoltServer
from local.workspace import Workspace
from tests import support
from tests.conftest import Beads, make_workspace
from tests.integration.test_feed import Running
from tools import toolchain, world

SOON_SECONDS = 10.0  # after the migration has ended


def test_a_schema_that_is_migrated_is_obeyed_within_seconds(
    dolt_server: DoltServer, sink: support.Sink, tmp_path: pathlib.Path
) -> None:
    """From bd 1.0.2 to 1.3.0, on connections and a binlog that were open before: published, a pass requested,
    dispatched with row_lock and is_blocked, and reaped."""
    old = make_workspace("1.0.2", dolt_server, tmp_path / "workspace")
    beads = Beads(old)
    beads.empty()
    long_ago = (datetime.now(UTC) - timedelta(hours=2)).replace(tzinfo=None)
    with (
        support.closing(support.Agent()) as agent,
        world.dispatcher(beads.dolt, agent.url) as dispatch,
        contextlib.closing(store.Store(beads.dolt)) as reaping,
        support.closing(Running(beads.dolt, sink.url)) as running,
    ):

        def reap() -> list[str]:
            return reaper.run_once(reaping, DispatchLimits(), datetime.now(UTC)).blocked

        running.wait_until_started(beads)
        beads.add("x-1")
        beads.add("r-1", status="in_progress", updated_at=long_ago)
        beads.commit("two beads")
        assert isinstance(dispatch.run_once()[0], Dispatched) and reap() == ["r-1"]
        support.wait_for(lambda: sink.about("x-1") and sink.about("r-1"), "the changes before")
        assert not dispatch.store._session.schema.row_lock
        Workspace(toolchain.bd("1.3.0"), old.folder).run("migrate", "schema")
        deadline = time.monotonic() + SOON_SECONDS
        requested = len(sink.of_type(events.DISPATCH_REQUESTED))
        beads.add("x-2")
        beads.add("r-2", status="in_progress", updated_at=long_ago)
        beads.commit("two more beads")

        def soon(condition: Callable[[], object], what: str) -> None:
            support.wait_for(condition, what, deadline - time.monotonic())

        def dispatched_and_reaped() -> bool:
            # A pass that begins with the schema of before may be refused a statement: its event is delivered again.
            for run_pass in (dispatch.run_once, reap):
                with contextlib.suppress(store.StoreError):
                    run_pass()
            return "x-2" in agent.posts and beads.row("r-2")["status"] == "blocked"

        soon(lambda: len(sink.of_type(events.DISPATCH_REQUESTED)) > requested, "a pass is requested")
        soon(lambda: sink.about("x-2") and sink.about("r-2"), "the changes after it are published")
        soon(dispatched_and_reaped, "the second beads are dispatched and reaped")
        soon(lambda: dispatch.store._session.schema.is_blocked, "the new schema is read")
        assert not sink.about("x-2")[0].extensions.get("recovered") and len(sink.about("x-1")) == 2
        found: Bead | None = dispatch.store.claims.read_back("x-2")
        assert found is not None and found.record.job
        beads.add("x-3")
        dispatch.run_once()
        assert beads.row("x-3")["row_lock"]
    beads.store.close()
