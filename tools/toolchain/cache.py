"""The cache of installed programs, and which version a program is."""

import contextlib
import fcntl
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator

from tools.toolchain.pins import Schemas, Tool
from tools.toolchain.progress import Progress, ToolError, WayFailed, report

VERSION_SECONDS = 60  # `dolt version` takes 0.1 s; a minute means that it hangs, however busy the machine is
_LOCK_POLL_SECONDS = 0.1


def folder() -> pathlib.Path:
    """Where installed programs are."""
    # The XDG specification: a relative XDG_CACHE_HOME is ignored.
    root = pathlib.Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (root if root.is_absolute() else pathlib.Path("~/.cache").expanduser()) / "beads-dispatch" / "tools"


def find(tool: Tool, *, remove_broken: bool = False) -> pathlib.Path:
    """The program, if one of its pinned versions is in the cache. Raises WayFailed.

    `remove_broken`: remove a program that does not run, or is not the version that its folder names.
    """
    reasons = []
    for version in tool.versions:
        program = _path(tool, version)
        try:
            return _require_version(tool, program, version)
        except WayFailed as exc:
            reasons.append(str(exc))
            if remove_broken and program.exists():
                report(f"{tool.name}: removed from the cache: {exc}")
                shutil.rmtree(program.parent, ignore_errors=True)
    raise WayFailed("; ".join(reasons))


def keep(tool: Tool, program: pathlib.Path, version: str) -> pathlib.Path:
    """Move a program that runs into its place, in one step: no process sees half of it. Raises WayFailed."""
    program.chmod(0o755)
    _require_version(tool, program, version)
    target = _path(tool, version)
    target.parent.mkdir(exist_ok=True)
    return program.replace(target)


@contextlib.contextmanager
def installing(pinned: Tool | Schemas) -> Iterator[pathlib.Path]:
    """One process at a time for each tool; yields an empty folder, which is removed afterwards. Raises ToolError."""
    scratch = folder() / f"{pinned.name}-{pinned.version}.part"
    try:
        scratch.parent.mkdir(parents=True, exist_ok=True)
        lock = scratch.with_suffix(".lock").open("w")
    except OSError as exc:
        raise ToolError(
            f"{pinned.name} {pinned.version} is not here, and {scratch.parent} cannot be written ({exc.strerror})."
            " Set XDG_CACHE_HOME to a folder that can."
        ) from None
    with lock:
        _lock(lock.fileno(), pinned.name)
        shutil.rmtree(scratch, ignore_errors=True)  # left by a process that was killed
        scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def require_accepted(tool: Tool, program: pathlib.Path) -> pathlib.Path:
    """The program again. Raises WayFailed when it is not a version that is accepted."""
    version = _version(tool, program)
    accepted = version == tool.lowest if tool.exact else _numbers(version) >= _numbers(tool.lowest)
    if not accepted:
        reason = f": {tool.lowest_reason}" if tool.lowest_reason else ""
        raise WayFailed(f"{program} is {version}, expected {tool.accepted}{reason}")
    return program


def _path(tool: Tool, version: str) -> pathlib.Path:
    return folder() / f"{tool.name}-{version}" / tool.name


def _lock(file: int, name: str) -> None:
    """Wait until no other process holds the lock."""
    progress = None
    while True:
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if progress is None:
            report(f"{name}: another process is installing it, waiting")
            progress = Progress(f"waiting for the other process that installs {name}")
        progress.tick()
        time.sleep(_LOCK_POLL_SECONDS)


def _require_version(tool: Tool, program: pathlib.Path, version: str) -> pathlib.Path:
    found = _version(tool, program)
    if found != version:
        raise WayFailed(f"{program} is {found}, expected {version}")
    return program


def _version(tool: Tool, program: pathlib.Path) -> str:
    """The version that the program prints."""
    with tempfile.TemporaryDirectory() as empty:
        try:
            done = subprocess.run(
                [str(program), tool.version_argument],
                cwd=empty,  # not in a workspace or a database, whose settings it would read
                env=_quiet_environment(pathlib.Path(empty)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=VERSION_SECONDS,
            )
        except FileNotFoundError:
            raise WayFailed(f"no {program}") from None
        except OSError as exc:
            raise WayFailed(f"{program} does not run ({exc.strerror})") from None
        except subprocess.TimeoutExpired:
            raise WayFailed(f"`{program} {tool.version_argument}` does not end") from None
    prefix = re.escape(tool.version_prefix.format(name=tool.name))
    found = re.search(rf"^{prefix}v?(\d+\.\d+\.\d+)", done.stdout, re.MULTILINE)
    if done.returncode or found is None:
        printed = " ".join(done.stdout.split())[:100]
        asked = f"{program} {tool.version_argument}"
        raise WayFailed(f"`{asked}` ended with {done.returncode}, printed {printed!r}, expected a version")
    return found[1]


def _quiet_environment(root: pathlib.Path) -> dict[str, str]:
    """Keeps `dolt version` from asking the network for the newest release, which may take long."""
    config = root / ".dolt" / "config_global.json"
    config.parent.mkdir()
    config.write_text('{"versioncheck.disabled": "true"}')
    quiet = {"DOLT_ROOT_PATH": str(root), "DOLT_DISABLE_EVENT_FLUSH": "1", "BD_DISABLE_METRICS": "1"}
    return {**os.environ, **quiet}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
