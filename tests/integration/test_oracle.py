"""The oracle itself: what is meant to differ from `bd ready` is met, what is not is noticed, and a graph comes again.

The ten random graphs are a part of test_chaos.py.
"""

import json
import pathlib
import re
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from beads_dispatch.store import predicate
from local.dolt import DoltServer
from tools.chaos import oracle, oracle_compare
from tools.chaos.oracle import Place, Report
from tools.chaos.oracle_graph import ACCEPTANCE, Graph
from tools.database import AGENT

PlaceFactory = Callable[[str], Place]


@pytest.fixture
def make_place(dolt_server: DoltServer, tmp_path: pathlib.Path) -> PlaceFactory:
    """Builds a workspace of its own for a version of bd."""
    return lambda version: Place(version, dolt_server.port, tmp_path)


def depends_on(graph: Graph, bead: str, other: str, kind: str) -> dict[str, Any]:
    """What a bead's line for `bd import` has for it."""
    return {"dependencies": [{"issue_id": graph.name + bead, "depends_on_id": graph.name + other, "type": kind}]}


def meant(place: Place) -> Graph:
    """Each difference that is meant, once, and beads with none: a wisp and what waits for its children among them."""
    graph = place.empty_graph(0)
    name = graph.name
    beads: dict[str, dict[str, Any]] = {
        "plain": {},
        "gate": {"issue_type": "gate"},
        "template": {"is_template": True},
        "epic": {"issue_type": "epic"},
        "child": depends_on(graph, "child", "epic", "parent-child"),
        "due": {"status": "deferred", "defer_until": "2025-01-01T00:00:00Z"},
        "parent": depends_on(graph, "parent", "plain", "conditional-blocks"),
        "near": depends_on(graph, "near", "parent", "parent-child"),
        "far": depends_on(graph, "far", "near", "parent-child"),
    }
    common = {"assignee": AGENT, "acceptance_criteria": ACCEPTANCE}
    lines = [json.dumps({"id": name + bead, "title": bead, **common, **more}) for bead, more in beads.items()]
    graph.bd("import", graph.file("beads.jsonl", "\n".join(lines)))
    work = ("--acceptance", ACCEPTANCE, "--assignee", AGENT)
    graph.bd("create", "no history", "--no-history", *work)
    graph.bd("create", "wisp", "--id", f"{name}wisp", "--ephemeral", *work)
    graph.bd("create", "child of a wisp", "--parent", f"{name}wisp", *work)
    graph.bd("create", "waits for children of a wisp", "--waits-for", f"{name}wisp", *work)
    return graph


@pytest.mark.parametrize("version", oracle.VERSIONS)
def test_what_is_meant_to_differ_is_met_once_each(make_place: PlaceFactory, version: str) -> None:
    place, report = make_place(version), Report()
    place.compare({0: meant(place)}, 0, report)
    tables = (*oracle_compare.STRICTER, *oracle_compare.LOOSER)
    assert report.met == dict.fromkeys((each.name for each in tables if version in each.versions), 1)
    assert (report.unnamed, report.inconsistent) == ([], [])


def test_a_difference_that_has_no_name_is_noticed(make_place: PlaceFactory, capsys: pytest.CaptureFixture[str]) -> None:
    """Both ways, with the commands that lead to it."""
    place, report = make_place(oracle.VERSIONS[0]), Report()
    graph = meant(place)
    stricter = [each for each in oracle_compare.STRICTER if each.name != "template"]
    with (
        mock.patch.object(predicate, "HIDDEN_TYPES", ("none",)),
        mock.patch.object(oracle_compare, "STRICTER", stricter),
    ):
        place.compare({3: graph}, 7, report)
    wrong = {one.split(": ")[1].removeprefix(graph.name): one for one in report.unnamed}
    assert {*wrong} == {"gate", "template"}
    assert "eligible, but not in bd ready" in wrong["gate"]
    assert "in bd ready, but unmet are: template" in wrong["template"]
    printed = capsys.readouterr().out
    assert f"python -m tools.chaos.oracle {place.version} 7 3" in printed
    assert all(command in printed for command in graph.commands)


def test_the_same_seed_makes_the_same_graph(make_place: PlaceFactory) -> None:
    one, other = (place.graph(7, 1) for place in (make_place("1.3.0"), make_place("1.3.0")))
    assert _anonymous(one) == _anonymous(other)


def _anonymous(graph: Graph) -> list[str]:
    """The commands without dates, and with numbers for ids: bd chooses some by itself."""
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:]+Z", "DATE", "\n".join(graph.commands))
    prefix = graph.name.partition("-")[0]
    numbers: dict[str, str] = {}
    return re.sub(
        rf"{prefix}-[\w.-]+", lambda found: numbers.setdefault(found[0], f"#{len(numbers)}"), text
    ).splitlines()
