"""GET /metrics of the running feeder."""

import http.client
import os
import pathlib
import signal
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from beads_dispatch import settings
from feeder import metrics
from local import processes
from local.dolt import DoltServer
from local.stand_in_agent import StandInAgent
from local.system import Ports, System
from tests.acceptance.conftest import Running
from tests.acceptance.test_system import tick
from tests.conftest import make_workspace
from tests.integration.test_metrics import Samples, samples
from tests.support import PATIENCE_SECONDS, wait_for
from tools import toolchain


def get(port: int) -> Samples:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_SECONDS) as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return samples(response.read())


def get_all(port: int, **expected: float) -> Samples:
    """A scrape in which Dolt answered and those metrics have those values; waited for, as a scrape does not wait."""
    expected = {"beads_feeder_dolt_up": 1, **expected}
    found: Samples = wait_for(lambda: (now := get(port)).items() >= expected.items() and now, f"metrics {expected}")
    return found


def test_a_bead_is_seen_on_its_way(running: Running) -> None:
    """Three changes, at least one request by the feed, a tick by its name, and an empty queue in the end."""
    port = running.system.ports.feeder
    before = get_all(port)
    assert "beads_feeder_last_tick_timestamp_seconds" not in "".join(before)
    assert before["beads_feeder_connected"] in (0, 1)
    bead = running.beads.workspace.create("do it", "ok")
    running.beads.workspace.run("assign", bead, "agent")
    wait_for(lambda: running.beads.row(bead)["status"] == "closed", "closed")
    ticked = time.time()
    tick(running, "reap", suspend="true")
    requests = 'beads_feeder_requests_total{cause="change",function="dispatch"}'
    wait_for(lambda: get(port)[requests] >= 1, "a counted request")
    changes = {'beads_feeder_changes_total{recovered="false"}': 3.0, 'beads_waiting{agent="agent"}': 0}
    found = get_all(port, **changes, beads_feeder_lag_transactions=0)
    assert found[requests] >= 1
    assert ticked - 1 <= found['beads_feeder_last_tick_timestamp_seconds{function="reap"}'] <= time.time() + 1
    assert 'beads_feeder_last_tick_timestamp_seconds{function="dispatch"}' not in found
    assert found["beads_feeder_connected"] == 1 and found["process_resident_memory_bytes"] > 0


def test_a_tick_with_work_is_answered_with_a_request(running: Running) -> None:
    """It is the feeder's reply, and counted with cause=tick."""
    running.beads.add("x-1", status="in_progress")
    assert tick(running, "reap") == 202
    assert get(running.system.ports.feeder)['beads_feeder_requests_total{cause="tick",function="reap"}'] == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_metrics_are_only_read(running: Running, method: str) -> None:
    """405, as for the health checks."""
    request = urllib.request.Request(f"http://127.0.0.1:{running.system.ports.feeder}/metrics", method=method)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=PATIENCE_SECONDS)
    with refused.value:
        assert refused.value.code == 405


def test_while_dolt_is_down_or_hangs_scrapes_are_answered(tmp_path: pathlib.Path) -> None:
    """Always 200 and soon, also when many scrape at once; Dolt's metrics come back with it."""
    server = DoltServer(toolchain.dolt(), tmp_path / "dolt", processes.free_port())
    server.start()
    try:
        workspace = make_workspace("1.3.0", server, tmp_path / "workspace")
        dolt = settings.dolt({"BEADS_DIR": str(workspace.beads_dir)})
        with (
            StandInAgent(workspace.folder, workspace.bd) as agent,
            System(
                dolt, agent.url, Ports.free(), tmp_path, tick_seconds={"dispatch": 3600, "reap": 3600}
            ) as system,
        ):  # fmt: skip
            port = system.ports.feeder
            get_all(port)
            server.kill()
            wait_for(lambda: get(port)["beads_feeder_dolt_up"] == 0, "the outage")
            found = get(port)
            assert 'beads_waiting{agent="agent"}' not in found and "beads_feeder_position_age_seconds" in found
            server.start()
            get_all(port)
            assert server._process is not None
            os.kill(server._process.pid, signal.SIGSTOP)
            try:
                wait_for(lambda: get(port)["beads_feeder_dolt_up"] == 0, "the silence")
                started = time.monotonic()
                with ThreadPoolExecutor(30) as pool:
                    assert len(list(pool.map(get, [port] * 90))) == 90
                # If each waited for Dolt, they would take more than twice as long on the fastest machine.
                assert time.monotonic() - started < 90 * metrics.PATIENCE_SECONDS / 2
                alive = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
                alive.request("GET", "/healthz")
                assert alive.getresponse().status == 200
                alive.close()
            finally:
                os.kill(server._process.pid, signal.SIGCONT)
            get_all(port)
    finally:
        server.stop()
