"""What the image has from its base: the Debian packages, and the interpreter. Of those pip knows nothing."""

from collections.abc import Iterator
from email.parser import BytesParser
from typing import Any
from urllib.parse import quote

from tools.release.image import BuiltImage


def components(image: BuiltImage) -> Iterator[dict[str, Any]]:
    """As CycloneDX has them: dpkg's list; and Python, which its official images build from source."""
    release = dict(line.split("=", 1) for line in _text(image, "/etc/os-release", "/usr/lib/os-release") if "=" in line)
    system = release.get("ID", "debian").strip('"')
    distribution = f"{system}-{release.get('VERSION_ID', '').strip(chr(34))}"
    for paragraph in "\n".join(_text(image, "/var/lib/dpkg/status")).split("\n\n"):
        package = BytesParser().parsebytes(paragraph.encode())
        if package.get("Status", "").endswith(" installed"):
            yield _component("deb", f"{system}/", package["Package"], package["Version"], {
                "arch": package["Architecture"], "distro": distribution,
            })  # fmt: skip
    variables = dict(variable.split("=", 1) for variable in image.config.get("Env") or [])
    if "PYTHON_VERSION" in variables:
        yield _component("generic", "", "python", variables["PYTHON_VERSION"], {})


def _component(kind: str, namespace: str, name: str, version: str, qualifiers: dict[str, str]) -> dict[str, Any]:
    query = "&".join(f"{key}={quote(value, safe='')}" for key, value in qualifiers.items())
    purl = f"pkg:{kind}/{namespace}{quote(name, safe='')}@{quote(version, safe='')}" + (f"?{query}" if query else "")
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _text(image: BuiltImage, *paths: str) -> list[str]:
    found = image.files(*paths)
    return next((found[path].decode().splitlines() for path in paths if path in found), [])
