"""What is installed: the library and its commands, and nothing of the applications, the tools or the tests."""

import pathlib
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]
COMMANDS = {"beads-dispatch", "kn-source-ping-suspend", "kn-source-ping-resume"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The wheel of what git has, built without a network."""
    tree, wheels = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheels")
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, tracked.stdout.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    pip(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(tree))
    (found,) = wheels.glob("*.whl")
    return found


def pip(python: str | pathlib.Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "-q", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_holds_the_library_alone(wheel: pathlib.Path) -> None:
    """beads_dispatch and its metadata; every module of it."""
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"beads_dispatch"}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "beads_dispatch").rglob("*.py")}
    assert modules <= set(names)
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_an_installation_has_three_commands_and_no_tools(wheel: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """In a clean environment: the commands run, and neither applications nor tools can be imported."""
    venv.create(tmp_path, with_pip=True)
    # The dependencies are borrowed from the environment of the tests: its folder, without its own .pth files.
    site = sysconfig.get_path("purelib", vars={"base": str(tmp_path), "platbase": str(tmp_path)})
    pathlib.Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    python, scripts = tmp_path / "bin" / "python", tmp_path / "bin"
    pip(python, "install", "--no-deps", "--no-index", str(wheel))
    installed = {path.name for path in scripts.iterdir()}
    assert installed >= COMMANDS
    for command in sorted(COMMANDS):
        done = subprocess.run([scripts / command, "--help"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout, done.stderr
    for package in ("feeder", "functions", "local", "tools", "tests"):
        done = subprocess.run([python, "-c", f"import {package}"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 1 and "ModuleNotFoundError" in done.stderr, package


def test_the_image_is_built_from_files_that_are_in_its_context() -> None:
    """Each COPY of the Dockerfile is let through by .dockerignore and is there; and no more than that."""
    copied = set()
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied |= set(line.split()[1:-1])
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
