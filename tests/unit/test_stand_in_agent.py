"""The stand-in agent service's HTTP answers that need no bead. What it does to beads is tested on a real Dolt."""

import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from local import wsgi_server
from local.stand_in_agent import StandInAgent, main
from tests import support


@pytest.fixture
def called(tmp_path: pathlib.Path) -> pathlib.Path:
    """A file that exists once bd was called."""
    return tmp_path / "called"


@pytest.fixture
def bd(tmp_path: pathlib.Path, called: pathlib.Path) -> pathlib.Path:
    """In bd's place: a program that only says it was called, and fails as bd does for a bead that is not there."""
    program = tmp_path / "bd"
    program.write_text(f"#!/bin/sh\ntouch '{called}'\necho 'no issue found' >&2\nexit 1\n")
    program.chmod(0o755)
    return program


@pytest.fixture
def service(tmp_path: pathlib.Path, bd: pathlib.Path) -> Iterator[StandInAgent]:
    with StandInAgent(tmp_path, bd) as service:
        yield service


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b"{}", b'"bd-1"', b'{"taskId": ""}', b'{"taskId": 7}'])
def test_a_post_that_names_no_bead_is_refused(service: StandInAgent, called: pathlib.Path, body: bytes) -> None:
    """Bad JSON and a missing taskId are 400 with an error, and bd is not asked."""
    refused = httpx.post(f"{service.url}/api/agent-dispatch", content=body)

    assert refused.status_code == 400
    assert refused.json()["error"]
    assert not called.exists()
    assert service.received == []


@pytest.mark.parametrize("bead", ["bd-1", "--help", "nul\0byte"])
def test_a_bead_that_is_not_there_is_refused(service: StandInAgent, bead: str) -> None:
    """What bd does not know is 400, whatever it looks like; that it was asked for is kept."""
    refused = httpx.post(f"{service.url}/api/agent-dispatch", json={"taskId": bead})

    assert refused.status_code == 400
    assert "not found" in refused.json()["error"]
    assert [asked for _, asked in service.received] == [bead]


def test_an_idle_service_says_so(service: StandInAgent) -> None:
    """BeadBoard says not busy, and /health counts nothing."""
    assert httpx.get(f"{service.url}/api/agent-status").json() == {"busy": False}
    assert httpx.get(f"{service.url}/health").json() == {
        "status": "ok", "busy": False, "active": 0, "queued": 0, "capacity": 1,
    }  # fmt: skip


@pytest.mark.parametrize("path", ["/jobs/unknown", "/jobs/", "/", "/api/agent-dispatch"])
def test_what_is_not_there_is_404(service: StandInAgent, path: str) -> None:
    """Unknown jobs and unknown routes are 404."""
    assert httpx.get(f"{service.url}{path}").status_code == 404


def test_a_port_in_use_is_one_line_and_exit_1(
    service: StandInAgent, bd: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who starts it by hand reads what to do, not a traceback."""
    (tmp_path / ".beads").mkdir()
    port = service.url.rsplit(":", 1)[1]

    done = subprocess.run(
        [sys.executable, "-m", "local.stand_in_agent", "--bd", bd, "--workspace", tmp_path, "--port", port],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"127.0.0.1:{port}" in done.stderr
    with pytest.raises(wsgi_server.CannotListen):
        StandInAgent(tmp_path, bd, port=int(port))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--bd", "no-such-program"], "--bd"), (["--bd", sys.executable, "--workspace", "/dev"], "--workspace")],
)
def test_a_start_that_cannot_work_says_what_to_set(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    """bd and the workspace are looked for at the start, not at the first bead."""
    assert main(arguments) == 1
    assert words in capsys.readouterr().err


def test_sigterm_ends_it_cleanly(bd: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A stop is exit 0, without a traceback."""
    (tmp_path / ".beads").mkdir()
    program = [sys.executable, "-m", "local.stand_in_agent"]
    command = [*program, "--bd", str(bd), "--workspace", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as service:
        assert service.stderr is not None
        started = support.wait_for(service.stderr.readline, "it starts", 60)
        assert "listening on http://127.0.0.1:" in started
        service.send_signal(signal.SIGTERM)
        assert service.wait(60) == 0
        assert service.stderr.read() == ""
