"""Finds the programs dolt, bd and kustomize, and gets them where they are missing: `python -m tools.toolchain --help`.

Four ways, the first that works wins: PATH, our cache, a pinned release download, a pinned build with Go.
The schemas that the manifests are checked against come out of pinned Go modules, into the same cache.
Standard library only: this runs before the project's dependencies are installed.
"""

import argparse
import contextlib
import fcntl
import functools
import hashlib
import http.client
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

CONNECT_SECONDS = 20  # to connect, and between two pieces of a download: a machine without a network must not wait long
VERSION_SECONDS = 60  # `dolt version` takes 0.1 s; a minute means that it hangs, however busy the machine is
PROGRESS_SECONDS = 30  # between two lines while something goes on
STOP_SECONDS = 10  # for Go to end by itself when we are interrupted

_GO_MODULES = pathlib.Path(__file__).parent / "go"
_BD_RELEASES = "https://github.com/gastownhall/beads/releases/download"
_DOLT_RELEASE = "https://github.com/dolthub/dolt/releases/download/v2.3.3"
_KUSTOMIZE_RELEASE = "https://github.com/kubernetes-sigs/kustomize/releases/download/kustomize/v5.8.1"


class ToolError(Exception):
    """Something could not be had: the text says which ways were tried, why each failed, what to do."""


class _Failed(Exception):
    """One way did not give the program; the text is the reason. The next way is tried."""


class _WrongChecksum(_Failed):
    """The download is not the file that was pinned."""


@dataclass(frozen=True)
class Asset:
    """A release archive (tar.gz) and the program's path in it."""

    url: str
    sha256: str
    member: str


@dataclass(frozen=True)
class Tool:
    """A program, which versions of it will do, and what is pinned for getting it."""

    name: str
    lowest: str  # from PATH this version or a newer one will do, or with `exact` only this one
    version: str  # of the release download
    assets: Mapping[tuple[str, str], Asset]  # by (os, arch), in Go's words
    go_version: str  # of the build with Go
    go_module: pathlib.Path  # a module whose go.mod and go.sum pin everything that goes into the build
    go_package: str
    go_minutes: int  # on 2 cores, with nothing in Go's build cache
    exact: bool = False
    lowest_reason: str = ""  # why an older one is refused
    tags: tuple[str, ...] = ("gms_pure_go",)  # regular expressions in Go, or the build needs ICU's C++ library
    says: str = "{name} version "  # what stands before the version in what `<name> version` prints


@dataclass(frozen=True)
class Schemas:
    """Files out of Go modules, which are downloaded and not built."""

    name: str
    version: str  # of all of it together: names the folder in the cache, so it changes with what follows
    go_module: pathlib.Path  # a module whose go.mod and go.sum pin those it takes them from
    files: Mapping[str, tuple[str, ...]]  # by module, the patterns of their paths in it


# The download and the build differ: the project was measured on 2.2.0, but of its archives no checksum could be
# found, so the download is 2.3.3.
DOLT = Tool(
    name="dolt",
    lowest="1.87.0",
    lowest_reason="Dolt before 1.87.0 breaks its writers when the binlog is on",
    version="2.3.3",
    assets={
        ("linux", "amd64"): Asset(
            f"{_DOLT_RELEASE}/dolt-linux-amd64.tar.gz",
            "4acd730a4c53991996854a72fbb1add102b0a583bd07411320efb65037a43d9d",
            "dolt-linux-amd64/bin/dolt",
        ),
        ("linux", "arm64"): Asset(
            f"{_DOLT_RELEASE}/dolt-linux-arm64.tar.gz",
            "850a880aece6587cb9251ea0f07eb51fcc0a37450471fd89e03ac2fba1fdaed3",
            "dolt-linux-arm64/bin/dolt",
        ),
        ("darwin", "arm64"): Asset(
            f"{_DOLT_RELEASE}/dolt-darwin-arm64.tar.gz",
            "55c11d34df78d7583f1130a1adef7763340f2aade33e68ccb0046854134ad08b",
            "dolt-darwin-arm64/bin/dolt",
        ),
        ("darwin", "amd64"): Asset(
            f"{_DOLT_RELEASE}/dolt-darwin-amd64.tar.gz",
            "e33f4fa00032054e38da78b31314f8e93fa9eb950c587ac5f29ba5c6402b3f2a",
            "dolt-darwin-amd64/bin/dolt",
        ),
    },
    go_version="2.2.0",
    go_module=_GO_MODULES / "dolt",
    go_package="github.com/dolthub/dolt/go/cmd/dolt",
    go_minutes=4,
)

BD_1_3_0 = Tool(
    name="bd",
    lowest="1.3.0",
    version="1.3.0",
    assets={
        ("linux", "amd64"): Asset(
            f"{_BD_RELEASES}/v1.3.0/beads_1.3.0_linux_amd64.tar.gz",
            "2f92b904ecf35b607e44dc5c39229173af69c54f1183e8d709f1773540cdcf3b",
            "bd",
        ),
        ("linux", "arm64"): Asset(
            f"{_BD_RELEASES}/v1.3.0/beads_1.3.0_linux_arm64.tar.gz",
            "4ce9446a68edc13202b76c84a47d66fb3dad2787b6464c9522a108faf9c1c608",
            "bd",
        ),
    },
    go_version="1.3.0",
    go_module=_GO_MODULES / "bd-1.3.0",
    go_package="github.com/steveyegge/beads/cmd/bd",
    go_minutes=5,
)

# For the older schema, which BeadBoard reads: no other version makes it, hence exact.
BD_1_0_2 = Tool(
    name="bd",
    lowest="1.0.2",
    exact=True,
    version="1.0.2",
    assets={
        ("linux", "amd64"): Asset(
            f"{_BD_RELEASES}/v1.0.2/beads_1.0.2_linux_amd64.tar.gz",
            "66280bca14581218684027fee000810c2e40a9c6fe00e876ff64bdcb01a036c0",
            "bd",
        ),
        ("linux", "arm64"): Asset(
            f"{_BD_RELEASES}/v1.0.2/beads_1.0.2_linux_arm64.tar.gz",
            "f7b60c2398305bdb18d4ece1c84b87951e5bbcd6966fa0d607ac16f9d6e11a4d",
            "bd",
        ),
        ("darwin", "arm64"): Asset(
            f"{_BD_RELEASES}/v1.0.2/beads_1.0.2_darwin_arm64.tar.gz",
            "f3b27edd4ed43ce8aa792837145f324e4b8a3cbf9dc0c81d144682da46189038",
            "bd",
        ),
        ("darwin", "amd64"): Asset(
            f"{_BD_RELEASES}/v1.0.2/beads_1.0.2_darwin_amd64.tar.gz",
            "7d9de37b544ecc55ccc798da6778051344dba839834943957942f38412d7a13a",
            "bd",
        ),
    },
    go_version="1.0.2",
    go_module=_GO_MODULES / "bd-1.0.2",
    go_package="github.com/steveyegge/beads/cmd/bd",
    go_minutes=5,
)

# For darwin no second source confirmed a checksum, so there it is built.
KUSTOMIZE = Tool(
    name="kustomize",
    lowest="5.5.0",  # the oldest that was tried: what kubectl 1.32 has built in
    version="5.8.1",
    assets={
        ("linux", "amd64"): Asset(
            f"{_KUSTOMIZE_RELEASE}/kustomize_v5.8.1_linux_amd64.tar.gz",
            "029a7f0f4e1932c52a0476cf02a0fd855c0bb85694b82c338fc648dcb53a819d",
            "kustomize",
        ),
        ("linux", "arm64"): Asset(
            f"{_KUSTOMIZE_RELEASE}/kustomize_v5.8.1_linux_arm64.tar.gz",
            "0953ea3e476f66d6ddfcd911d750f5167b9365aa9491b2326398e289fef2c142",
            "kustomize",
        ),
    },
    go_version="5.8.1",
    go_module=_GO_MODULES / "kustomize",
    go_package="sigs.k8s.io/kustomize/kustomize/v5",
    go_minutes=1,
    tags=(),
    says="",
)

# Kubernetes' own OpenAPI and Knative's custom resource definitions (its 1.21 is 0.48 as a Go module); and Knative's
# Deployments, whose labels the network policies name.
SCHEMAS = Schemas(
    name="schemas",
    version="kubernetes-1.34.1-knative-0.48.0",
    go_module=_GO_MODULES / "schemas",
    files={
        "k8s.io/kubernetes": ("api/openapi-spec/v3/*_openapi.json",),
        "knative.dev/eventing": ("config/core/resources/*.yaml", "config/brokers/*/deployments/*.yaml"),
        "knative.dev/serving": ("config/core/300-resources/*.yaml", "config/core/deployments/*.yaml"),
    },
)

# By the name on the command line.
TOOLS: dict[str, Tool | Schemas] = {
    "dolt": DOLT,
    "bd": BD_1_3_0,
    "bd@1.3.0": BD_1_3_0,
    "bd@1.0.2": BD_1_0_2,
    "kustomize": KUSTOMIZE,
    "schemas": SCHEMAS,
}


def dolt() -> pathlib.Path:
    """A dolt that will do. Raises ToolError."""
    return find(DOLT)


def bd(version: str = "1.3.0") -> pathlib.Path:
    """A bd that will do: 1.3.0 or newer, or exactly 1.0.2 when that is asked for. Raises ToolError."""
    for tool in (BD_1_3_0, BD_1_0_2):
        if tool.version == version:
            return find(tool)
    raise ToolError(f"bd {version} is not pinned here. Ask for 1.3.0 or 1.0.2.")


def kustomize() -> pathlib.Path:
    """A kustomize that will do. Raises ToolError."""
    return find(KUSTOMIZE)


def schemas(wanted: Schemas = SCHEMAS) -> pathlib.Path:
    """A folder with the files, below their module's name at their path in it. Raises ToolError."""
    folder = _cache() / f"{wanted.name}-{wanted.version}"
    if folder.is_dir():
        return folder
    with _installing(wanted) as scratch:
        if not folder.is_dir():  # another process may have installed it while we waited for our turn
            try:
                _collect(wanted, scratch).replace(folder)
            except (_Failed, OSError) as exc:
                raise ToolError(
                    f"the {wanted.name} {wanted.version} are not here and cannot be downloaded: {exc}\n"
                    "They come with Go: install it (https://go.dev/dl), put it on PATH, let it reach the network once."
                ) from None
    return folder


def find(tool: Tool) -> pathlib.Path:
    """The program, got by the first way that works. Raises ToolError."""
    override = os.environ.get(tool.name.upper())
    if override:
        return _override(tool, pathlib.Path(override).expanduser().absolute())
    failed: dict[str, str] = {}
    found = _first({"PATH": _on_path, "cache": _cached}, tool, failed) or _install(tool, failed)
    if found is None:
        reasons = "\n".join(f"  {way}: {reason}" for way, reason in failed.items())
        raise ToolError(
            f"{tool.name} {_wanted(tool)} is not here and cannot be installed:\n{reasons}\n"
            f"Install it and put it on PATH, or set {tool.name.upper()} to its path."
        )
    return found


def this_platform() -> tuple[str, str]:
    """This machine's (os, arch), in Go's words."""
    machine = platform.machine().lower()
    return sys.platform, {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


_Way = Callable[[Tool], pathlib.Path]


def _first(ways: Mapping[str, _Way], tool: Tool, failed: dict[str, str]) -> pathlib.Path | None:
    for name, way in ways.items():
        try:
            return way(tool)
        except (_Failed, OSError) as exc:
            failed[name] = str(exc)
    return None


def _override(tool: Tool, program: pathlib.Path) -> pathlib.Path:
    try:
        _require_fit(tool, program)
    except _Failed as exc:
        variable = tool.name.upper()
        raise ToolError(
            f"{variable} names a program that will not do: {exc}. Set {variable} to the path of"
            f" {tool.name} {_wanted(tool)}, or unset it and one is found or installed."
        ) from None
    return program


# PATH and the cache


def _on_path(tool: Tool) -> pathlib.Path:
    found = shutil.which(tool.name)
    if found is None:
        raise _Failed(f"no {tool.name} there")
    program = pathlib.Path(found).absolute()
    try:
        _require_fit(tool, program)
    except _Failed as exc:
        _say(f"{tool.name}: not used: {exc}")
        raise
    return program


def _cached(tool: Tool) -> pathlib.Path:
    reasons = []
    for version in _versions(tool):
        program = _cache_path(tool, version)
        try:
            _require_version(tool, program, version)
        except _Failed as exc:
            reasons.append(str(exc))
        else:
            return program
    raise _Failed("; ".join(reasons))


def _remove_broken(tool: Tool) -> None:
    for version in _versions(tool):
        program = _cache_path(tool, version)
        if not program.exists():
            continue
        try:
            _require_version(tool, program, version)
        except _Failed as exc:
            _say(f"{tool.name}: removed from the cache: {exc}")
            shutil.rmtree(program.parent, ignore_errors=True)


def _cache() -> pathlib.Path:
    # A relative XDG_CACHE_HOME is to be ignored, says its specification.
    root = pathlib.Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (root if root.is_absolute() else pathlib.Path("~/.cache").expanduser()) / "beads-dispatch" / "tools"


def _cache_path(tool: Tool, version: str) -> pathlib.Path:
    return _cache() / f"{tool.name}-{version}" / tool.name


def _versions(tool: Tool) -> list[str]:
    """What the cache may hold: the release's version and the build's, once if they are the same."""
    return list(dict.fromkeys((tool.version, tool.go_version)))


# Which version a program is, and whether it will do


def _require_fit(tool: Tool, program: pathlib.Path) -> None:
    version = _version(tool, program)
    fits = version == tool.lowest if tool.exact else _numbers(version) >= _numbers(tool.lowest)
    if not fits:
        reason = f": {tool.lowest_reason}" if tool.lowest_reason else ""
        raise _Failed(f"{program} is {version}, expected {_wanted(tool)}{reason}")


def _require_version(tool: Tool, program: pathlib.Path, version: str) -> None:
    found = _version(tool, program)
    if found != version:
        raise _Failed(f"{program} is {found}, expected {version}")


def _version(tool: Tool, program: pathlib.Path) -> str:
    """What `<program> version` says."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [str(program), "version"],
                cwd=folder,  # not in a workspace or a database: its settings are not the question
                env=_quiet_environment(pathlib.Path(folder)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=VERSION_SECONDS,
            )
        except FileNotFoundError:
            raise _Failed(f"no {program}") from None
        except OSError as exc:
            raise _Failed(f"{program} does not run ({exc.strerror})") from None
        except subprocess.TimeoutExpired:
            raise _Failed(f"`{program} version` does not end") from None
    says = re.escape(tool.says.format(name=tool.name))
    found = re.search(rf"^{says}v?(\d+\.\d+\.\d+)", done.stdout, re.MULTILINE)
    if done.returncode or found is None:
        said = " ".join(done.stdout.split())[:100]
        raise _Failed(f"`{program} version` ended with {done.returncode} and said {said!r}, expected a version")
    return found[1]


def _quiet_environment(folder: pathlib.Path) -> dict[str, str]:
    """Without `dolt version` asking the network for the newest release (it would wait as long as that takes)."""
    config = folder / ".dolt" / "config_global.json"
    config.parent.mkdir()
    config.write_text('{"versioncheck.disabled": "true"}')
    quiet = {"DOLT_ROOT_PATH": str(folder), "DOLT_DISABLE_EVENT_FLUSH": "1", "BD_DISABLE_METRICS": "1"}
    return {**os.environ, **quiet}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _wanted(tool: Tool) -> str:
    return tool.lowest if tool.exact else f"{tool.lowest} or newer"


# Installing into the cache


def _install(tool: Tool, failed: dict[str, str]) -> pathlib.Path | None:
    with _installing(tool) as scratch:
        _remove_broken(tool)
        ways: dict[str, _Way] = {
            "cache": _cached,  # again: another process may have installed it while we waited for our turn
            "release download": functools.partial(_download, scratch=scratch),
            "build with Go": functools.partial(_build, scratch=scratch),
        }
        return _first(ways, tool, failed)


@contextlib.contextmanager
def _installing(wanted: Tool | Schemas) -> Iterator[pathlib.Path]:
    """One process at a time for each thing wanted; gives an empty folder, which is gone afterwards."""
    scratch = _cache() / f"{wanted.name}-{wanted.version}.part"
    try:
        scratch.parent.mkdir(parents=True, exist_ok=True)
        lock = scratch.with_suffix(".lock").open("w")
    except OSError as exc:
        raise ToolError(
            f"{wanted.name} {wanted.version} is not here, and {scratch.parent} cannot be written ({exc.strerror})."
            " Set XDG_CACHE_HOME to a folder that can."
        ) from None
    with lock:
        _lock(lock.fileno(), wanted.name)
        shutil.rmtree(scratch, ignore_errors=True)  # left by a process that was killed
        scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _lock(file: int, name: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _say(f"{name}: another process is installing it, waiting")
        fcntl.flock(file, fcntl.LOCK_EX)


def _keep(tool: Tool, program: pathlib.Path, version: str) -> pathlib.Path:
    """Move a program that runs into its place, in one step: nobody sees half of it."""
    program.chmod(0o755)
    _require_version(tool, program, version)
    target = _cache_path(tool, version)
    target.parent.mkdir(exist_ok=True)
    return program.replace(target)


# The release download


def _download(tool: Tool, scratch: pathlib.Path) -> pathlib.Path:
    try:
        return _fetch(tool, scratch)
    except _WrongChecksum as exc:
        _say(f"{tool.name}: ERROR: {exc}")
        raise
    except (_Failed, OSError, http.client.HTTPException, tarfile.TarError, EOFError, zlib.error) as exc:
        reason = _short(exc)
        _say(f"{tool.name}: no release download here ({reason}), trying Go")
        raise _Failed(reason) from None


def _fetch(tool: Tool, scratch: pathlib.Path) -> pathlib.Path:
    asset = tool.assets.get(this_platform())
    if asset is None:
        raise _Failed(f"none is pinned for {'/'.join(this_platform())}")
    archive = scratch / "archive.tar.gz"
    _save(asset.url, archive, f"{tool.name} {tool.version}")
    _require_checksum(asset, archive)
    program = scratch / tool.name
    _unpack(archive, asset.member, program)
    return _keep(tool, program, tool.version)


def _save(url: str, file: pathlib.Path, what: str) -> None:
    try:
        response = urllib.request.urlopen(url, timeout=CONNECT_SECONDS)
    except urllib.error.HTTPError as exc:
        exc.close()
        raise _Failed(f"HTTP {exc.code}") from None
    with response, file.open("wb") as output:
        size = int(response.headers.get("Content-Length") or 0)
        _say(f"downloading {what}" + (f", {_megabytes(size)}" if size else ""))
        said = time.monotonic()
        while piece := response.read(1 << 16):
            output.write(piece)
            if time.monotonic() - said > PROGRESS_SECONDS:
                said = time.monotonic()
                _say(f"still downloading {what}, {_megabytes(output.tell())} so far")
    if size and file.stat().st_size != size:
        raise _Failed("it ended early")


def _require_checksum(asset: Asset, archive: pathlib.Path) -> None:
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != asset.sha256:
        archive.unlink()
        raise _WrongChecksum(
            f"{asset.url} has sha256 {found}, expected {asset.sha256}; the download was deleted and is not used"
        )


def _unpack(archive: pathlib.Path, member: str, program: pathlib.Path) -> None:
    with tarfile.open(archive, "r:gz") as files:
        try:
            packed = files.extractfile(member)
        except KeyError:
            packed = None
        if packed is None:
            raise _Failed(f"the archive holds no file {member}")
        with packed, program.open("wb") as output:
            shutil.copyfileobj(packed, output)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def _short(exc: Exception) -> str:
    """A reason that fits into a line: urllib wraps the one that matters."""
    reason = getattr(exc, "reason", exc)
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return " ".join(text.split())


# Go: builds and downloads


def _build(tool: Tool, scratch: pathlib.Path) -> pathlib.Path:
    program = scratch / tool.name
    what = f"{tool.name} {tool.go_version}"
    minutes = f"{tool.go_minutes} minute{'s' if tool.go_minutes > 1 else ''}"
    arguments = ["build", "-tags", ",".join(tool.tags), "-o", str(program), tool.go_package]
    _run_go(arguments, tool.go_module, scratch, f"building {what} with Go", f", about {minutes} on 2 cores")
    return _keep(tool, program, tool.go_version)


def _collect(wanted: Schemas, scratch: pathlib.Path) -> pathlib.Path:
    """The files of every module, in one folder in `scratch`."""
    collected = scratch / "files"
    for module, patterns in wanted.files.items():
        doing = f"downloading {module} for its {wanted.name}"
        told = json.loads(_run_go(["mod", "download", "-json", module], wanted.go_module, scratch, doing))
        folder = pathlib.Path(told["Dir"])
        for pattern in patterns:
            files = list(folder.glob(pattern))
            if not files:
                raise _Failed(f"{module} {told['Version']} holds no {pattern}")
            for file in files:
                copy = collected / module / file.relative_to(folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
    return collected


def _run_go(arguments: Sequence[str], module: pathlib.Path, scratch: pathlib.Path, doing: str, more: str = "") -> str:
    """Run Go in `module`, telling what it is doing; returns what it printed on stdout."""
    go = shutil.which("go")
    if go is None:
        raise _Failed("no go on PATH")
    if not (module / "go.mod").is_file():
        raise _Failed(f"no {module / 'go.mod'}; it is part of a checkout of this project")
    _say(doing + more)
    temporary = scratch / "tmp"  # Go's own temporary files, so that they go when scratch goes
    temporary.mkdir(exist_ok=True)
    # GOWORK: a go.work above this checkout would change what is built.
    pinned = {"GOFLAGS": "-mod=readonly", "GOWORK": "off", "GOTMPDIR": str(temporary)}
    printed, log = scratch / "stdout", scratch / "stderr"
    with printed.open("wb") as output, log.open("wb") as errors:
        child = subprocess.Popen(
            [go, *arguments],
            cwd=module,
            env={**os.environ, **pinned},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,  # so that its compilers can be ended with it
        )
    try:
        _wait(child, doing)
    except BaseException:
        _end(child)
        raise
    if child.returncode:
        # `go mod download -json` tells its errors on stdout.
        lines = [line for file in (printed, log) for line in file.read_text(errors="replace").splitlines()][-5:]
        raise _Failed("\n    ".join([f"`go {arguments[0]}` ended with {child.returncode}, its last lines:", *lines]))
    return printed.read_text()


def _wait(child: subprocess.Popen[bytes], doing: str) -> None:
    started = time.monotonic()
    while True:
        try:
            child.wait(PROGRESS_SECONDS)
            return
        except subprocess.TimeoutExpired:
            _say(f"still {doing}, {time.monotonic() - started:.0f} s so far")


def _end(child: subprocess.Popen[bytes]) -> None:
    """End Go and its compilers: as Ctrl-C does, then for certain."""
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


# The command


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _tool(name: str) -> Tool | Schemas:
    try:
        return TOOLS[name]
    except KeyError:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(TOOLS)}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the path of each thing asked for; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.toolchain",
        description="Print the paths of programs; install them into a cache where they are missing.",
        epilog="Tried in this order: DOLT, BD or KUSTOMIZE in the environment, PATH, the cache"
        f" ({_cache()}), a release download, a build with Go. The schemas: the cache, a download with Go.",
    )
    parser.add_argument("tools", metavar="tool", nargs="*", type=_tool, help=f"{', '.join(TOOLS)}; default: dolt bd")
    tools = parser.parse_args(arguments).tools or [TOOLS["dolt"], TOOLS["bd"]]
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # not under nohup
            signal.signal(number, signal.default_int_handler)  # clean up as after Ctrl-C
    try:
        for tool in tools:
            print(find(tool) if isinstance(tool, Tool) else schemas(tool), flush=True)
    except ToolError as exc:
        _say(str(exc))
        return 1
    except KeyboardInterrupt:
        _say("Stopped; nothing half-done was left behind.")
        return 130
    return 0
