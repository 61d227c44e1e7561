"""bd is the oracle: what is eligible is what `bd ready` shows, for random workspaces made with the real bd.

One graph alone, in a workspace of its own: python -m tools.chaos.oracle BD_VERSION SEED NUMBER
"""

import contextlib
import pathlib
import random
import secrets
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from beads_dispatch.store import Store
from local.workspace import Workspace
from tools import toolchain, world
from tools.chaos import oracle_commands, oracle_compare, oracle_graph
from tools.chaos.checks import Check, check, progress
from tools.chaos.oracle_graph import Graph
from tools.database import BeadsDatabase
from tools.world import World

VERSIONS = ("1.3.0", "1.0.2")

_GRAPHS, _ROUND = 60, 20  # for each version of bd; compared after each round
_SHORT = 5


@dataclass
class Report:
    """What was made and found on one version of bd."""

    graphs: int = 0
    commands: int = 0
    refused: int = 0
    beads: int = 0
    ready: int = 0
    met: Counter[str] = field(default_factory=Counter)
    alone: Counter[str] = field(default_factory=Counter)
    unnamed: list[str] = field(default_factory=list)
    inconsistent: list[str] = field(default_factory=list)


class Place:
    """A workspace of one version of bd; graphs gather in it."""

    def __init__(self, version: str, port: int, folder: pathlib.Path) -> None:
        """`port`: of the Dolt server; `folder`: where the workspace's folder is made."""
        self.version = version
        self.prefix = f"o{version.replace('.', '')}{secrets.token_hex(2)}"
        workspace = Workspace(toolchain.bd(version), folder / self.prefix)
        workspace.init(port, self.prefix)
        self.database = BeadsDatabase(workspace)
        oracle_graph.prepare(self.database)

    def graph(self, seed: int, number: int) -> Graph:
        """The random graph of this number."""
        graph = self.empty_graph(number, random.Random(f"{seed} {self.version} {number}"))
        oracle_commands.fill(graph)
        return graph

    def empty_graph(self, number: int, chance: random.Random | None = None) -> Graph:
        """One without beads."""
        newest = self.version == VERSIONS[0]
        return Graph(self.database, f"{self.prefix}-{number}x", chance or random.Random(number), newest=newest)

    def compare(self, graphs: dict[int, Graph], seed: int, report: Report) -> None:
        """Compare what these graphs hold, and print the commands of those that show what should not be."""
        watched = {bead: number for number, graph in graphs.items() for bead in graph.beads}
        with contextlib.closing(Store(self.database.dolt)) as store:
            found = oracle_compare.compare(self.version, self.database, store, watched)
        report.graphs += len(graphs)
        report.commands += sum(len(graph.commands) for graph in graphs.values())
        report.refused += sum(graph.refused for graph in graphs.values())
        report.beads += len(watched)
        report.ready += found.ready
        report.met += found.met
        report.alone += found.alone
        report.unnamed += [f"graph {watched[bead]}: {bead}: {what}" for bead, what in found.unnamed.items()]
        report.inconsistent += [
            f"graph {watched.get(bead)}: {bead}: {what}" for bead, what in found.inconsistent.items()
        ]
        wrong = {**found.unnamed, **found.inconsistent}
        for number, graph in graphs.items():
            if beads := [bead for bead in graph.beads if bead in wrong]:
                print(f"--- python -m tools.chaos.oracle {self.version} {seed} {number}", *graph.commands, sep="\n")
                print(*(f"--> {bead}: {wrong[bead]}" for bead in beads), sep="\n", flush=True)


def run(here: World, chance: random.Random, *, short: bool) -> Iterator[Check]:
    reports = compared(here, chance, _SHORT if short else _GRAPHS)
    for version, report in reports.items():
        yield from checks_of(version, report)
    if not short:
        names = [each.name for each in (*oracle_compare.STRICTER, *oracle_compare.LOOSER)]
        yield _each("each difference that is meant occurs", names, [report.met for report in reports.values()])
        alone = [report.alone for report in reports.values()]
        yield _each("each condition decides alone about some bead", oracle_compare.SHARED, alone)


def compared(here: World, chance: random.Random, graphs: int, versions: Sequence[str] = VERSIONS) -> dict[str, Report]:
    """Make and compare so many graphs with each version of bd, at once."""
    seed, stop = chance.randrange(2**32), threading.Event()
    places = [Place(version, here.server.port, here.folder) for version in versions]
    with ThreadPoolExecutor() as pool:
        try:
            reports = list(pool.map(lambda place: _explore(place, seed, graphs, stop), places))
        except BaseException:
            stop.set()  # SIGTERM or Ctrl-C: no more graphs
            raise
    return dict(zip(versions, reports, strict=True))


def _each(what: str, names: Sequence[str], counts: Sequence[Counter[str]]) -> Check:
    total = sum(counts, Counter[str]())
    figures = ", ".join(f"{total[name]} x {name}" for name in names)
    return check("oracle", what, figures, [f"{name} never did" for name in names if not total[name]])


def checks_of(version: str, report: Report) -> Iterator[Check]:
    figures = (
        f"{report.graphs} graphs, {report.commands} commands ({report.refused} refused), {report.beads} beads,"
        f" {report.ready} ready; meant differences: "
    )
    figures += ", ".join(f"{count} x {name}" for name, count in sorted(report.met.items())) or "none"
    yield check("oracle", f"bd {version}: eligible is what bd ready shows", figures, report.unnamed)
    yield check(
        "oracle", f"bd {version}: the queue, explain and bd agree", f"{report.beads} beads", report.inconsistent
    )


def _explore(place: Place, seed: int, number: int, stop: threading.Event) -> Report:
    report = Report()
    for start in range(0, number, _ROUND):
        numbers = range(start, min(start + _ROUND, number))
        graphs = {each: place.graph(seed, each) for each in numbers if not stop.is_set()}
        if stop.is_set():
            break
        place.compare(graphs, seed, report)
        progress(f"bd {place.version}: {report.graphs} graphs, {report.beads} beads")
    return report


def main(version: str, seed: str, number: str) -> int:
    """Make and compare one graph."""
    with world.world() as here:
        place, report = Place(version, here.server.port, here.folder), Report()
        graph = place.graph(int(seed), int(number))
        print(*graph.commands, sep="\n")
        place.compare({int(number): graph}, int(seed), report)
        return 1 if any(found.broken for found in list(checks_of(version, report))) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
