"""The README's commands work: each one runs here, or in the test that ELSEWHERE names for it."""

import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from local import processes
from local.system import Ports
from tests import support
from tests.acceptance.conftest import Running
from tests.conftest import Beads
from tests.support import wait_for

ROOT = pathlib.Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BEAD = "demo-imv"  # in the README's session
PROGRAMS = ("bd", "beads-dispatch", "docker", "kn", "kubectl", "make", "pip", "python")

BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
SESSION = [block for language, block in BLOCKS if language == "console"]

MAKE = {
    "make demo": "-m local demo",
    "make up": "-m local up",
    "make test": "-m pytest",
}
MAKE_UP = "make up BEADS_DIR=~/project/.beads BEADBOARD_URL=http://beadboard:3000"
ASK = ("beads-dispatch status", "beads-dispatch explain <id>")
SUSPEND = ("beads-dispatch suspend", "beads-dispatch resume")
RELEASE = "beads-dispatch release <id>"
WATCH = "beads-dispatch watch"

# Commands that another test runs, and the words of its file that do it.
ELSEWHERE = {
    "beads-dispatch doctor": ("tests/integration/test_doctor.py", "doctor"),
    "beads-dispatch verify": ("tests/integration/test_verify.py", "verify"),
    "make up AGENT_COMMAND='claude -p' BEADS_DIR=~/project/.beads": (
        "tests/acceptance/test_agent_command.py",
        "AGENT_COMMAND=command",
    ),
    "pip install .": ("tests/unit/test_package.py", 'pip(python, "install"'),
    **{
        command: ("tests/cluster/test_readme.py", f'"{command}"')
        for _, block in BLOCKS
        for command in block.splitlines()
        if command.startswith(("docker ", "kubectl ", "kn "))
    },
}


def commands() -> set[str]:
    """The lines of the README's shell blocks and sessions, and the commands in its sentences and tables."""
    found = set()
    for language, block in BLOCKS:
        assert language in ("sh", "console", "text"), f"what is in a block of {language!r}?"
        if language == "sh":
            found |= {line.partition("  #")[0].strip() for line in block.splitlines()}
        elif language == "console":
            found |= {line[2:] for line in block.splitlines() if line.startswith("$ ")}
    sentences = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", sentences)
    return found | {span for span in spans if span.startswith(tuple(f"{program} " for program in PROGRAMS))}


def session() -> list[tuple[str, str]]:
    """The commands of the README's session, each with its output."""
    (block,) = SESSION
    _, *parts = re.split(r"^\$ ", block, flags=re.MULTILINE)
    return [(command, output) for command, _, output in (part.partition("\n") for part in parts)]


def run(command: str, beads: Beads, actor: str = "ann") -> str:
    """Run a command of the README in the workspace, as a person types it; returns its output."""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=beads.workspace.folder, env=environment(beads, actor),
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment(beads: Beads, actor: str) -> Mapping[str, str]:
    folders = (pathlib.Path(sys.executable).parent, beads.workspace.bd.parent)
    path = ":".join([*map(str, folders), os.environ["PATH"]])
    return {**os.environ, **beads.workspace.environment(actor), "PATH": path}


def test_every_command_has_a_test() -> None:
    """Each command is in one of the tables above, and no table has a command that the README no longer has."""
    here = {*MAKE, MAKE_UP, *ASK, *SUSPEND, RELEASE, WATCH, *(command for command, _ in session())}
    assert commands() == here | ELSEWHERE.keys()


@pytest.mark.parametrize("command", ELSEWHERE)
def test_another_test_runs_it(command: str) -> None:
    """The file is there and has the words."""
    path, words = ELSEWHERE[command]
    assert words in (ROOT / path).read_text()


@pytest.mark.parametrize("command", MAKE)
def test_make_has_the_target(command: str) -> None:
    """What make would run; test_make_demo_runs_end_to_end and all the others run it."""
    done = subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and MAKE[command] in done.stdout


def test_the_readme_is_short() -> None:
    """At most 120 lines."""
    assert len(README.splitlines()) <= 120


def test_the_session_runs_as_it_is_shown(running: Running) -> None:
    """The same commands give the same lines, but for ids and times."""
    bead = running.beads.workspace.create("Write a haiku about queues", "It has three lines.", "--actor", "ann")
    for command, shown in session():
        output = run(command.replace(BEAD, bead), running.beads)
        # The README shows what the newest bd prints.
        if not (command.startswith("bd ") and "1.0.2" in str(running.beads.workspace.bd)):
            assert re.fullmatch(pattern(shown, bead), output), output
        wait_for(lambda: running.beads.row(bead)["status"] == "closed", "closed")
        running.wait_until_recorded(bead)


def pattern(shown: str, bead: str) -> str:
    """A regular expression for output as it is shown, with another bead, other times and another job."""
    found = re.sub(r"job\\ \w+", r"job\\ \\w+", re.escape(shown))
    return re.sub(r"\d+", r"\\d+", found).replace(re.escape(BEAD), re.escape(bead))


@pytest.mark.parametrize("command", ASK)
def test_what_only_asks(beads: Beads, command: str) -> None:
    """Answers about a bead that is in the queue."""
    bead = beads.workspace.create("a bead", "ok", "--assignee", "agent")
    assert bead in run(command.replace("<id>", bead), beads)


def test_suspend_and_resume(beads: Beads) -> None:
    """Both functions, and back."""
    run(SUSPEND[0], beads)
    found = beads.store.control.suspension()
    assert found.dispatch and found.reap
    run(SUSPEND[1], beads)
    found = beads.store.control.suspension()
    assert not found.dispatch and not found.reap


def test_release(beads: Beads) -> None:
    """The claim ends, and the bead is open again."""
    bead = beads.workspace.create("a bead", "ok", "--assignee", "agent")
    now = datetime.now(UTC)
    (eligible,) = beads.store.eligible.first("agent", now, 1)
    beads.store.claims.claim(eligible, now)
    run(RELEASE.replace("<id>", bead), beads)
    assert beads.row(bead)["status"] == "open"
    assert "released by ann" in beads.notes(bead)[-1]


def test_watch(beads: Beads, tmp_path: pathlib.Path) -> None:
    """Shows an assignment as it happens; Ctrl-C ends it."""
    bead = beads.workspace.create("a bead", "ok")
    output = tmp_path / "output"
    with output.open("w") as file, subprocess.Popen(
        shlex.split(WATCH), cwd=beads.workspace.folder, env=environment(beads, "ann"), stdout=file, stderr=file,
    ) as watch:  # fmt: skip
        try:
            wait_for(lambda: "Ctrl-C" in output.read_text(), "it watches")

            def assigned_and_shown() -> bool:  # again and again: that line comes a moment before it watches
                beads.workspace.run("assign", bead, "ann")
                beads.workspace.run("assign", bead, "agent")
                return bead in output.read_text()

            wait_for(assigned_and_shown, "the assignment")
            watch.send_signal(signal.SIGINT)
            assert watch.wait(support.PATIENCE_SECONDS) == 0
        finally:
            watch.kill()


def test_make_up_on_a_workspace_of_ones_own(beads: Beads, agent: support.Agent, tmp_path: pathlib.Path) -> None:
    """With that Dolt server and that BeadBoard a bead is dispatched; Ctrl-C stops everything."""
    assert MAKE_UP in commands()
    values = {"BEADS_DIR": str(beads.workspace.beads_dir), "BEADBOARD_URL": agent.url}
    dry = ["make", "--dry-run", "up", *(f"{name}={value}" for name, value in values.items())]
    last = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    port = processes.free_port(neighbours=6)
    up = processes.Process(
        "up", ["bash", "-c", f"cd {ROOT} && {last} --folder {tmp_path / 'data'}"], tmp_path / "up.log",
        {**values, "LOCAL_PORT": str(port)},
    )  # fmt: skip
    try:
        feeder = f"http://127.0.0.1:{Ports.counted_from(port).feeder}/readyz"
        wait_for(lambda: up.running and processes.answers(feeder), "it runs", 120)
        bead = beads.workspace.create("mine", "ok")
        beads.workspace.run("assign", bead, "agent")
        wait_for(lambda: agent.posts == [bead], "the POST")
        os.kill(up.pid, signal.SIGINT)
        wait_for(lambda: not up.running, "the end")
    finally:
        assert up.stop() == 0, up.log.read_text()
