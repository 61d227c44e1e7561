"""Finds the programs that tests run, and installs them where they are missing: `python -m tools.toolchain -h`.

Four ways, the first that works wins: PATH, our cache, a pinned release download, a pinned build with Go.
The schemas that the manifests are checked against are files of pinned Go modules, copied into the same cache.
Standard library only: this runs before the project's dependencies are installed.
"""

from tools.toolchain.finding import bd, dolt, find, kube_score, kustomize, promtool, schemas
from tools.toolchain.progress import ToolError

__all__ = ["ToolError", "bd", "dolt", "find", "kube_score", "kustomize", "promtool", "schemas"]
