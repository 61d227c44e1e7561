"""A smoke test of the runbook that fails cleans up as well: its own text, bash and bd; the cluster is two scripts."""

import os
import pathlib
import subprocess

import pytest

from tests import runbook
from tests.conftest import Beads

# kubectl and kn write down what they were asked, and kubectl answers as a cluster does that has THRESHOLD.
SCRIPT = """\
#!/bin/sh
echo "$(basename $0) $*" >> "$ASKED"
case "$*" in *REAP_AFTER_MINUTES}*) printf %s "$THRESHOLD";; esac
"""
FAST = {"sleep": "#!/bin/sh\n", "seq": "#!/bin/sh\necho 1\n"}  # nothing will be dispatched: no reason to wait for it


@pytest.fixture
def fail(beads: Beads, tmp_path: pathlib.Path) -> "Fail":
    return Fail(beads, tmp_path)


class Fail:
    """Runs a smoke test where nothing dispatches, so that it fails."""

    def __init__(self, beads: Beads, folder: pathlib.Path) -> None:
        self.beads = beads
        self._folder = folder
        for name, text in {"kubectl": SCRIPT, "kn": SCRIPT, **FAST}.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)

    def __call__(self, heading: str, **env: str) -> list[str]:
        """What the cluster was asked."""
        workspace, asked = self.beads.workspace, self._folder / "asked"
        path = f"{self._folder}:{workspace.bd.parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", runbook.block(heading)],
            cwd=workspace.folder,
            env={**os.environ, **workspace.environment(), "NS": "beads", "PATH": path, "ASKED": str(asked), **env},
            capture_output=True,
            text=True,
        )
        assert done.returncode != 0, done.stdout
        return asked.read_text().splitlines() if asked.exists() else []


def test_end_to_end(fail: Fail) -> None:
    """No bead is left."""
    fail("Smoke test: end to end")
    assert fail.beads.workspace.titles() == []


@pytest.mark.parametrize(("threshold", "restored"), [("", "null"), ("45", '"45"')])
def test_the_reaper(fail: Fail, tmp_path: pathlib.Path, threshold: str, restored: str) -> None:
    """The threshold is as it was, also where none was set; the agent runs, and no bead is left."""
    started = tmp_path / "started"
    asked = fail("Smoke test: the reaper", THRESHOLD=threshold, STOP_AGENT="false", START_AGENT=f"touch {started}")
    patches = [line.partition(" -p ")[2] for line in asked if " patch " in line]
    assert patches == [f'{{"data": {{"REAP_AFTER_MINUTES": {value}}}}}' for value in ('"1"', restored)]
    assert asked[-1] == "kubectl -n beads rollout status deployment/feeder"
    assert started.exists()
    assert fail.beads.workspace.titles() == []


def test_suspend_and_resume(fail: Fail) -> None:
    """Dispatch is resumed, after the bead is gone: it would be dispatched otherwise."""
    asked = fail("Smoke test: suspend and resume")
    switched = [line for line in asked if line.startswith("kn")]
    assert switched[0] == "kn source ping update dispatch --ce-override suspend=true -n beads"
    assert switched[-1] == "kn source ping update dispatch --ce-override suspend- -n beads"
    assert fail.beads.workspace.titles() == []


def test_what_was_suspended_before_stays_so(fail: Fail, tmp_path: pathlib.Path) -> None:
    """The test does not begin."""
    (tmp_path / "kubectl").write_text("#!/bin/sh\necho true\n")
    assert fail("Smoke test: suspend and resume") == []
    assert fail.beads.workspace.titles() == []
