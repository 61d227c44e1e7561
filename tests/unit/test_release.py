"""What `make release` makes: built twice with the same hashes, from what is committed; and what is in the image."""

import io
import json
import os
import pathlib
import sys
import tarfile
import tomllib

import pytest

from tools.release import base_packages, source
from tools.release.commands import ReleaseError, run
from tools.release.image import Builder, BuiltImage

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def commit(tmp_path: pathlib.Path) -> source.Revision:
    """The project's own build, of a commit that this test makes: a file that is not committed stands beside it."""
    checkout = tmp_path / "checkout"
    (checkout / "beads_dispatch").mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "beads_dispatch/__init__.py", "beads_dispatch/bead.py"):
        (checkout / name).write_bytes((ROOT / name).read_bytes())
    (checkout / "beads_dispatch" / "bead.py").chmod(0o600)
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    for words in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "--message=one"]):
        run(["git", *words], checkout)
    (checkout / "beads_dispatch" / "uncommitted.py").write_text("")
    return source.Revision.last(checkout)


def with_setuptools(tree: pathlib.Path, out: pathlib.Path, env: dict[str, str]) -> None:
    """The same backend as `build` calls, which is in the release's environment alone. One place has another umask."""
    out.mkdir()
    before = os.umask(0o077 if "second" in str(tree) else 0o002)
    try:
        for hook in ("build_sdist", "build_wheel"):
            run(
                [sys.executable, "-c", f"from setuptools import build_meta; build_meta.{hook}({str(out)!r})"], tree, env
            )
    finally:
        os.umask(before)


def test_two_builds_have_the_same_hashes(commit: source.Revision, tmp_path: pathlib.Path) -> None:
    """Also in another place and with another umask; every date is the commit's, and nothing uncommitted is in it."""
    sdist, wheel = source.build_twice(commit, tmp_path, with_setuptools)
    with tarfile.open(sdist) as files:
        assert {member.mtime for member in files} == {commit.epoch}
        assert {member.mode for member in files} == {0o644, 0o755}
        names = files.getnames()
    assert any(name.endswith("/beads_dispatch/bead.py") for name in names)
    assert not any("uncommitted" in name for name in names)
    assert wheel.suffix == ".whl"


def test_builds_that_differ_are_refused(commit: source.Revision, tmp_path: pathlib.Path) -> None:
    """The text names the file."""

    def build(tree: pathlib.Path, out: pathlib.Path, env: dict[str, str]) -> None:
        with_setuptools(tree, out, env)
        (wheel,) = out.glob("*.whl")
        wheel.write_bytes(wheel.read_bytes() + os.urandom(8))

    with pytest.raises(ReleaseError, match=r"two builds differ in .*\.whl"):
        source.build_twice(commit, tmp_path, build)


def test_the_checksums_are_sha256sums(tmp_path: pathlib.Path) -> None:
    """Every file, in the form that `sha256sum --check` reads; made again, they do not name themselves."""
    (tmp_path / "a.whl").write_bytes(b"a")
    (tmp_path / "b.tar.gz").write_bytes(b"b")
    first = source.write_checksums(tmp_path).read_text()
    assert source.write_checksums(tmp_path).read_text() == first
    assert [line.split("  ")[1] for line in first.splitlines()] == ["a.whl", "b.tar.gz"]
    assert "a.whl: OK" in run(["sha256sum", "--check", "SHA256SUMS"], tmp_path)


def packed(files: dict[str, bytes]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return written.getvalue()


def image(*layers: dict[str, bytes], config: dict[str, object]) -> BuiltImage:
    """An image in the OCI layout."""
    blobs = {f"l{number}": packed(layer) for number, layer in enumerate(layers)}
    blobs["config"] = json.dumps({"config": config}).encode()
    digests = [{"digest": f"sha256:l{number}"} for number in range(len(layers))]
    blobs["manifest"] = json.dumps({"config": {"digest": "sha256:config"}, "layers": digests}).encode()
    index = json.dumps({"manifests": [{"digest": "sha256:manifest"}]}).encode()
    files = {"index.json": index, **{f"blobs/sha256/{name}": content for name, content in blobs.items()}}
    return BuiltImage(tarfile.open(fileobj=io.BytesIO(packed(files))))


STATUS = b"""Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u14
Description: C library
 more of it

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1

Package: zlib1g
Status: install ok installed
Architecture: amd64
Version: 1:1.2.13
"""


def test_a_file_of_the_image_is_as_its_last_layer_leaves_it() -> None:
    """Replaced, or removed with its folder."""
    found = image(
        {"a/x": b"old", "a/y": b"kept", "b/x": b"gone", "c/x": b"gone"},
        {"a/x": b"new", "b/.wh.x": b"", ".wh.c": b""},
        config={"Labels": {"org.opencontainers.image.version": "1"}},
    )
    assert found.files("/*/*") == {"/a/x": b"new", "/a/y": b"kept"}
    assert found.files("/a/x") == {"/a/x": b"new"}
    assert found.labels == {"org.opencontainers.image.version": "1"}
    assert found.digest == "sha256:manifest"


def test_the_packages_of_the_base_are_listed() -> None:
    """Those that are installed, with the names that vulnerability scanners look up."""
    release = b'ID=debian\nVERSION_ID="12"\n'
    base = image(
        {"var/lib/dpkg/status": STATUS, "etc/os-release": release},
        config={"Env": ["PATH=/bin", "PYTHON_VERSION=3.11.14"]},
    )
    assert [component["purl"] for component in base_packages.components(base)] == [
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64&distro=debian-12",
        "pkg:deb/debian/zlib1g@1%3A1.2.13?arch=amd64&distro=debian-12",
        "pkg:generic/python@3.11.14",
    ]


def test_without_a_builder_there_is_no_image(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """A client without a server is no builder; one that is asked for must work."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Builder.find(None) is None
    client = tmp_path / "docker"
    client.write_text("#!/bin/sh\nexit 1\n")
    client.chmod(0o755)
    assert Builder.find(None) is None
    with pytest.raises(ReleaseError, match="docker does not work here"):
        Builder.find("docker")
    client.write_text("#!/bin/sh\nexit 0\n")
    found = Builder.find(None)
    assert found is not None and found.program == str(client)


def test_the_image_is_labelled() -> None:
    """With OCI's annotations: constant ones as pyproject.toml has them, and those that the build gives."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "Dockerfile").read_text()
    labels = dict(
        line.split("=", 1)
        for line in lines.partition("LABEL ")[2]
        .replace(" \\\n", "\n")
        .replace("org.opencontainers.image.", "")
        .split("\n  ")
    )
    labels = {name.strip(): value.strip().strip('"') for name, value in labels.items()}
    assert labels == {
        "title": project["name"],
        "description": project["description"],
        "licenses": project["license"],
        "source": project["urls"]["Homepage"],
        "documentation": project["urls"]["Documentation"],
        "version": "${VERSION}",
        "revision": "${REVISION}",
        "created": "${CREATED}",
    }
