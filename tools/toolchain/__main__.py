"""python -m tools.toolchain: print the paths of programs; install them where they are missing."""

import argparse
import signal
import sys
from collections.abc import Sequence

from tools.toolchain import cache, finding
from tools.toolchain.pins import TOOLS, Schemas, Tool
from tools.toolchain.progress import ToolError, report


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the path of each program or folder asked for; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.toolchain",
        description="Print the paths of programs; install them into a cache where they are missing.",
        epilog="Tried in this order: DOLT, BD, KUSTOMIZE, KUBE_SCORE or PROMTOOL in the environment, PATH, the cache"
        f" ({cache.folder()}), a release download, a build with Go. The schemas: the cache, a download with Go.",
    )
    parser.add_argument("tools", metavar="tool", nargs="*", type=_tool, help=f"{', '.join(TOOLS)}; default: dolt bd")
    tools = parser.parse_args(arguments).tools or [TOOLS["dolt"], TOOLS["bd"]]
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # not under nohup
            signal.signal(number, signal.default_int_handler)  # clean up as after Ctrl-C
    try:
        for tool in tools:
            print(finding.find(tool) if isinstance(tool, Tool) else finding.schemas(tool), flush=True)
    except ToolError as exc:
        report(str(exc))
        return 1
    except KeyboardInterrupt:
        report("Stopped; nothing half-done was left behind.")
        return 130
    return 0


def _tool(name: str) -> Tool | Schemas:
    try:
        return TOOLS[name]
    except KeyError:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(TOOLS)}") from None


if __name__ == "__main__":
    sys.exit(main())
