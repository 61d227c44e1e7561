"""A measurement on another commit's code and on this one, in turns: python -m tools.bench.compare REV NAME [options]

What is measured (beads_dispatch/, feeder/, functions/) is the commit's on one side and this checkout's on the other;
the measuring code is this checkout's on both. Prints the median of each figure over the rounds, and their ratio.
Commits before version 0.2.0 have another layout and cannot be compared.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from tools.bench import report

ROOT = pathlib.Path(__file__).parents[2]
MEASURED = ("beads_dispatch", "feeder", "functions")
MEASURING = ("tools", "local", "knative", "requirements")


class CannotCompare(Exception):
    """The text has the reason."""


def make_tree(folder: pathlib.Path, rev: str | None) -> pathlib.Path:
    """What is measured as it was at `rev` (None: as it is), beside what measures. Raises CannotCompare."""
    if rev and not _git("rev-parse", "--verify", "--quiet", f"{rev}^{{commit}}"):
        raise CannotCompare(f"{rev} is not a commit of this repository")
    if rev and len(_git("ls-tree", "--name-only", rev, *MEASURED).split()) < len(MEASURED):
        raise CannotCompare(
            f"{rev} has no {', '.join(MEASURED)}: its layout is that of version 0.1.0, whose code these measurements"
            " cannot run. Check it out and run its own bench/ instead."
        )
    folder.mkdir()
    for name in (*MEASURING, *(() if rev else MEASURED)):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    if rev:
        subprocess.run(["tar", "-x", "-C", str(folder)], input=_git("archive", rev, *MEASURED), check=True)
    return folder


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True).stdout


def figures(found: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a result, by their place in it."""
    for name, value in found.items():
        if isinstance(value, Mapping):
            yield from figures(value, f"{path}{name}: ")
        elif isinstance(value, int | float) and not isinstance(value, bool) and name not in ("cores", "rounds"):
            yield f"{path}{name}", value


def measure(tree: pathlib.Path, name: str, options: list[str]) -> dict[str, float]:
    """Run a measurement in a tree; its figures. Raises CannotCompare when it fails."""
    command = [sys.executable, "-m", f"tools.bench.{name}", *options]
    if subprocess.run(command, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}).returncode:
        raise CannotCompare(f"tools.bench.{name} fails on the code of `{tree.name}`")
    return dict(figures(json.loads((tree / "tools" / "bench" / "results" / f"{name}.json").read_text())))


def medians(found: Mapping[str, list[dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """The median of each figure that all rounds have, for `then` and `now`, and their ratio."""
    table: dict[str, dict[str, Any]] = {}
    for name in found["now"][0]:
        if all(name in taken for side in found.values() for taken in side):
            row = {side: round(statistics.median(taken[name] for taken in found[side]), 2) for side in found}
            table[name] = {**row, "now/then": round(row["now"] / row["then"], 2) if row["then"] else ""}
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("rev", metavar="REV", help="a commit of this repository")
    parser.add_argument("name", metavar="NAME", help="a measurement: latency, cold, scale, …")
    parser.add_argument("more", metavar="its options", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if not (ROOT / "tools" / "bench" / f"{options.name}.py").is_file():
        parser.error(f"there is no tools/bench/{options.name}.py")
    with tempfile.TemporaryDirectory(prefix="beads-bench-") as folder:
        try:
            trees = [
                make_tree(pathlib.Path(folder) / side, rev) for side, rev in (("then", options.rev), ("now", None))
            ]
            found: dict[str, list[dict[str, float]]] = {tree.name: [] for tree in trees}
            for number in range(options.rounds):
                for tree in trees:
                    print(f"\n==> round {number + 1} of {options.rounds}: {options.name}, {tree.name}", flush=True)
                    found[tree.name].append(measure(tree, options.name, options.more))
        except CannotCompare as exc:
            parser.error(str(exc))
    table = medians(found)
    report.table(f"{options.name}, {options.rev} and now, medians of {options.rounds} rounds in turns", table)
    report.write(f"compare-{options.name}", {"rev": options.rev, "rounds": options.rounds, "figures": table})
    return 0


if __name__ == "__main__":
    sys.exit(main())
