"""The doors of the processes: curl as in the README, what is malformed, what is missing, what is in use."""

import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping

import pytest

from beads_dispatch import events
from local import processes
from local.processes import Process
from local.system import Ports
from tests.acceptance.conftest import Running
from tests.support import wait_for

ROOT = pathlib.Path(__file__).parents[2]
README_PORTS = Ports.counted_from(18080)


def readme_lines(beginning: str) -> list[str]:
    """The code lines of the README that begin so."""
    return [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith(beginning)]


def test_the_readmes_curl_lines_work_as_written(running: Running) -> None:
    """Dispatch and reap, binary and structured: 204, no body. Only the ports are the test's own."""
    lines = readme_lines("curl -i ")
    assert len(lines) == 4
    for line in lines:
        for name in ("dispatch", "reap"):
            line = line.replace(f":{getattr(README_PORTS, name)}/", f":{getattr(running.system.ports, name)}/")
        done = subprocess.run(shlex.split(line), capture_output=True, text=True, timeout=30)
        head, _, body = done.stdout.replace("\r", "").partition("\n\n")
        assert head.startswith("HTTP/1.1 204 "), done.stdout + done.stderr
        assert body == ""


def test_curl_dispatches_what_waits(running: Running) -> None:
    """With the feeder stopped, the README's line is enough to start a bead."""
    running.system.processes["feeder"].kill()
    bead = running.beads.workspace.create("by curl", "ok", "--assignee", "agent")
    line = readme_lines(f"curl -i http://127.0.0.1:{README_PORTS.dispatch}/ -H 'Ce-")[0]
    subprocess.run(
        shlex.split(line.replace(f":{README_PORTS.dispatch}/", f":{running.system.ports.dispatch}/")),
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    assert running.posts(bead) == 1


def post(url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, dict(headers)), timeout=30) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read()


GOOD = {
    "Ce-Specversion": "1.0", "Ce-Type": events.DISPATCH_REQUESTED, "Ce-Source": "/s", "Ce-Id": "1",
    "Content-Type": "application/json", "Authorization": "Bearer s3cret",
}  # fmt: skip
STRUCTURED = {"Content-Type": "application/cloudevents+json", "Authorization": "Bearer s3cret"}

MALFORMED = [
    ("a batch", {"Content-Type": "application/cloudevents-batch+json"}, b"[]"),
    ("a structured body that is a JSON string", STRUCTURED, b'"event"'),
    ("a bare JSON array", STRUCTURED, b"[]"),
    ("a legacy background event", {"Content-Type": "application/json"}, b'{"context": {"eventId": "1"}, "data": {}}'),
    ("an empty ce-id", {**GOOD, "Ce-Id": ""}, b"{}"),
    ("a bad ce-time", {**GOOD, "Ce-Time": "yesterday"}, b"{}"),
    ("broken JSON data", GOOD, b"{"),
    ("a form", {"Content-Type": "application/x-www-form-urlencoded"}, b"a=b"),
    ("another event type", {**GOOD, "Ce-Type": events.ISSUE_CHANGED}, b"{}"),
    ("another's tick", {**GOOD, "Ce-Type": events.TICK, "Ce-Source": "/x/pingsources/other"}, b"{}"),
    ("no tick to the feeder", GOOD, b"{}"),
    ("too large", GOOD, b" " * (events.MAX_BODY_BYTES + 1)),
]


@pytest.mark.parametrize("part", ["dispatch", "reap", "feeder"])
def test_malformed_events_are_4xx_and_change_nothing(running: Running, part: str) -> None:
    """Never 500, no traceback, no header of the request in the answer, no bead touched."""
    bead = running.beads.add("x-1", assignee="agent", acceptance="")
    before = running.beads.row(bead)
    url = f"http://127.0.0.1:{getattr(running.system.ports, part)}/"
    for name, headers, body in MALFORMED:
        if name == "no tick to the feeder" and part == "dispatch":
            continue
        status, answer = post(url, body, headers)
        assert 400 <= status < 500, f"{name}: {status} {answer!r}"
        assert b"s3cret" not in answer and b"Traceback" not in answer, name
        assert answer, name
    assert running.beads.row(bead) == before
    assert running.system.processes[part].running


@pytest.mark.parametrize("part", ["dispatch", "reap", "feeder"])
def test_other_methods_are_405(running: Running, part: str) -> None:
    """GET / says what is expected."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{getattr(running.system.ports, part)}/", timeout=10)
    with refused.value:
        assert refused.value.code == 405
        assert b"POST" in refused.value.read()


def test_half_a_request_does_not_keep_others_waiting(running: Running) -> None:
    """A client that announces a body and never sends it holds no pass up."""
    for port in (running.system.ports.dispatch, running.system.ports.feeder):
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.sendall(
                b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nContent-Type: application/json\r\n\r\n{"
            )
            status, _ = post(f"http://127.0.0.1:{port}/", b"{", GOOD)
            assert status == 400


# --- starting ------------------------------------------------------------------------------------------------


def run(*command: str | pathlib.Path, env: Mapping[str, str] | None = None, seconds: float = 60) -> tuple[int, str]:
    done = subprocess.run(
        [str(word) for word in command], cwd=ROOT, env={**os.environ, **(env or {})},
        capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def function(name: str) -> list[str]:
    source = ROOT / "functions" / name / "main.py"
    return [sys.executable, "-m", "functions_framework", "--source", str(source), "--target", name]


DOLT = {"DOLT_HOST": "127.0.0.1", "DOLT_DATABASE": "x"}


@pytest.mark.parametrize(("command", "env", "says"), [
    (function("dispatch"), {}, "dispatch cannot start: DOLT_HOST is not set"),
    (function("dispatch"), DOLT, "dispatch cannot start: BEADBOARD_URL is not set"),
    (function("reap"), {**DOLT, "REAP_AFTER_MINUTES": "soon"}, "reap cannot start: REAP_AFTER_MINUTES is 'soon'"),
    ([sys.executable, "-m", "feeder"], {}, "feeder cannot start: DOLT_HOST is not set"),
    ([sys.executable, "-m", "feeder"], DOLT, "feeder cannot start: K_SINK is not set"),
    ([sys.executable, "-m", "feeder", "--fast"], DOLT, "unrecognized arguments: --fast"),
    ([sys.executable, "-m", "local", "fly"], {}, "invalid choice: 'fly'"),
    ([sys.executable, "-m", "local", "up"], {"LOCAL_PORT": "80"}, "LOCAL_PORT is '80', expected a port"),
    ([sys.executable, "-m", "local", "up"], {"BEADS_DIR": "/nowhere"}, "no metadata.json"),
])  # fmt: skip
def test_a_wrong_start_says_what_to_do(
    command: list[str], env: dict[str, str], says: str, tmp_path: pathlib.Path
) -> None:
    """Non-zero, the setting named, no traceback."""
    if "local" in command and command[-1] == "up":
        command = [*command, "--folder", str(tmp_path)]
    status, said = run(*command, env=env)
    assert status != 0
    assert says in said
    assert "Traceback" not in said


@pytest.mark.parametrize("module", ["feeder", "local", "tools.toolchain", "local.stand_in_agent"])
def test_help_is_there(module: str) -> None:
    """--help of every command ends with 0."""
    status, said = run(sys.executable, "-m", module, "--help")
    assert status == 0
    assert "usage:" in said


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else listens on; the five below it are free."""
    port = processes.free_port(neighbours=5) + 5
    with socket.create_server(("127.0.0.1", port)):
        yield port


def test_a_port_in_use_is_named(taken: int, tmp_path: pathlib.Path) -> None:
    """The feeder, and the local system: which port, and how to choose another."""
    env = {**DOLT, "K_SINK": "http://127.0.0.1:9/", "PORT": str(taken), "HOST": "127.0.0.1"}
    status, said = run(sys.executable, "-m", "feeder", env=env)
    assert status != 0 and f"cannot listen on 127.0.0.1:{taken}" in said and "set PORT" in said
    assert "Traceback" not in said
    status, said = run(
        sys.executable, "-m", "local", "demo", "--folder", tmp_path, env={"LOCAL_PORT": str(taken - 5)}, seconds=120
    )
    assert status == 1 and str(taken) in said and "LOCAL_PORT" in said
    assert "Traceback" not in said


def test_dolt_down_at_the_start_is_waited_for_and_said_once(tmp_path: pathlib.Path) -> None:
    """The feeder lives, is not ready, says it once, and stops at SIGTERM with 0."""
    port = processes.free_port()
    env = {
        **DOLT,
        "DOLT_PORT": "9",
        "DOLT_PASSWORD": "s3cret",
        "K_SINK": "http://127.0.0.1:9/",
        "PORT": str(port),
        "HOST": "127.0.0.1",
    }
    feeder = Process("feeder", processes.python("-m", "feeder"), tmp_path / "feeder.log", env)
    feeder.wait_until(lambda: processes.answers(f"http://127.0.0.1:{port}/healthz"), "answer")
    wait_for(lambda: "cannot reach Dolt" in feeder.log.read_text(), "the message")
    status, _ = post(f"http://127.0.0.1:{port}/", b"{}", {
        **GOOD, "Ce-Type": events.TICK, "Ce-Source": "/x/pingsources/dispatch",
    })  # fmt: skip
    assert status == 503
    assert not processes.answers(f"http://127.0.0.1:{port}/readyz")
    os.kill(feeder.pid, signal.SIGTERM)
    wait_for(lambda: not feeder.running, "the end")
    assert feeder.stop() == 0
    said = feeder.log.read_text()
    assert said.count("waiting for it") == 1
    assert "Traceback" not in said and "s3cret" not in said


def test_functions_answer_503_while_dolt_is_down(tmp_path: pathlib.Path) -> None:
    """So that the Broker sends the event again."""
    for name, event_type in (("dispatch", events.DISPATCH_REQUESTED), ("reap", events.REAP_REQUESTED)):
        port = processes.free_port()
        env = {**DOLT, "DOLT_PORT": "9", "BEADBOARD_URL": "http://127.0.0.1:9", "PORT": str(port), "HOST": "127.0.0.1"}
        process = Process(name, function(name), tmp_path / f"{name}.log", env)
        try:
            process.wait_until(lambda port=port: processes.listening(port), "listen")  # type: ignore[misc]
            status, answer = post(f"http://127.0.0.1:{port}/", b"{}", {**GOOD, "Ce-Type": event_type})
            assert (status, answer) == (503, b"Dolt cannot be used now; send the event again later\n")
        finally:
            process.stop()
        assert "Traceback" not in process.log.read_text()


def test_make_demo_runs_end_to_end(tmp_path: pathlib.Path) -> None:
    """From nothing to three beads, twice in the same folder; nothing is left running."""
    env = {"LOCAL_PORT": str(processes.free_port(neighbours=5))}
    for _ in range(2):
        status, said = run(sys.executable, "-m", "local", "demo", "--folder", tmp_path, env=env, seconds=180)
        assert status == 0, said
        assert re.search(r"first dispatch \d+\.\d s after", said)
        assert "was left alone, as it should be" in said
    assert not any(processes.listening(int(env["LOCAL_PORT"]) + offset) for offset in range(6))
