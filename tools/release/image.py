"""The image: built by whatever builds images here, saved as one archive, and read from that archive."""

import json
import pathlib
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tools.release.commands import ReleaseError, report, run
from tools.release.source import Revision, version

# How each saves an image as a file. Each builds with `build`; another one is named with its path, under one of these
# names.
_SAVE = {
    "docker": ["save", "--output", "{file}", "{tag}"],
    "podman": ["save", "--format", "oci-archive", "--output", "{file}", "{tag}"],
    "buildah": ["push", "--quiet", "{tag}", "oci-archive:{file}:{tag}"],
}


@dataclass(frozen=True)
class Builder:
    """docker, podman or buildah."""

    program: str

    @classmethod
    def find(cls, wanted: str | None) -> "Builder | None":
        """The one that is wanted, or the first that works here: docker's client alone builds nothing."""
        for name in [wanted] if wanted else _SAVE:
            program = shutil.which(name)
            if (
                program
                and subprocess.run([program, "info"], capture_output=True, stdin=subprocess.DEVNULL).returncode == 0
            ):
                return cls(program)
        if wanted:
            raise ReleaseError(f"{wanted} does not work here: see `{wanted} info`")
        return None

    def build(self, commit: Revision, tree: pathlib.Path, base: str | None, file: pathlib.Path) -> None:
        """Build the Dockerfile of `tree` and save the image in `file`."""
        tag = f"beads-dispatch:{version(tree)}"
        arguments = {
            "VERSION": version(tree),
            "REVISION": commit.revision,
            "CREATED": datetime.fromtimestamp(commit.epoch, UTC).isoformat().replace("+00:00", "Z"),
        }
        if base:
            arguments["BASE"] = base
        words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        report(f"building the image with {self.program}")
        run([self.program, "build", "--tag", tag, *words, tree], tree)
        save = _SAVE.get(pathlib.Path(self.program).name, _SAVE["docker"])
        run([self.program, *(word.format(file=file, tag=tag) for word in save)], tree)


class BuiltImage:
    """An image in an archive of the OCI layout, which docker (25 or newer), podman and buildah write."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        try:
            index = self._json("index.json")
        except KeyError:
            raise ReleaseError("the saved image has no index.json: Docker 25 or newer is needed") from None
        self.digest: str = index["manifests"][0]["digest"]
        manifest = self._blob(self.digest)
        if "manifests" in manifest:  # an index in the index: one platform, since nothing else was asked for
            self.digest = manifest["manifests"][0]["digest"]
            manifest = self._blob(self.digest)
        self._layers: list[str] = [layer["digest"] for layer in manifest["layers"]]
        self.config: dict[str, Any] = self._blob(manifest["config"]["digest"])["config"]

    @property
    def labels(self) -> dict[str, str]:
        """The OCI annotations."""
        return self.config.get("Labels") or {}

    def files(self, *patterns: str) -> dict[str, bytes]:
        """The files whose paths match one of the patterns, as the last layer that has them leaves them."""
        found: dict[str, bytes] = {}
        for digest in self._layers:
            for path, content in self._changes(digest):
                name = path.name
                if name.startswith(".wh."):
                    gone = str(path.with_name(name.removeprefix(".wh.")))
                    found = {key: kept for key, kept in found.items() if key != gone and not key.startswith(f"{gone}/")}
                elif content is not None and any(path.match(pattern) for pattern in patterns):
                    found[str(path)] = content()
        return found

    def _changes(self, digest: str) -> Iterator[tuple[pathlib.PurePosixPath, Any]]:
        packed = self._archive.extractfile(_blob_path(digest))
        with tarfile.open(fileobj=packed) as layer:
            for member in layer:
                file = layer.extractfile(member) if member.isfile() else None
                yield pathlib.PurePosixPath("/", member.name), file.read if file else None

    def _blob(self, digest: str) -> Any:
        return self._json(_blob_path(digest))

    def _json(self, name: str) -> Any:
        file = self._archive.extractfile(name)
        return json.load(file) if file else {}


def _blob_path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"
