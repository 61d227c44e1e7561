"""The pinned release download."""

import hashlib
import http.client
import pathlib
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib

from tools.toolchain import cache
from tools.toolchain.pins import Asset, Tool, this_platform
from tools.toolchain.progress import Progress, WayFailed, report

CONNECT_SECONDS = 20  # to connect, and between two pieces: a machine without a network must not wait long


class _WrongChecksum(WayFailed):
    """The download is not the file that is pinned."""


def install(tool: Tool, scratch: pathlib.Path) -> pathlib.Path:
    """Install the release download; returns the program in the cache. Raises WayFailed."""
    try:
        return _fetch(tool, scratch)
    except _WrongChecksum as exc:
        report(f"{tool.name}: ERROR: {exc}")
        raise
    except (WayFailed, OSError, http.client.HTTPException, tarfile.TarError, EOFError, zlib.error) as exc:
        reason = _reason(exc)
        report(f"{tool.name}: no release download here ({reason}), trying Go")
        raise WayFailed(reason) from None


def _fetch(tool: Tool, scratch: pathlib.Path) -> pathlib.Path:
    asset = tool.assets.get(this_platform())
    if asset is None:
        raise WayFailed(f"none is pinned for {'/'.join(this_platform())}")
    archive = scratch / "archive.tar.gz"
    _save(asset.url, archive, f"{tool.name} {tool.version}")
    _require_checksum(asset, archive)
    program = scratch / tool.name
    _unpack(archive, asset.member, program)
    return cache.keep(tool, program, tool.version)


def _save(url: str, file: pathlib.Path, what: str) -> None:
    try:
        response = urllib.request.urlopen(url, timeout=CONNECT_SECONDS)
    except urllib.error.HTTPError as exc:
        exc.close()
        raise WayFailed(f"HTTP {exc.code}") from None
    with response, file.open("wb") as output:
        size = int(response.headers.get("Content-Length") or 0)
        report(f"downloading {what}" + (f", {_megabytes(size)}" if size else ""))
        progress = Progress(f"downloading {what}")
        while piece := response.read(1 << 16):
            output.write(piece)
            progress.tick(_megabytes(output.tell()))
    if size and file.stat().st_size != size:
        raise WayFailed("it ended early")


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
            raise WayFailed(f"the archive holds no file {member}")
        with packed, program.open("wb") as output:
            shutil.copyfileobj(packed, output)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def _reason(exc: Exception) -> str:
    """A reason that fits into a line: urllib wraps the one that matters."""
    reason = getattr(exc, "reason", exc)
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return " ".join(text.split())
