"""What pins.toml pins: versions, checksums, and the Go modules that pin a build."""

import pathlib
import platform
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_HERE = pathlib.Path(__file__).parent

Platform = tuple[str, str]  # (os, arch), in Go's words


@dataclass(frozen=True)
class Asset:
    """A release archive (tar.gz) and the program's path in it."""

    url: str
    sha256: str
    member: str


@dataclass(frozen=True)
class Tool:
    """A program, which versions of it are accepted, and what is pinned to install it."""

    name: str
    lowest: str  # from PATH this version or a newer one is accepted, or with `exact` only this one
    version: str  # of the release download
    assets: Mapping[Platform, Asset]
    go_version: str  # of the build with Go
    go_module: pathlib.Path  # a module whose go.mod and go.sum pin everything that goes into the build
    go_package: str
    go_minutes: int  # on 2 cores, with nothing in Go's build cache
    exact: bool = False
    lowest_reason: str = ""  # why an older one is refused
    tags: Sequence[str] = ("gms_pure_go",)  # regular expressions in Go, or the build needs ICU's C++ library
    ldflags: str = ""  # of the build: some programs know their version from these alone
    version_argument: str = "version"
    version_prefix: str = "{name} version "  # what stands before the version in what `<name> version` prints

    @property
    def accepted(self) -> str:
        """The versions that are accepted, in words."""
        return self.lowest if self.exact else f"{self.lowest} or newer"

    @property
    def versions(self) -> list[str]:
        """What the cache may hold: the release's version and the build's, once if they are the same."""
        return list(dict.fromkeys((self.version, self.go_version)))


@dataclass(frozen=True)
class Schemas:
    """Files of Go modules, which are downloaded and not built."""

    name: str
    version: str  # of all of it together: names the folder in the cache, so it changes with what follows
    go_module: pathlib.Path  # a module whose go.mod and go.sum pin those that the files are taken from
    files: Mapping[str, Sequence[str]]  # by module, the patterns of their paths in it


def this_platform() -> Platform:
    """This machine's operating system and architecture."""
    machine = platform.machine().lower()
    return sys.platform, {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _tool(url: str = "", member: str = "", sha256: Mapping[str, str] | None = None, **fields: Any) -> Tool:
    """A table of pins.toml. `sha256` has the checksum of the archive for each <os>_<arch>; without it, Go builds it."""
    assets = {}
    for name, checksum in (sha256 or {}).items():
        system, _, machine = name.partition("_")
        places = {"os": system, "arch": machine}
        assets[system, machine] = Asset(url.format(**places), checksum, member.format(**places))
    return Tool(assets=assets, **fields)


_PINNED = tomllib.loads((_HERE / "pins.toml").read_text())
for _table in _PINNED.values():
    _table["go_module"] = _HERE / "go" / _table["go_module"]
DOLT, BD_1_3_0, BD_1_0_2, KUSTOMIZE, KUBE_SCORE, PROMTOOL = (
    _tool(**_PINNED[name]) for name in ("dolt", "bd", "bd@1.0.2", "kustomize", "kube-score", "promtool")
)
SCHEMAS = Schemas(**_PINNED["schemas"])

# By the name on the command line.
TOOLS: dict[str, Tool | Schemas] = {
    "dolt": DOLT, "bd": BD_1_3_0, "bd@1.3.0": BD_1_3_0, "bd@1.0.2": BD_1_0_2, "kustomize": KUSTOMIZE,
    "kube-score": KUBE_SCORE, "promtool": PROMTOOL, "schemas": SCHEMAS,
}  # fmt: skip
