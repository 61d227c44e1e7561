"""`make up AGENT_COMMAND=…`: a command for each bead, in a workspace of the user's own as `bd init` makes it."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from beads_dispatch import agents_file
from local import agent_command, unit
from local.workspace import Workspace
from tests import support
from tests.acceptance.conftest import programs
from tests.acceptance.test_local import ROOT, Up
from tests.support import wait_for
from tools import toolchain

CLOSES = 'echo "working on $BEAD_ID"; cat; "$BD" close "$BEAD_ID"'


@pytest.fixture
def embedded(tmp_path: pathlib.Path) -> Workspace:
    """An empty folder, and bd's default."""
    folder = tmp_path / "project"
    folder.mkdir()
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    workspace = Workspace(toolchain.bd(), folder)
    workspace.run("init", "--prefix", "p", "--skip-hooks", "--skip-agents", "--non-interactive", "-q")
    assert metadata(workspace)["dolt_mode"] == "embedded"
    return workspace


def metadata(workspace: Workspace) -> dict[str, str]:
    found: dict[str, str] = json.loads((workspace.beads_dir / "metadata.json").read_text())
    return found


@contextlib.contextmanager
def up(workspace: Workspace, folder: pathlib.Path, command: str, **env: str) -> Iterator[Up]:
    running = Up(folder, BEADS_DIR=str(workspace.beads_dir), AGENT_COMMAND=command, **{"YES": "1", **env})
    try:
        yield running
    finally:
        running.child.terminate()
        running.child.wait(support.PATIENCE_SECONDS)


def test_a_command_works_the_beads_of_an_embedded_workspace(embedded: Workspace, tmp_path: pathlib.Path) -> None:
    """Twice, and in between and afterwards the workspace is embedded as before."""
    before = (embedded.beads_dir / "metadata.json").read_bytes()
    for title in ("first", "second"):
        with up(embedded, tmp_path / "local", CLOSES):
            bead = embedded.create(title, "It is closed.", "--assignee", "agent")
            wait_for(lambda bead=bead: embedded.show(bead)["status"] == "closed", "the bead closed")  # type: ignore[misc]
        assert (embedded.beads_dir / "metadata.json").read_bytes() == before
        assert not (embedded.beads_dir / "dolt-server.port").exists()
        assert embedded.show(bead)["status"] == "closed"
    output = [path.read_text() for path in (tmp_path / "local" / "jobs").glob("*.log")]
    assert any(f"working on {bead}\nWork on the bead {bead}." in text for text in output)
    assert sorted(title for _, title in embedded.titles()) == ["first", "second"]


def test_nothing_is_changed_without_a_yes(embedded: Workspace, tmp_path: pathlib.Path) -> None:
    """What would be changed is shown; without a terminal the answer is no."""
    before = sorted(path.name for path in embedded.beads_dir.iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "local", "up", "--folder", str(tmp_path / "local")],
        cwd=ROOT,
        env={**os.environ, **programs(), "BEADS_DIR": str(embedded.beads_dir), "AGENT_COMMAND": CLOSES},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=support.PATIENCE_SECONDS,
    )
    assert done.returncode == 1
    assert "dolt_mode server" in done.stdout and "nothing was changed" in done.stderr and "YES=1" in done.stderr
    assert sorted(path.name for path in embedded.beads_dir.iterdir()) == before


def test_a_workspace_that_a_killed_run_left_is_changed_back(embedded: Workspace, tmp_path: pathlib.Path) -> None:
    """No question is asked again, and its beads are there."""
    before = (embedded.beads_dir / "metadata.json").read_bytes()
    with up(embedded, tmp_path / "local", CLOSES) as first:
        bead = embedded.create("kept", "ok")
        first.child.kill()
        first.child.wait(support.PATIENCE_SECONDS)
    assert metadata(embedded)["dolt_mode"] == "server"
    with up(embedded, tmp_path / "local", CLOSES, YES=""):
        assert embedded.show(bead)["title"] == "kept"
    assert (embedded.beads_dir / "metadata.json").read_bytes() == before


@pytest.mark.parametrize(
    ("command", "seconds", "why"),
    [("echo no; exit 3", "60", "failed: exit status 3"), ("sleep 600", "2", "failed: ended after 2 s")],
)
def test_a_job_that_fails_opens_its_bead_again_with_words(
    embedded: Workspace, tmp_path: pathlib.Path, command: str, seconds: str, why: str
) -> None:
    """Its note says why, and in which file its output is; a retry delay follows."""
    with up(embedded, tmp_path / "local", command, AGENT_JOB_TIMEOUT_SECONDS=seconds):
        bead = embedded.create("fails", "ok", "--assignee", "agent")
        wait_for(lambda: why in str(embedded.show(bead).get("notes")), "the reaper's note")
        found = embedded.show(bead)
        assert found["status"] == "open" and f"its output is in {tmp_path / 'local' / 'jobs'}" in found["notes"]
        explained = subprocess.run(
            [str(pathlib.Path(sys.executable).parent / "beads-dispatch"), "explain", bead],
            cwd=embedded.folder, env={**os.environ, "AGENTS_FILE": str(tmp_path / "local" / "agents.toml")},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert str(tmp_path / "local" / "jobs") in explained.stdout


def runs(process: int) -> bool:
    """A process that nobody has waited for runs no more."""
    try:
        return pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_stop_ends_the_jobs_that_run(embedded: Workspace, tmp_path: pathlib.Path) -> None:
    """With all their processes, where that is agreed to."""
    here = tmp_path / "pid"
    with up(embedded, tmp_path / "local", f"sleep 600 & echo $! > {here}; wait") as running:
        bead = embedded.create("long", "ok", "--assignee", "agent")
        wait_for(lambda: here.exists() and here.read_text().strip(), "the job")
        child = int(here.read_text())
        assert embedded.show(bead)["status"] == "in_progress"
    assert any("ending the jobs that run: 1" in line for line in running.lines)
    wait_for(lambda: not runs(child), "the end of the job's process")


def test_the_agents_file_holds_any_command(tmp_path: pathlib.Path) -> None:
    """Quotes, backslashes, line breaks and other alphabets stay as they are."""
    command = 'claude -p "do \\"$BEAD_ID\\" 100%"\n# ünïcode 🙂 \x7f'
    path = agent_command.write_agents_file(tmp_path, 'agent:"odd"', command, tmp_path / 'a "b"', "7")
    (found,) = agents_file.agents({"AGENTS_FILE": str(path)})
    assert found.backend is not None and found.name == 'agent:"odd"'
    assert found.backend.options["command"] == command
    assert (found.backend.options["folder"], found.backend.options["job_timeout_seconds"]) == (
        str(tmp_path / 'a "b"'),
        7,
    )


def test_the_unit_can_be_read_by_systemd(tmp_path: pathlib.Path) -> None:
    """And passes the command on as it is."""
    env = {"AGENT_COMMAND": 'claude -p "do $BEAD_ID 100%"', "PATH": os.environ["PATH"]}
    text = unit.unit(env, tmp_path / ".beads", tmp_path / "local")
    assert 'Environment="AGENT_COMMAND=claude -p \\"do $BEAD_ID 100%%\\""' in text
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not on PATH")
    path = tmp_path / "beads-dispatch.service"
    path.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_make_passes_the_command_on_as_it_was_typed(tmp_path: pathlib.Path) -> None:
    """make itself would expand $BEAD_ID."""
    typed = "claude -p \"$BEAD_ID and 'more'\""
    done = subprocess.run(
        ["make", "-s", "unit", f"AGENT_COMMAND={typed}", f"BEADS_DIR={tmp_path}"],
        cwd=ROOT, capture_output=True, text=True, timeout=support.PATIENCE_SECONDS,
    )  # fmt: skip
    assert 'Environment="AGENT_COMMAND=claude -p \\"$BEAD_ID and \'more\'\\""' in done.stdout, done.stderr
