"""The lists of components (SBOM), in CycloneDX's JSON, made by cyclonedx-bom and checked against CycloneDX's schema."""

import json
import pathlib
import sys
import sysconfig
import venv
from typing import Any
from urllib.parse import quote

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tools.release import base_packages
from tools.release.commands import ReleaseError, run
from tools.release.image import BuiltImage
from tools.release.source import sha256

_VERSION = SchemaVersion.V1_6


def of_wheel(wheel: pathlib.Path, tree: pathlib.Path, scratch: pathlib.Path) -> dict[str, Any]:
    """What `pip install` of the wheel installs, at the locked versions."""
    python = _environment(scratch / "wheel")
    pip, locked = [sys.executable, "-m", "pip"], scratch / "locked"
    pins = ["--require-hashes", "-r", "requirements/runtime.txt"]
    run([*pip, "download", "--quiet", "--only-binary", ":all:", *pins, "--dest", str(locked)], tree)
    alone = ["--no-index", "--find-links", str(locked), str(wheel)]
    run([*pip, "--python", str(python), "install", "--quiet", "--no-compile", *alone], tree)
    found = _of_environment(python, tree)
    _main(found)["hashes"] = [{"alg": "SHA-256", "content": sha256(wheel)}]
    return found


def of_image(image: BuiltImage, tree: pathlib.Path, scratch: pathlib.Path) -> dict[str, Any]:
    """The Python packages of the image and the Debian packages of its base."""
    python = _environment(scratch / "image")
    site = pathlib.Path(_site_packages(scratch / "image"))
    for name, content in image.files("/venv/lib/*/site-packages/*.dist-info/*").items():
        path = site.joinpath(*pathlib.PurePosixPath(name).parts[-2:])
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    found = _of_environment(python, tree)
    found["components"] += sorted(base_packages.components(image), key=lambda component: str(component["bom-ref"]))
    _main(found).update(type="container", purl=f"pkg:oci/beads-dispatch@{quote(image.digest, safe='')}")
    return found


def write(bom: dict[str, Any], file: pathlib.Path) -> None:
    """Raises ReleaseError where it is no valid CycloneDX."""
    text = json.dumps(bom, indent=2, ensure_ascii=False) + "\n"
    wrong = JsonStrictValidator(_VERSION).validate_str(text)
    if wrong:
        raise ReleaseError(f"{file.name} is no CycloneDX {_VERSION.to_version()}: {wrong}")
    file.write_text(text)


def _environment(folder: pathlib.Path) -> pathlib.Path:
    venv.create(folder, with_pip=False)
    return folder / "bin" / "python"


def _site_packages(folder: pathlib.Path) -> str:
    return sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)})


def _of_environment(python: pathlib.Path, tree: pathlib.Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", "--of", "JSON"]
    command += [
        "--sv",
        _VERSION.to_version(),
        "--mc-type",
        "library",
        "--pyproject",
        str(tree / "pyproject.toml"),
        str(python),
    ]
    found: dict[str, Any] = json.loads(run(command, tree))
    if not found.get("components"):
        raise ReleaseError(f"no package is installed for {python}")
    return found


def _main(bom: dict[str, Any]) -> dict[str, Any]:
    component: dict[str, Any] = bom["metadata"]["component"]
    return component
