"""The structure that the project holds itself to."""

import ast
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TOP_LEVEL = {"beads_dispatch", "docs", "examples", "feeder", "functions", "knative", "local", "requirements", "tests"}
STORE = sorted((ROOT / "beads_dispatch" / "store").glob("*.py"))


def test_imports_point_downwards() -> None:
    """The contracts in pyproject.toml: the layers, and one importer for SQL, HTTP, the binlog and metrics each."""
    command = [str(pathlib.Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_of_the_library_is_in_a_layer() -> None:
    """A module that no layer names could import anything."""
    (contract,) = (
        contract
        for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    )
    named = {name.strip() for layer in contract["layers"] for name in re.split("[:|]", layer)}
    children = {path.stem for path in (ROOT / "beads_dispatch").iterdir() if path.stem[0] not in "._"}
    assert {name.removeprefix("beads_dispatch.") for name in named if name.startswith("beads_dispatch.")} == children


def test_the_top_level_is_the_layout() -> None:
    """A folder for each part and no other."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folders = {line.split("/")[0] for line in listed.splitlines() if "/" in line and not line.startswith(".")}
    assert folders == {*TOP_LEVEL, "tools"}


@pytest.mark.parametrize("path", STORE, ids=lambda path: path.stem)
def test_a_module_of_the_store_is_small(path: pathlib.Path) -> None:
    """At most 300 lines, and 15 public methods a class."""
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            public = [item.name for item in node.body if isinstance(item, ast.FunctionDef) and item.name[0] != "_"]
            assert len(public) <= 15, f"{node.name}: {public}"


def test_a_class_name_stands_once() -> None:
    """Two classes of one name are one idea in two places, or two ideas under one word."""
    found: dict[str, list[str]] = {}
    for folder in (*sorted(TOP_LEVEL - {"tests", "docs", "knative", "requirements"}), "tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef):
                    found.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}


@pytest.mark.parametrize("name", ["build.txt", "dev.txt", "release.txt", "runtime.txt"])
def test_the_lock_pins_every_dependency_with_hashes_and_names_no_index(name: str) -> None:
    """One line of `==` and at least one hash each; no URL."""
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith((" ", "#"))]
    assert len(pins) > (0 if name == "build.txt" else 20)
    assert all("==" in line and line.endswith("\\") for line in pins)
    assert not [line for line in lines if "://" in line or "index-url" in line]
