"""python -m tools.release: wheel, sdist, image, their lists of components, and SHA256SUMS."""

import argparse
import pathlib
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Sequence

from tools.release import image, sbom, source
from tools.release.commands import ReleaseError, report

CHECKOUT = pathlib.Path(__file__).parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the release; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.release",
        description="Make wheel, sdist, image, lists of components (CycloneDX) and SHA256SUMS from the last commit.",
    )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=CHECKOUT / "dist",
        help="the folder; an older release in it is removed; default: dist",
    )
    parser.add_argument("--builder", help="docker, podman, buildah, or the path of one; default: the first that works")
    parser.add_argument("--base", help="the image to build on, instead of the Dockerfile's")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="release-") as scratch:
            release(options.out.absolute(), pathlib.Path(scratch), options.builder or None, options.base or None)
    except ReleaseError as exc:
        report(f"no release: {exc}")
        return 1
    return 0


def release(out: pathlib.Path, scratch: pathlib.Path, wanted: str | None, base: str | None) -> None:
    """Everything, into `out`. Raises ReleaseError."""
    commit = source.Revision.last(CHECKOUT)
    out.mkdir(parents=True, exist_ok=True)
    for old in (*out.glob("beads_dispatch-*"), *out.glob("SHA256SUMS")):
        old.unlink()
    _sdist, wheel = (pathlib.Path(shutil.copy(built, out)) for built in source.build_twice(commit, scratch))
    tree = commit.extract(scratch / "tree")
    version = source.version(tree)
    sbom.write(sbom.of_wheel(wheel, tree, scratch), out / f"{wheel.stem}.cdx.json")
    skipped = _image(commit, tree, scratch, out / f"beads_dispatch-{version}-image.tar", wanted, base)
    for line in source.write_checksums(out).read_text().splitlines():
        report(line)
    report(f"{out}: the release of {version}, commit {commit.revision[:12]}")
    if skipped:
        report(f"SKIPPED, the image and its list of components: {skipped}")


def _image(
    commit: source.Revision,
    tree: pathlib.Path,
    scratch: pathlib.Path,
    file: pathlib.Path,
    wanted: str | None,
    base: str | None,
) -> str:
    """Make the image and its list of components; returns why it was skipped: a builder that was asked for must work."""
    builder = image.Builder.find(wanted)
    if builder is None:
        return "none of docker, podman and buildah works here"
    try:
        builder.build(commit, tree, base, file)
    except ReleaseError as exc:
        if wanted:
            raise
        return str(exc)
    with tarfile.open(file) as archive:
        sbom.write(sbom.of_image(image.BuiltImage(archive), tree, scratch), file.with_suffix(".cdx.json"))
    return ""


if __name__ == "__main__":
    sys.exit(main())
