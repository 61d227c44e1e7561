"""The structure that the project holds itself to."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def test_imports_point_inward() -> None:
    """The contracts in pyproject.toml: beads knows nobody, SQL and HTTP have one place each."""
    command = [str(pathlib.Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["dev.txt", "runtime.txt"])
def test_the_lock_pins_every_dependency_with_hashes_and_names_no_index(name: str) -> None:
    """One line of `==` and at least one hash each; no URL."""
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith((" ", "#"))]
    assert len(pins) > 20
    assert all("==" in line and line.endswith("\\") for line in pins)
    assert not [line for line in lines if "://" in line or "index-url" in line]
