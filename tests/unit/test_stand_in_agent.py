"""The stand-in agent's HTTP answers that need no bead. What it does to beads is tested on a real Dolt."""

import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from local import wsgi_server
from local.stand_in_agent import StandInAgent, main
from tests import support


@pytest.fixture
def called(tmp_path: pathlib.Path) -> pathlib.Path:
    """A file that exists after bd was called."""
    return tmp_path / "called"


@pytest.fixture
def bd(tmp_path: pathlib.Path, called: pathlib.Path) -> pathlib.Path:
    """In bd's place: a program that notes that it was called, and fails as bd does for a missing bead."""
    program = tmp_path / "bd"
    program.write_text(f"#!/bin/sh\ntouch '{called}'\necho 'no issue found' >&2\nexit 1\n")
    program.chmod(0o755)
    return program


@pytest.fixture
def agent(tmp_path: pathlib.Path, bd: pathlib.Path) -> Iterator[StandInAgent]:
    with StandInAgent(tmp_path, bd) as agent:
        yield agent


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b"{}", b'"bd-1"', b'{"taskId": ""}', b'{"taskId": 7}'])
def test_a_post_that_names_no_bead_is_refused(agent: StandInAgent, called: pathlib.Path, body: bytes) -> None:
    """Bad JSON and a missing taskId are 400 with an error, and bd is not asked."""
    refused = support.post(f"{agent.url}/api/agent-dispatch", content=body)

    assert refused.status_code == 400
    assert refused.json()["error"]
    assert not called.exists()
    assert agent.received == []


@pytest.mark.parametrize("bead", ["bd-1", "--help", "nul\0byte"])
def test_a_missing_bead_is_refused(agent: StandInAgent, bead: str) -> None:
    """An id that bd does not know is 400, whatever it looks like; the POST is recorded."""
    refused = support.post(f"{agent.url}/api/agent-dispatch", json={"taskId": bead})

    assert refused.status_code == 400
    assert "not found" in refused.json()["error"]
    assert [asked for _, asked in agent.received] == [bead]


def test_an_idle_agent_is_not_busy(agent: StandInAgent) -> None:
    """BeadBoard answers not busy, and /health counts nothing."""
    assert support.get(f"{agent.url}/api/agent-status").json() == {"busy": False}
    assert support.get(f"{agent.url}/health").json() == {
        "status": "ok", "busy": False, "active": 0, "queued": 0, "capacity": 1,
    }  # fmt: skip


@pytest.mark.parametrize("path", ["/jobs/unknown", "/jobs/", "/", "/api/agent-dispatch"])
def test_unknown_jobs_and_routes_are_404(agent: StandInAgent, path: str) -> None:
    """404, not an error of another kind."""
    assert support.get(f"{agent.url}{path}").status_code == 404


def test_a_port_in_use_is_one_line_and_exit_1(
    agent: StandInAgent, bd: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person who starts it reads what to do, not a traceback."""
    (tmp_path / ".beads").mkdir()
    port = agent.url.rsplit(":", 1)[1]

    done = subprocess.run(
        [sys.executable, "-m", "local.stand_in_agent", "--bd", bd, "--workspace", tmp_path, "--port", port],
        capture_output=True,
        text=True,
        timeout=support.PATIENCE_SECONDS,
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
def test_a_start_that_cannot_work_names_the_option(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    """bd and the workspace are checked at the start, not at the first bead."""
    assert main(arguments) == 1
    assert words in capsys.readouterr().err


def test_sigterm_ends_it_cleanly(bd: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A stop is exit 0, without a traceback."""
    (tmp_path / ".beads").mkdir()
    program = [sys.executable, "-m", "local.stand_in_agent"]
    command = [*program, "--bd", str(bd), "--workspace", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as agent:
        assert agent.stderr is not None
        started = support.wait_for(agent.stderr.readline, "it starts")
        assert "listening on http://127.0.0.1:" in started
        assert not started.startswith("{")
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(support.PATIENCE_SECONDS) == 0
        assert agent.stderr.read() == ""
