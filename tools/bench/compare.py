"""A measurement on another commit's code and on this one, in turns: python -m tools.bench.compare REV NAME [its options]

What is measured (beads/, feeder/, functions/) is the commit's on one side and this checkout's on the other; what
measures is this checkout's on both. Prints the median of each figure over the rounds, and their ratio.
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

ROOT = pathlib.Path(__file__).parent.parent
MEASURED = ("beads", "feeder", "functions")
MEASURING = ("bench", "local", "knative", "requirements")


def make_tree(folder: pathlib.Path, rev: str | None) -> pathlib.Path:
    """What is measured as it was at `rev` (None: as it is), beside what measures. Raises CalledProcessError."""
    folder.mkdir()
    names = (*MEASURING, *(() if rev else MEASURED))
    for name in names:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    if rev:
        archive = subprocess.run(
            ["git", "-C", str(ROOT), "archive", rev, *MEASURED], check=True, capture_output=True
        ).stdout
        subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder


def figures(found: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a result, by where they stand in it."""
    for name, value in found.items():
        if isinstance(value, Mapping):
            yield from figures(value, f"{path}{name}: ")
        elif isinstance(value, int | float) and not isinstance(value, bool) and name not in ("cores", "rounds"):
            yield f"{path}{name}", value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("rev", metavar="REV", help="a commit of this repository")
    parser.add_argument("name", metavar="NAME", help="a measurement: latency, cold, scale, …")
    parser.add_argument("more", metavar="its options", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if not (ROOT / "bench" / f"{options.name}.py").is_file():
        parser.error(f"there is no bench/{options.name}.py")
    with tempfile.TemporaryDirectory(prefix="beads-bench-") as name:
        try:
            trees = {
                "then": make_tree(pathlib.Path(name) / "then", options.rev),
                "now": make_tree(pathlib.Path(name) / "now", None),
            }
        except subprocess.CalledProcessError as exc:
            parser.error(f"{options.rev} cannot be taken out of the repository: {exc.stderr.decode().strip()}")
        found: dict[str, list[dict[str, float]]] = {side: [] for side in trees}
        for number in range(options.rounds):
            for side, tree in trees.items():
                print(f"\n==> round {number + 1} of {options.rounds}: {options.name}, {side}", flush=True)
                done = subprocess.run(
                    [sys.executable, "-m", f"tools.bench.{options.name}", *options.more],
                    cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)},
                )  # fmt: skip
                if done.returncode:
                    print(
                        f"tools.bench.{options.name} fails on the code of {side}; nothing to compare", file=sys.stderr
                    )
                    return 1
                found[side].append(
                    dict(figures(json.loads(tree.joinpath(f"bench/results/{options.name}.json").read_text())))
                )
    rows = {
        name: {side: round(statistics.median(taken[name] for taken in found[side]), 2) for side in found}
        for name in found["now"][0]
        if all(name in taken for side in found.values() for taken in side)
    }
    table = {
        name: {**row, "now/then": round(row["now"] / row["then"], 2) if row["then"] else ""}
        for name, row in rows.items()
    }
    report.table(f"{options.name}, {options.rev} and now, medians of {options.rounds} rounds in turns", table)
    report.write(f"{options.name}-against", {"rev": options.rev, "rounds": options.rounds, "figures": table})
    return 0


if __name__ == "__main__":
    sys.exit(main())
