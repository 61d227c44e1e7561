"""The processes from outside: HTTP as in the documentation, malformed input, missing settings, ports in use."""

import os
import pathlib
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
from tests.acceptance.conftest import Running, programs
from tests.support import PATIENCE_SECONDS, wait_for

ROOT = pathlib.Path(__file__).parents[2]
DOCUMENTED_PORTS = Ports.counted_from(18080)


def documented(beginning: str) -> list[str]:
    """The command lines in the README and in docs/ that begin so."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [line for page in pages for line in page.read_text().splitlines() if line.startswith(beginning)]


def test_the_documented_curl_lines_work_as_written(running: Running) -> None:
    """Dispatch and reap, binary and structured: 204, no body. Only the ports are the test's own."""
    lines = documented("curl -i ")
    assert len(lines) == 4
    for line in lines:
        for name in ("dispatch", "reap"):
            line = line.replace(f":{getattr(DOCUMENTED_PORTS, name)}/", f":{getattr(running.system.ports, name)}/")
        done = subprocess.run(shlex.split(line), capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        head, _, body = done.stdout.replace("\r", "").partition("\n\n")
        assert head.startswith("HTTP/1.1 204 "), done.stdout + done.stderr
        assert body == ""


def test_curl_dispatches_the_queue(running: Running) -> None:
    """With the feeder stopped, the documented line is enough to start a bead."""
    running.system.processes["feeder"].kill()
    bead = running.beads.workspace.create("by curl", "ok", "--assignee", "agent")
    line = documented(f"curl -i http://127.0.0.1:{DOCUMENTED_PORTS.dispatch}/ -H 'Ce-")[0]
    subprocess.run(
        shlex.split(line.replace(f":{DOCUMENTED_PORTS.dispatch}/", f":{running.system.ports.dispatch}/")),
        check=True, capture_output=True, timeout=PATIENCE_SECONDS,
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
    """The answer to GET / names the method that is expected."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{getattr(running.system.ports, part)}/", timeout=PATIENCE_SECONDS)
    with refused.value:
        assert refused.value.code == 405
        assert b"POST" in refused.value.read()


def test_half_a_request_does_not_keep_others_waiting(running: Running) -> None:
    """A client that announces a body and never sends it delays no pass."""
    for port in (running.system.ports.dispatch, running.system.ports.feeder):
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.sendall(
                b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nContent-Type: application/json\r\n\r\n{"
            )
            status, _ = post(f"http://127.0.0.1:{port}/", b"{", GOOD)
            assert status == 400


# --- starting ------------------------------------------------------------------------------------------------


def run(
    *command: str | pathlib.Path, env: Mapping[str, str] | None = None, seconds: float = PATIENCE_SECONDS
) -> tuple[int, str]:
    done = subprocess.run(
        [str(word) for word in command], cwd=ROOT, env={**os.environ, **(env or {})},
        capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def function(name: str) -> list[str]:
    source = ROOT / "functions" / name / "main.py"
    return [sys.executable, "-m", "functions_framework", "--source", str(source), "--target", name]


DOLT = {"DOLT_HOST": "127.0.0.1", "DOLT_DATABASE": "x"}


@pytest.mark.parametrize(("command", "env", "expected"), [
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
def test_a_start_that_cannot_work_says_what_to_do(
    command: list[str], env: dict[str, str], expected: str, tmp_path: pathlib.Path
) -> None:
    """Non-zero, the setting named, no traceback."""
    if "local" in command and command[-1] == "up":
        command = [*command, "--folder", str(tmp_path)]
    status, output = run(*command, env=env)
    assert status != 0
    assert expected in output
    assert "Traceback" not in output


@pytest.mark.parametrize("module", ["feeder", "local", "tools.toolchain", "local.stand_in_agent"])
def test_help_is_there(module: str) -> None:
    """--help of every command ends with 0."""
    status, output = run(sys.executable, "-m", module, "--help")
    assert status == 0
    assert "usage:" in output


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another program listens on; the five below it are free."""
    port = processes.free_port(neighbours=5) + 5
    with socket.create_server(("127.0.0.1", port)):
        yield port


def test_a_port_in_use_is_named(taken: int, tmp_path: pathlib.Path) -> None:
    """The errors of the feeder and of the local system name the port and the setting that chooses another."""
    env = {**DOLT, "K_SINK": "http://127.0.0.1:9/", "PORT": str(taken), "HOST": "127.0.0.1"}
    status, output = run(sys.executable, "-m", "feeder", env=env)
    assert status != 0 and f"cannot listen on 127.0.0.1:{taken}" in output and "set PORT" in output
    assert "Traceback" not in output
    status, output = run(
        sys.executable,
        "-m",
        "local",
        "demo",
        "--folder",
        tmp_path,
        env={**programs(), "LOCAL_PORT": str(taken - 5)},
        seconds=120,
    )
    assert status == 1 and str(taken) in output and "LOCAL_PORT" in output
    assert "Traceback" not in output


def test_dolt_down_at_the_start_is_waited_for_and_logged_once(tmp_path: pathlib.Path) -> None:
    """The feeder runs, is not ready, logs it once, and stops at SIGTERM with 0."""
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
    try:
        feeder.wait_until(lambda: processes.answers(f"http://127.0.0.1:{port}/healthz"), "answer")
        wait_for(lambda: "cannot reach Dolt" in feeder.log.read_text(), "the message")
        status, _ = post(f"http://127.0.0.1:{port}/", b"{}", {
            **GOOD, "Ce-Type": events.TICK, "Ce-Source": "/x/pingsources/dispatch",
        })  # fmt: skip
        assert status == 503
        assert not processes.answers(f"http://127.0.0.1:{port}/readyz")
        os.kill(feeder.pid, signal.SIGTERM)
        wait_for(lambda: not feeder.running, "the end")
    finally:
        ended = feeder.stop()
    assert ended == 0
    logged = feeder.log.read_text()
    assert logged.count("waiting for it") == 1
    assert "Traceback" not in logged and "s3cret" not in logged


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
