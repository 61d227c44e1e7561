"""What is pinned: versions, checksums, and the Go modules that pin a build."""

import pathlib
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass

GO_MODULES = pathlib.Path(__file__).parent / "go"

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
    tags: tuple[str, ...] = ("gms_pure_go",)  # regular expressions in Go, or the build needs ICU's C++ library
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
    files: Mapping[str, tuple[str, ...]]  # by module, the patterns of their paths in it


def this_platform() -> Platform:
    """This machine's operating system and architecture."""
    machine = platform.machine().lower()
    return sys.platform, {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _assets(url: str, member: str, **sha256: str) -> dict[Platform, Asset]:
    """The archives at `url`, one for each `<os>_<arch>` whose checksum is given."""
    found = {}
    for name, checksum in sha256.items():
        system, _, machine = name.partition("_")
        places = {"os": system, "arch": machine}
        found[system, machine] = Asset(url.format(**places), checksum, member.format(**places))
    return found


# The download and the build differ: the project was measured on 2.2.0, but of its archives no checksum could be
# found, so the download is 2.3.3.
DOLT = Tool(
    name="dolt",
    lowest="1.87.0",
    lowest_reason="Dolt before 1.87.0 breaks its writers when the binlog is on",
    version="2.3.3",
    assets=_assets(
        "https://github.com/dolthub/dolt/releases/download/v2.3.3/dolt-{os}-{arch}.tar.gz",
        "dolt-{os}-{arch}/bin/dolt",
        linux_amd64="4acd730a4c53991996854a72fbb1add102b0a583bd07411320efb65037a43d9d",
        linux_arm64="850a880aece6587cb9251ea0f07eb51fcc0a37450471fd89e03ac2fba1fdaed3",
        darwin_arm64="55c11d34df78d7583f1130a1adef7763340f2aade33e68ccb0046854134ad08b",
        darwin_amd64="e33f4fa00032054e38da78b31314f8e93fa9eb950c587ac5f29ba5c6402b3f2a",
    ),
    go_version="2.2.0",
    go_module=GO_MODULES / "dolt",
    go_package="github.com/dolthub/dolt/go/cmd/dolt",
    go_minutes=4,
)


def _bd(version: str, *, exact: bool = False, **sha256: str) -> Tool:
    url = f"https://github.com/gastownhall/beads/releases/download/v{version}/beads_{version}_{{os}}_{{arch}}.tar.gz"
    return Tool(
        name="bd",
        lowest=version,
        exact=exact,
        version=version,
        assets=_assets(url, "bd", **sha256),
        go_version=version,
        go_module=GO_MODULES / f"bd-{version}",
        go_package="github.com/steveyegge/beads/cmd/bd",
        go_minutes=5,
    )


BD_1_3_0 = _bd(
    "1.3.0",
    linux_amd64="2f92b904ecf35b607e44dc5c39229173af69c54f1183e8d709f1773540cdcf3b",
    linux_arm64="4ce9446a68edc13202b76c84a47d66fb3dad2787b6464c9522a108faf9c1c608",
)
# For the older schema, which BeadBoard reads: no other version makes it, hence exact.
BD_1_0_2 = _bd(
    "1.0.2",
    exact=True,
    linux_amd64="66280bca14581218684027fee000810c2e40a9c6fe00e876ff64bdcb01a036c0",
    linux_arm64="f7b60c2398305bdb18d4ece1c84b87951e5bbcd6966fa0d607ac16f9d6e11a4d",
    darwin_arm64="f3b27edd4ed43ce8aa792837145f324e4b8a3cbf9dc0c81d144682da46189038",
    darwin_amd64="7d9de37b544ecc55ccc798da6778051344dba839834943957942f38412d7a13a",
)

# For darwin no second source confirmed a checksum, so there it is built.
KUSTOMIZE = Tool(
    name="kustomize",
    lowest="5.5.0",  # the oldest that was tried: what kubectl 1.32 has built in
    version="5.8.1",
    assets=_assets(
        "https://github.com/kubernetes-sigs/kustomize/releases/download/kustomize/v5.8.1"
        "/kustomize_v5.8.1_{os}_{arch}.tar.gz",
        "kustomize",
        linux_amd64="029a7f0f4e1932c52a0476cf02a0fd855c0bb85694b82c338fc648dcb53a819d",
        linux_arm64="0953ea3e476f66d6ddfcd911d750f5167b9365aa9491b2326398e289fef2c142",
    ),
    go_version="5.8.1",
    go_module=GO_MODULES / "kustomize",
    go_package="sigs.k8s.io/kustomize/kustomize/v5",
    go_minutes=1,
    tags=(),
    version_prefix="",
)

# Kubernetes' own OpenAPI and Knative's custom resource definitions (its 1.21 is 0.48 as a Go module); and Knative's
# Deployments, whose labels the network policies name.
SCHEMAS = Schemas(
    name="schemas",
    version="kubernetes-1.34.1-knative-0.48.0",
    go_module=GO_MODULES / "schemas",
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
