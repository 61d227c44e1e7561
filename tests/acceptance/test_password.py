"""The password of Dolt's user is replaced under the running system."""

import pathlib
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta

from beads_dispatch import events, settings
from feeder.emitter import LONGEST_DELAY_SECONDS
from local import processes
from local.dolt import DoltServer
from local.system import Ports, System
from tests import support
from tests.acceptance import steady_feeder
from tests.conftest import Beads, make_workspace
from tests.support import wait_for
from tools import toolchain

# 30, less the difference between the feeder's longest delay, give or take a fifth, and this test's.
SOON_SECONDS = 30.0 - (1.2 * LONGEST_DELAY_SECONDS - steady_feeder.DELAY_SECONDS)


def post(url: str, event_type: str) -> int:
    """The status of the answer to a request of a pass."""
    headers, body = events.to_http(events.Event(f"id-{time.monotonic_ns()}", "/test", event_type, data={}))
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, dict(headers)), timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as exc:
        return exc.code


def test_a_password_that_is_replaced_is_used_within_seconds(tmp_path: pathlib.Path) -> None:
    """Altered first, the file later, and every connection is lost between: feeder, dispatch and reap go on within 30 s,
    however long the feeder has been refused. Nothing is restarted."""
    server = DoltServer(toolchain.dolt(), tmp_path / "dolt", processes.free_port())
    server.start()
    secret = tmp_path / "password"
    secret.write_text("first")
    try:
        workspace = make_workspace("1.3.0", server, tmp_path / "workspace")
        dolt, beads = settings.dolt({"BEADS_DIR": str(workspace.beads_dir)}), Beads(workspace)
        beads.sql("CREATE USER 'rotated'@'%%' IDENTIFIED BY 'first'")
        beads.sql("GRANT ALL ON *.* TO 'rotated'@'%%'")
        user = {"DOLT_USER": "rotated", "DOLT_PASSWORD": "", "DOLT_PASSWORD_FILE": str(secret)}
        with (
            support.closing(support.Agent()) as agent,
            System(
                dolt, agent.url, Ports.free(), tmp_path, environment={**user, "MAX_IN_FLIGHT": "9"},
                tick_seconds={"dispatch": 3600, "reap": 3600}, feeder_module=steady_feeder.__name__,
            ) as system,
        ):  # fmt: skip
            beads.add("x-1")
            agent.wait_for("x-1", support.PATIENCE_SECONDS)
            beads.sql("ALTER USER 'rotated'@'%%' IDENTIFIED BY 'second'")
            beads.store.close()
            server.kill()
            server.start()
            log = system.processes["feeder"].log
            wait_for(lambda: "error 1045" in log.read_text(), "the feeder's login is refused")
            ports = {"dispatch": system.ports.dispatch, "reap": system.ports.reap}
            requests = {"dispatch": events.DISPATCH_REQUESTED, "reap": events.REAP_REQUESTED}
            assert [post(f"http://127.0.0.1:{ports[name]}/", requests[name]) for name in ports] == [503, 503]
            secret.write_text("second")
            began = time.monotonic()
            beads.add("x-2")
            long_ago = (datetime.now(UTC) - timedelta(hours=2)).replace(tzinfo=None)
            beads.add("x-3", status="in_progress", updated_at=long_ago)
            assert post(f"http://127.0.0.1:{ports['reap']}/", requests["reap"]) == 204
            assert beads.row("x-3")["status"] == "blocked"
            agent.wait_for("x-2", SOON_SECONDS)
            published = '"action": "feed-up"'
            wait_for(lambda: published in log.read_text(), "the feed goes on", began + SOON_SECONDS - time.monotonic())
            system.require_running()
            assert "Traceback" not in "".join(process.log.read_text() for process in system.processes.values())
        beads.store.close()
    finally:
        server.stop()
