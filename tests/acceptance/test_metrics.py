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
from local import processes
from local.dolt import DoltServer
from local.stand_in_agent import StandInAgent
from local.system import Ports, System
from tests.acceptance.conftest import Running
from tests.acceptance.test_system import tick
from tests.conftest import make_workspace
from tests.integration.test_metrics import Samples, samples
from tests.support import wait_for
from tools import toolchain


def get(port: int) -> Samples:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return samples(response.read())


def test_a_bead_is_seen_on_its_way(running: Running) -> None:
    """Three changes, at least one request by the feed, a tick by its name, and an empty queue in the end."""
    port = running.system.ports.feeder
    before = get(port)
    assert "beads_feeder_last_tick_timestamp_seconds" not in "".join(before)
    assert before["beads_feeder_connected"] in (0, 1) and before["beads_feeder_dolt_up"] == 1
    bead = running.beads.workspace.create("do it", "ok")
    running.beads.workspace.run("assign", bead, "agent")
    wait_for(lambda: running.beads.row(bead)["status"] == "closed", "closed", 30)
    tick(running, "reap", suspend="true")
    found = wait_for(
        lambda: (now := get(port))['beads_feeder_changes_total{recovered="false"}'] == 3
        and now["beads_feeder_lag_transactions"] == 0 and now["beads_waiting"] == 0 and now,
        "three published changes",
    )  # fmt: skip
    assert found['beads_feeder_requests_total{cause="change",function="dispatch"}'] >= 1
    assert abs(found['beads_feeder_last_tick_timestamp_seconds{function="reap"}'] - time.time()) < 60
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
        urllib.request.urlopen(request, timeout=10)
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
            assert get(port)["beads_feeder_dolt_up"] == 1
            server.kill()
            wait_for(lambda: get(port)["beads_feeder_dolt_up"] == 0, "the outage", 20)
            found = get(port)
            assert "beads_waiting" not in found and "beads_feeder_position_age_seconds" in found
            server.start()
            wait_for(lambda: get(port)["beads_feeder_dolt_up"] == 1, "Dolt's answer", 40)
            assert server._process is not None
            os.kill(server._process.pid, signal.SIGSTOP)
            try:
                wait_for(lambda: get(port)["beads_feeder_dolt_up"] == 0, "the silence", 20)
                started = time.monotonic()
                with ThreadPoolExecutor(30) as pool:
                    assert len(list(pool.map(get, [port] * 90))) == 90
                assert time.monotonic() - started < 10  # one after the other, each waiting for Dolt: over 70
                alive = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                alive.request("GET", "/healthz")
                assert alive.getresponse().status == 200
                alive.close()
            finally:
                os.kill(server._process.pid, signal.SIGCONT)
            wait_for(lambda: get(port)["beads_feeder_dolt_up"] == 1, "Dolt's answer", 60)
    finally:
        server.stop()
