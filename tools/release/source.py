"""The last commit, and the wheel and the sdist of it."""

import gzip
import hashlib
import io
import os
import pathlib
import sys
import tarfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass

from tools.release.commands import ReleaseError, report, run

Build = Callable[[pathlib.Path, pathlib.Path, dict[str, str]], None]


@dataclass(frozen=True)
class Revision:
    """What is released."""

    checkout: pathlib.Path
    revision: str
    epoch: int  # of the commit, in seconds: the only date in what is built

    @classmethod
    def last(cls, checkout: pathlib.Path) -> "Revision":
        """The one that HEAD names; what is not committed is no part of a release."""
        revision, epoch = run(["git", "log", "-1", "--format=%H %ct"], checkout).split()
        if run(["git", "status", "--porcelain"], checkout):
            report(f"the checkout has changes that are not committed; they are not in the release of {revision[:12]}")
        return cls(checkout, revision, int(epoch))

    def extract(self, folder: pathlib.Path) -> pathlib.Path:
        """The committed files, in a folder that is made; returns it."""
        archive = folder.with_suffix(".tar")
        run(["git", "archive", "--format=tar", "-o", archive, self.revision], self.checkout)
        with tarfile.open(archive) as files:
            files.extractall(folder, filter="data")  # which also sets the modes, whatever git's or this process' umask
        archive.unlink()
        return folder


def version(tree: pathlib.Path) -> str:
    """As pyproject.toml has it."""
    return str(tomllib.loads((tree / "pyproject.toml").read_text())["project"]["version"])


def build_twice(commit: Revision, scratch: pathlib.Path, build: Build | None = None) -> list[pathlib.Path]:
    """The sdist and the wheel, built in two places. Raises ReleaseError unless both have the same hashes."""
    first, second = (_build(commit, scratch / name, build or with_build) for name in ("first", "a-second-place"))
    for one in first:
        (other,) = (path for path in second if path.suffix == one.suffix)
        if (one.name, sha256(one)) != (other.name, sha256(other)):
            raise ReleaseError(f"not reproducible: two builds differ in {one.name}; compare {one} and {other}")
        report(f"{one.name}: two builds, one hash: {sha256(one)}")
    return first


def _build(commit: Revision, folder: pathlib.Path, build: Build) -> list[pathlib.Path]:
    folder.mkdir()
    tree, out = commit.extract(folder / "beads-dispatch"), folder / "dist"
    build(tree, out, {**os.environ, "SOURCE_DATE_EPOCH": str(commit.epoch)})
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    normalise(sdist, commit.epoch)
    return [sdist, wheel]


def with_build(tree: pathlib.Path, out: pathlib.Path, env: dict[str, str]) -> None:
    """By `build`, with the locked setuptools: the sdist, then the wheel from the sdist: it is complete."""
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", out, tree], tree, env)


def normalise(sdist: pathlib.Path, epoch: int) -> None:
    """Write the sdist again: setuptools takes over the modes, owners and times of files, and the time of the build."""
    packed = io.BytesIO()
    with tarfile.open(sdist) as old, tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new:
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            executable = member.isdir() or member.mode & 0o100
            member.mode, member.mtime = (0o755 if executable else 0o644), epoch
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    sdist.write_bytes(gzip.compress(packed.getvalue(), mtime=epoch))


def sha256(path: pathlib.Path) -> str:
    """As sha256sum prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: pathlib.Path) -> pathlib.Path:
    """SHA256SUMS of every other file in the folder, for `sha256sum --check`."""
    sums = folder / "SHA256SUMS"
    files = sorted(path for path in folder.iterdir() if path != sums)
    sums.write_text("".join(f"{sha256(path)}  {path.name}\n" for path in files))
    return sums
