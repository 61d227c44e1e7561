"""Finds a program by the first way that works."""

import functools
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping

from tools.toolchain import cache, download, go_build
from tools.toolchain.pins import BD_1_0_2, BD_1_3_0, DOLT, KUBE_SCORE, KUSTOMIZE, PROMTOOL, SCHEMAS, Schemas, Tool
from tools.toolchain.progress import ToolError, WayFailed, report

_Way = Callable[[Tool], pathlib.Path]


def dolt() -> pathlib.Path:
    """A dolt that is accepted. Raises ToolError."""
    return find(DOLT)


def bd(version: str = "1.3.0") -> pathlib.Path:
    """A bd that is accepted: 1.3.0 or newer, or exactly 1.0.2 when that is asked for. Raises ToolError."""
    tool = {"1.3.0": BD_1_3_0, "1.0.2": BD_1_0_2}.get(version)
    if tool is None:
        raise ToolError(f"bd {version} is not pinned here. Ask for 1.3.0 or 1.0.2.")
    return find(tool)


def kustomize() -> pathlib.Path:
    """A kustomize that is accepted. Raises ToolError."""
    return find(KUSTOMIZE)


def kube_score() -> pathlib.Path:
    """A kube-score that is accepted. Raises ToolError."""
    return find(KUBE_SCORE)


def promtool() -> pathlib.Path:
    """A promtool that is accepted. Raises ToolError."""
    return find(PROMTOOL)


def schemas(pinned: Schemas = SCHEMAS) -> pathlib.Path:
    """A folder with the files, below their module's name at their path in it. Raises ToolError."""
    folder = cache.folder() / f"{pinned.name}-{pinned.version}"
    if folder.is_dir():
        return folder
    with cache.installing(pinned) as scratch:
        if not folder.is_dir():  # another process may have installed it while this one waited for the lock
            try:
                go_build.collect(pinned, scratch).replace(folder)
            except (WayFailed, OSError) as exc:
                raise ToolError(
                    f"the {pinned.name} {pinned.version} are not here and cannot be downloaded: {exc}\n"
                    "They come with Go: install it (https://go.dev/dl), put it on PATH, let it reach the network once."
                ) from None
    return folder


def find(tool: Tool) -> pathlib.Path:
    """The program, by the first way that works. Raises ToolError."""
    variable = tool.name.upper().replace("-", "_")
    named = os.environ.get(variable)
    if named:
        try:
            return cache.require_accepted(tool, pathlib.Path(named).expanduser().absolute())
        except WayFailed as exc:
            raise ToolError(
                f"{variable} names a program that is not accepted: {exc}. Set {variable} to the path of"
                f" {tool.name} {tool.accepted}, or unset it and one is found or installed."
            ) from None
    failed: dict[str, str] = {}
    found = _first({"PATH": _on_path, "cache": cache.find}, tool, failed) or _install(tool, failed)
    if found is None:
        reasons = "\n".join(f"  {way}: {reason}" for way, reason in failed.items())
        raise ToolError(
            f"{tool.name} {tool.accepted} is not here and cannot be installed:\n{reasons}\n"
            f"Install it and put it on PATH, or set {variable} to its path."
        )
    return found


def _first(ways: Mapping[str, _Way], tool: Tool, failed: dict[str, str]) -> pathlib.Path | None:
    for name, way in ways.items():
        try:
            return way(tool)
        except (WayFailed, OSError) as exc:
            failed[name] = str(exc)
    return None


def _on_path(tool: Tool) -> pathlib.Path:
    found = shutil.which(tool.name)
    if found is None:
        raise WayFailed(f"no {tool.name} there")
    try:
        return cache.require_accepted(tool, pathlib.Path(found).absolute())
    except WayFailed as exc:
        report(f"{tool.name}: not used: {exc}")
        raise


def _install(tool: Tool, failed: dict[str, str]) -> pathlib.Path | None:
    with cache.installing(tool) as scratch:
        ways: dict[str, _Way] = {
            # Again: another process may have installed it while this one waited for the lock.
            "cache": functools.partial(cache.find, remove_broken=True),
            "release download": functools.partial(download.install, scratch=scratch),
            "build with Go": functools.partial(go_build.install, scratch=scratch),
        }
        return _first(ways, tool, failed)
