"""`make up` and `make demo`: what they print, what they refuse, and how they stop."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from beads_dispatch import settings, store
from local import processes
from local.dolt import DoltServer
from local.workspace import EXAMPLES, Workspace
from tests.acceptance.conftest import programs
from tests.support import PATIENCE_SECONDS, wait_for

ROOT = pathlib.Path(__file__).parents[2]
# A stop takes one or two seconds on an idle machine. One that waits for a part that does not end takes twenty more
# (processes.STOP_SECONDS): that is what the limit has to tell apart, with as much room as possible for a busy machine.
STOP_SECONDS = 16


class Up:
    """`python -m local up` in a folder, and the lines that it prints."""

    def __init__(self, folder: pathlib.Path, **env: str) -> None:
        self.port = processes.free_port(neighbours=6)
        self.folder = folder
        self.lines: list[str] = []
        self.child = subprocess.Popen(
            [sys.executable, "-m", "local", "up", "--folder", str(folder)],
            cwd=ROOT,
            env={**os.environ, **programs(), "LOCAL_PORT": str(self.port), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.wait_for_line("Ctrl-C stops everything", 180)

    def wait_for_line(self, pattern: str, seconds: float = PATIENCE_SECONDS) -> str:
        def found() -> str | None:
            return next((line for line in list(self.lines) if re.search(pattern, line)), None)

        with contextlib.suppress(AssertionError):
            return str(wait_for(found, pattern, seconds))
        raise AssertionError(f"no line has {pattern!r}:\n" + "\n".join(self.lines))

    def commands(self) -> list[str]:
        """The commands of the printed next steps."""
        return [line.strip() for line in self.lines if re.match(" {4}(export|cd|bd assign|beads-dispatch) ", line)]

    def stop(self, *signals: signal.Signals) -> float:
        """Send the signals; returns the seconds until the end."""
        started = time.monotonic()
        for number in signals:
            self.child.send_signal(number)
            time.sleep(0.05)
        self.child.wait(PATIENCE_SECONDS)
        seconds = time.monotonic() - started
        self._reader.join(PATIENCE_SECONDS)
        return seconds

    def left(self) -> dict[int, str]:
        """The commands of the processes that this run started, itself too, and that still run, by their ids."""
        mark = f"LOCAL_PORT={self.port}".encode()
        found = {}
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
        return found

    @contextlib.contextmanager
    def frozen_parts(self) -> Iterator[None]:
        """The processes that it started do nothing, not even end, for as long as the block lasts."""
        parts = self.left().keys() - {self.child.pid}
        try:
            for part in parts:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(part, signal.SIGSTOP)
            yield
        finally:
            for part in parts:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(part, signal.SIGCONT)

    def _read(self) -> None:
        assert self.child.stdout
        with self.child.stdout as lines:
            for line in lines:
                self.lines.append(line.rstrip("\n"))


@contextlib.contextmanager
def running_up(folder: pathlib.Path, **env: str) -> Iterator[Up]:
    up = Up(folder, **env)
    try:
        yield up
    finally:
        if up.child.poll() is None:
            up.stop(signal.SIGTERM)
        assert_nothing_left(up)


def assert_nothing_left(up: Up) -> None:
    """It ends after its parts. What was killed with its group may take a moment, but nobody is left to kill it then."""
    wait_for(lambda: not up.left(), "the end of every process", 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The data of one run after another: the workspace is made once."""
    return tmp_path_factory.mktemp("local")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One run for the tests that do not stop it."""
    with running_up(tmp_path_factory.mktemp("up")) as up:
        yield up


def test_the_printed_commands_work_as_written(up: Up) -> None:
    """Both folders of PATH, no usage metrics, and the three next commands; the bead is shown until it is closed."""
    commands = up.commands()
    assert [re.split(r"[ =]", command)[:2] for command in commands] == [
        ["export", "PATH"], ["export", "BD_DISABLE_METRICS"], ["cd", str(up.folder / "workspace")],
        ["bd", "assign"], ["beads-dispatch", "explain"],
    ]  # fmt: skip
    bead = commands[-1].split()[-1]
    assert commands[3] == f"bd assign {bead} agent"
    script = "\n".join([*commands[:-1], f"{commands[-1]} || test $? = 1"])
    plain = {**os.environ, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["bash", "-ec", script], env=plain, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert bead in done.stdout
    for step in ("assigned", "event", "claimed", "dispatched", "closed"):
        up.wait_for_line(rf"^\d\d:\d\d:\d\d\.\d\d\d  {bead} +{step} ")
    rows = [re.split("  +", line.strip()) for line in up.lines if re.match(r" {4}demo-\w+  ", line)]
    assert sorted(title for _, title in rows) == sorted(title for title, _ in EXAMPLES)
    workspace = Workspace(pathlib.Path(programs()["BD"]), up.folder / "workspace")
    created = [(workspace.show(bead)["created_at"], bead) for bead, _ in rows]  # to the second
    assert created == sorted(created)


def test_the_console_is_served_under_its_own_name(up: Up) -> None:
    """At the address that is printed, and under no other name, by which a page elsewhere could read it."""
    found = re.search(r"^console (http://127\.0\.0\.1:\d+) ", up.wait_for_line("^console http"))
    assert found
    with urllib.request.urlopen(f"{found[1]}/queue", timeout=PATIENCE_SECONDS) as answer:
        assert b"<h1>Queue" in answer.read()
    other = urllib.request.Request(found[1], headers={"Host": "elsewhere.example"})
    with pytest.raises(urllib.error.HTTPError, match="421") as refused:
        urllib.request.urlopen(other, timeout=PATIENCE_SECONDS)
    refused.value.close()


def test_a_log_line_is_readable(up: Up) -> None:
    """The stand-in agent fails at a bead that was deleted: one line, and nothing in the terminal is JSON."""
    workspace = Workspace(pathlib.Path(programs()["BD"]), up.folder / "workspace")
    # The agent works one bead after the other: it comes to the last one when that has been deleted.
    *_, bead = beads = [workspace.create(title, "ok") for title in ("takes a while", "takes as long", "is deleted")]
    for each in beads:
        body = json.dumps({"taskId": each}).encode()
        url = f"http://127.0.0.1:{up.port + 4}/api/agent-dispatch"
        with urllib.request.urlopen(url, body, timeout=PATIENCE_SECONDS) as answer:
            assert "job_id" in json.load(answer)
    workspace.run("delete", bead, "--force")
    up.wait_for_line(rf"^[\d:.]+  stand-in-agent: .*\(bead {bead}, job \w+\)$")
    assert not [line for line in up.lines if line.startswith("{")]


def test_it_stops_at_once_and_soon(folder: pathlib.Path) -> None:
    """Ctrl-C: "stopping" before anything else, the end soon after it, exit status 0; more signals change nothing."""
    with running_up(folder) as up:
        with up.frozen_parts():  # "at once" without a clock: the line comes although no part can end
            up.child.send_signal(signal.SIGINT)
            up.wait_for_line("^==> stopping", processes.STOP_SECONDS / 2)
        assert up.stop(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGINT) < STOP_SECONDS
        assert up.child.returncode == 0
        assert_nothing_left(up)
        assert [line for line in up.lines if line.startswith("==> stop")] == ["==> stopping", "==> stopped"]


def test_sigterm_leaves_no_process(folder: pathlib.Path) -> None:
    """As Ctrl-C."""
    with running_up(folder) as up:
        assert len(up.left()) > 5
        assert up.stop(signal.SIGTERM) < STOP_SECONDS
        assert_nothing_left(up)


@pytest.mark.skipif(not processes.GUARD, reason="needs setpriv, which util-linux has")
def test_killing_it_leaves_no_process(folder: pathlib.Path) -> None:
    """SIGKILL lets nothing clean up: Linux ends the children."""
    with running_up(folder) as up:
        up.stop(signal.SIGKILL)
        wait_for(lambda: not up.left(), "the end of the children")


@pytest.mark.parametrize("moment", ["making a bd workspace", "starting dispatch"])
def test_a_start_that_is_interrupted_leaves_nothing_half_done(tmp_path: pathlib.Path, moment: str) -> None:
    """Ctrl-C while the workspace is made removes it, or bd would refuse it; later it stays. No process is left."""
    port = processes.free_port(neighbours=6)
    command = [sys.executable, "-m", "local", "up", "--folder", str(tmp_path)]
    env = {**os.environ, **programs(), "LOCAL_PORT": str(port)}
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        for line in child.stdout:
            if moment in line:
                child.send_signal(signal.SIGINT)
                break
        assert "stopped" in child.stdout.read()
        assert child.wait(PATIENCE_SECONDS) == 0
    assert (tmp_path / "workspace").exists() == (tmp_path / "dolt").exists() == (moment == "starting dispatch")
    assert not any(processes.listening(port + offset) for offset in range(6))


def test_a_hold_is_shown_and_its_end(folder: pathlib.Path) -> None:
    """The agent cannot be reached: a line at once, one for the hold with its reason, and one for its end."""
    with contextlib.closing(socket.socket()) as taken:  # bound, so that nobody else listens there
        taken.bind(("127.0.0.1", 0))
        _hold_and_its_end(folder, f"http://127.0.0.1:{taken.getsockname()[1]}")


def _hold_and_its_end(folder: pathlib.Path, url: str) -> None:
    with running_up(folder, BEADBOARD_URL=url) as up:
        up.wait_for_line(r"^[\d:.]+  the agent cannot be reached, beads stay in the queue: ")
        workspace = Workspace(pathlib.Path(programs()["BD"]), folder / "workspace")
        bead = workspace.create("cannot be dispatched", "ok", "--assignee", "agent")
        line = up.wait_for_line(r"^[\d:.]+  dispatch is held until [\d:.]+: ")
        assert "refused" in line
        beads = store.Store(settings.dolt({"BEADS_DIR": str(workspace.beads_dir)}))
        workspace.run("close", bead, actor="agent")
        beads.control.set_hold("agent", beads.control.hold("agent"), store.Hold())
        beads.close()
        up.wait_for_line(r"^[\d:.]+  dispatch is not held now")


def test_make_demo_runs_end_to_end(tmp_path: pathlib.Path) -> None:
    """From nothing to three beads, twice in the same folder; the table is in the order of time; nothing is left."""
    port = processes.free_port(neighbours=6)
    command = [sys.executable, "-m", "local", "demo", "--folder", str(tmp_path)]
    env = {**os.environ, **programs(), "LOCAL_PORT": str(port)}
    for _ in range(2):
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(r"first dispatch \d+\.\d s after", done.stdout)
        assert "was left alone, as it should be" in done.stdout
        assigned = [
            datetime.strptime(at, "%H:%M:%S.%f")
            for at in re.findall(r"^demo-\w+ +(\d\d:\S+)", done.stdout, re.MULTILINE)
        ]
        # Times of day: each is a little after the first, also where midnight is between them.
        later = [(at - assigned[0]) % timedelta(days=1) for at in assigned]
        assert len(later) == 3 and later == sorted(later) and later[-1] < timedelta(hours=1), done.stdout
    assert not any(processes.listening(port + offset) for offset in range(6))


def refusal(folder: pathlib.Path, **env: str) -> str:
    """What `make up` prints when it does not start."""
    command = [sys.executable, "-m", "local", "up", "--folder", str(folder / "local")]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_tilde_is_the_home_folder(dolt_server: DoltServer, tmp_path: pathlib.Path) -> None:
    """As BEADS_DIR=~/project/.beads comes from a shell that does not expand it: the user's server is found, and
    their queue is protected."""
    workspace = Workspace(pathlib.Path(programs()["BD"]), tmp_path / "project")
    workspace.init(dolt_server.port, "tilde")
    workspace.create("mine", "ok", "--assignee", "agent")
    message = refusal(tmp_path, BEADS_DIR="~/project/.beads", HOME=str(tmp_path), BD=programs()["BD"])
    assert "1 beads of your workspace are in the queue of agent" in message and "STAND_IN_AGENT=yes" in message


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"DOLT": "/nowhere/dolt"}, "DOLT is /nowhere/dolt, which is not a program"),
        ({}, "dolt is not on PATH"),
    ],
)
def test_a_missing_program_says_what_to_do(tmp_path: pathlib.Path, env: dict[str, str], expected: str) -> None:
    """DOLT and BD, then PATH; nothing is installed by the system itself."""
    message = refusal(tmp_path, BD=programs()["BD"], PATH=str(tmp_path), **env)
    assert expected in message and "python -m tools.toolchain dolt" in message


def make(*arguments: str) -> str:
    return subprocess.run(["make", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_make_up_finds_the_programs_first() -> None:
    """The toolchain finds or builds them and `local` gets their paths; a workspace of one's own needs neither."""
    for target in ("up", "demo"):
        assert re.search(r"toolchain dolt\S* && .*toolchain bd\S* && .*-m local " + target, make("-n", target))
        assert "toolchain" not in make("-n", target, "BEADS_DIR=~/project/.beads")


def test_make_help_is_in_groups() -> None:
    """Every command, below its group."""
    text = make("help")
    assert re.findall(r"^(?! )(.+)$", text, re.MULTILINE) == ["Run", "Test", "Measure", "Work on the code"]
    targets = re.search(r"^\.PHONY: (.*?)$", (ROOT / "Makefile").read_text().replace("\\\n", ""), re.MULTILINE)
    assert targets and set(re.findall(r"^  make (\S+)", text, re.MULTILINE)) == set(targets[1].split())
