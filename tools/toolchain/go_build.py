"""Go: pinned builds, and files of pinned modules."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence

from tools.toolchain import cache
from tools.toolchain.pins import Schemas, Tool
from tools.toolchain.progress import Progress, WayFailed, report

STOP_SECONDS = 10  # for Go to end by itself when this program is interrupted
_POLL_SECONDS = 0.1


def install(tool: Tool, scratch: pathlib.Path) -> pathlib.Path:
    """Build and install a program; returns it in the cache. Raises WayFailed."""
    program = scratch / tool.name
    minutes = f"{tool.go_minutes} minute{'s' if tool.go_minutes > 1 else ''}"
    doing = f"building {tool.name} {tool.go_version} with Go"
    arguments = ["build", "-tags", ",".join(tool.tags), "-ldflags", tool.ldflags, "-o", str(program), tool.go_package]
    _run_go(arguments, tool.go_module, scratch, doing, f", about {minutes} on 2 cores")
    return cache.keep(tool, program, tool.go_version)


def collect(schemas: Schemas, scratch: pathlib.Path) -> pathlib.Path:
    """Copy the files of every module into one folder in `scratch`; returns it. Raises WayFailed."""
    collected = scratch / "files"
    for module, patterns in schemas.files.items():
        doing = f"downloading {module} for its {schemas.name}"
        answer = json.loads(_run_go(["mod", "download", "-json", module], schemas.go_module, scratch, doing))
        folder = pathlib.Path(answer["Dir"])
        for pattern in patterns:
            files = list(folder.glob(pattern))
            if not files:
                raise WayFailed(f"{module} {answer['Version']} holds no {pattern}")
            for file in files:
                copy = collected / module / file.relative_to(folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
    return collected


def _run_go(arguments: Sequence[str], module: pathlib.Path, scratch: pathlib.Path, doing: str, more: str = "") -> str:
    """Run Go in `module` and show progress; returns its standard output."""
    go = shutil.which("go")
    if go is None:
        raise WayFailed("no go on PATH")
    if not (module / "go.mod").is_file():
        raise WayFailed(f"no {module / 'go.mod'}; it is part of a checkout of this project")
    report(doing + more)
    temporary = scratch / "tmp"  # Go's own temporary files, so that they are removed with scratch
    temporary.mkdir(exist_ok=True)
    # GOWORK: a go.work above this checkout would change what is built.
    pinned = {"GOFLAGS": "-mod=readonly", "GOWORK": "off", "GOTMPDIR": str(temporary)}
    printed, errors = scratch / "stdout", scratch / "stderr"
    with printed.open("wb") as stdout, errors.open("wb") as stderr:
        child = subprocess.Popen(
            [go, *arguments],
            cwd=module,
            env={**os.environ, **pinned},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,  # so that its compilers can be ended with it
        )
    progress = Progress(doing)
    try:
        while child.poll() is None:
            progress.tick()
            time.sleep(_POLL_SECONDS)
    except BaseException:
        _end(child)
        raise
    if child.returncode:
        # `go mod download -json` prints its errors on stdout.
        lines = [line for file in (printed, errors) for line in file.read_text(errors="replace").splitlines()][-5:]
        raise WayFailed("\n    ".join([f"`go {arguments[0]}` ended with {child.returncode}, its last lines:", *lines]))
    return printed.read_text()


def _end(child: subprocess.Popen[bytes]) -> None:
    """End Go and its compilers: as Ctrl-C does, then by SIGKILL."""
    try:
        _signal(child, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(STOP_SECONDS)
    finally:
        _signal(child, signal.SIGKILL)
        child.wait()


def _signal(child: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)
