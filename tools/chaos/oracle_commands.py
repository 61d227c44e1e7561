"""Random commands for bd: what a workspace can hold that has to do with `bd ready`.

A graph is made by a few commands that create many beads in one of bd's ways, and by some that change them.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tools.chaos.oracle_graph import ACCEPTANCE, CUSTOM_TYPES, Graph
from tools.database import AGENT

_TYPES = (
    *itertools.repeat("task", 30), *itertools.repeat("epic", 10), "bug", "feature", "chore", "decision", "spike",
    "story", "milestone", *CUSTOM_TYPES.split(","),
)  # fmt: skip
_KNOWN_STATUSES = (
    *itertools.repeat("open", 16), *itertools.repeat("closed", 6), "in_progress", "blocked", "deferred", "deferred",
    "pinned", "hooked",
)  # fmt: skip
_STATUSES = (*_KNOWN_STATUSES, "review", "qa", "icebox", "shipped")
_BLOCKING = ("blocks", "blocks", "conditional-blocks", "conditional-blocks", "waits-for", "waits-for", "waits-for")
_OTHER_TYPES = (
    "related", "discovered-from", "tracks", "validates", "until", "caused-by", "relates-to", "supersedes", "duplicates",
    "replies-to", "approved-by", "attests", "authored-by", "assigned-to", "delegated-from",
)  # fmt: skip
_DEPENDENCIES = (*_BLOCKING, *itertools.repeat("parent-child", 7))
_GATES = ("human", "timer", "gh:run", "gh:pr", "bead")
_FANOUTS = ("all-children", "any-children")


def fill(graph: Graph) -> None:
    """Make random beads, and change them."""
    chance = graph.chance
    for create in chance.sample(_CREATIONS, chance.randint(1, 2)):
        create(graph)
    if not graph.beads:
        _one_by_one(graph)
    weights = [weight for weight, _ in _CHANGES]
    for _, change in chance.choices(_CHANGES, weights, k=chance.randint(3, 6)):
        if graph.beads:
            change(graph)
    graph.finish()


def _dependency(graph: Graph) -> str:
    return graph.chance.choice(_DEPENDENCIES if graph.chance.random() < 0.7 else _OTHER_TYPES)


# Ways to create beads.


def _one_by_one(graph: Graph) -> None:
    for _ in range(graph.chance.randint(2, 4)):
        _create(graph)


def _create(graph: Graph) -> None:
    chance = graph.chance
    more = ["--type", chance.choice(_TYPES), "--priority", str(chance.randint(0, 4)), "--labels", chance.choice("ab")]
    if graph.beads and chance.random() < 0.5:
        more += ["--parent", graph.bead()]
    else:
        more += ["--id", graph.new_id()]
    if graph.one_in(6):
        more += ["--defer", graph.date()]
    if graph.one_in(5):
        more += [chance.choice(("--ephemeral", "--no-history"))]
    if graph.beads and graph.one_in(4):
        more += ["--waits-for", graph.bead(), "--waits-for-gate", chance.choice(_FANOUTS)]
    if graph.beads and graph.one_in(3):
        more += ["--deps", f"{_dependency(graph)}:{graph.bead()}"]
    graph.bd("create", f"Bead {len(graph.beads)}", "--acceptance", ACCEPTANCE, "--assignee", AGENT, *more)


def _import(graph: Graph) -> None:
    """The only way to the columns `pinned` and `is_template` of a single bead."""
    beads = [graph.new_id() for _ in range(graph.chance.randint(4, 12))]
    lines = [json.dumps(_record(graph, bead, beads[:number])) for number, bead in enumerate(beads)]
    graph.bd("import", graph.file("beads.jsonl", "\n".join(lines)))


def _record(graph: Graph, bead: str, earlier: Sequence[str]) -> dict[str, Any]:
    chance = graph.chance
    others = chance.sample(earlier, min(len(earlier), chance.randint(0, 2)))
    return {
        "id": bead, "title": f"Bead {bead}", "issue_type": chance.choice(_TYPES), "priority": chance.randint(0, 4),
        "assignee": AGENT, "acceptance_criteria": ACCEPTANCE,
        "status": chance.choice(_STATUSES if graph.newest else _KNOWN_STATUSES),
        "labels": [chance.choice("abc")], "pinned": graph.one_in(20), "is_template": graph.one_in(15),
        **({chance.choice(("ephemeral", "no_history")): True} if graph.one_in(8) else {}),
        **({"defer_until": graph.date()} if graph.one_in(6) else {}),
        "dependencies": [
            {
                "issue_id": bead, "depends_on_id": other, "type": (kind := _dependency(graph)),
                "metadata": json.dumps({"gate": chance.choice(_FANOUTS)}) if kind == "waits-for" else "{}",
            }
            for other in others
        ],
    }  # fmt: skip


def _plan(graph: Graph) -> None:
    """`bd create --graph`: nodes and edges."""
    chance = graph.chance
    nodes: list[dict[str, Any]] = []
    for key in "abcdefgh"[: chance.randint(3, 8)]:
        node: dict[str, Any] = {"key": key, "title": f"Node {key}", "type": chance.choice(_TYPES), "assignee": AGENT}
        if graph.newest:
            node |= {"status": chance.choice(_STATUSES), "pinned": graph.one_in(20)}
        if nodes and graph.one_in(2):
            node["parent_key"] = chance.choice(nodes)["key"]
        nodes.append(node)
    edges = []
    for _ in range(chance.randint(1, len(nodes))):
        one, other = chance.sample([node["key"] for node in nodes], 2)
        kind = chance.choice((*_BLOCKING, *_OTHER_TYPES))
        more = {"gate": chance.choice(_FANOUTS)} if kind == "waits-for" and graph.newest else {}
        edges.append({"from_key": one, "to_key": other, "type": kind, **more})
    plan = json.dumps({"nodes": nodes, "edges": edges})
    graph.bd("create", "--graph", graph.file("plan.json", plan))


def _molecule(graph: Graph) -> None:
    """A formula, poured, as a wisp, or kept as a template."""
    name = f"mol-{graph.name}"
    steps = [_step(graph, f"s{number}", [f"s{other}" for other in range(number)]) for number in range(5)]
    if graph.one_in(2):
        steps.append({"id": "fan", "title": "Fan-in", "assignee": AGENT, "waits_for": "children-of(s0)"})
        steps[0].setdefault("children", [_step(graph, "c", []), _step(graph, "d", ["c"])])
    formula = {"formula": name, "version": 1, "type": "workflow", "phase": "liquid", "pour": True, "steps": steps}
    graph.file(f".beads/formulas/{name}.formula.json", json.dumps(formula))
    graph.bd(*graph.chance.choice((("mol", "pour", name), ("mol", "wisp", name), ("cook", name, "--persist"))))


def _step(graph: Graph, name: str, earlier: list[str]) -> dict[str, Any]:
    chance = graph.chance
    step: dict[str, Any] = {"id": name, "title": f"Step {name}", "assignee": AGENT}
    if earlier and graph.one_in(2):
        step["needs"] = chance.sample(earlier, 1)
        if graph.newest and graph.one_in(3):
            step["waits_for"] = chance.choice(_FANOUTS)
    if graph.one_in(3):
        step["gate"] = {"type": chance.choice(_GATES), "id": "1", "timeout": "1s"}
    if graph.one_in(4) and (graph.newest or "needs" not in step):  # for 1.0.2 an epic waits for epics only
        step["children"] = [_step(graph, f"{name}{child}", []) for child in "ab"]
    return step


def _batch(graph: Graph) -> None:
    graph.bd("batch", "-f", graph.file("batch.txt", "\n".join(_operations(graph, 3 if graph.beads else 0))))


def _operations(graph: Graph, changes: int) -> Iterator[str]:
    """Lines for `bd batch`; one that bd refuses takes all back."""
    for _ in range(graph.chance.randint(2, 4)):
        yield f"create {graph.chance.choice(_TYPES)} {graph.chance.randint(0, 4)} Bead {graph.new_id()}"
    force = " force=true" if graph.newest else ""
    for _ in range(changes):
        yield graph.chance.choice(
            (
                f"update {graph.bead()} status={graph.chance.choice(_STATUSES)}{force}",
                f"dep add {' '.join(graph.two())} {_dependency(graph)}",
                f"close {graph.bead()} done",
            )
        )


_CREATIONS: tuple[Callable[[Graph], None], ...] = (_one_by_one, _import, _import, _plan, _molecule, _molecule, _batch)


# Ways to change them.


def _depend(graph: Graph) -> None:
    graph.bd("dep", "add", *graph.two(), "--type", _dependency(graph))


def _depend_often(graph: Graph) -> None:
    """Several in one command; 1.0.2 has no other for that."""
    pairs = {graph.two() for _ in range(3)}
    lines = [f"dep add {one} {other} {_dependency(graph)}" for one, other in sorted(pairs)]
    graph.bd("batch", "-f", graph.file("batch.txt", "\n".join(lines)))


def _depend_outside(graph: Graph) -> None:
    graph.bd("dep", "add", graph.bead(), "external:elsewhere:capability")


def _undepend(graph: Graph) -> None:
    graph.bd("dep", "remove", *graph.two())


def _relate(graph: Graph) -> None:
    one, other = graph.two()
    arguments = ("dep", "relate", one, other), ("duplicate", one, "--of", other), ("supersede", one, "--with", other)
    graph.bd(*graph.chance.choice(arguments))


def _status(graph: Graph) -> None:
    force = ("--force",) if graph.newest else ()
    graph.bd("update", *graph.some(), "--status", graph.chance.choice(_STATUSES), *force)


def _close(graph: Graph) -> None:
    graph.bd("close", *graph.some(), "--force")


def _reopen(graph: Graph) -> None:
    graph.bd("reopen", *graph.some())


def _defer(graph: Graph) -> None:
    graph.bd("defer", *graph.some(), *graph.chance.choice(((), ("--until", graph.date()))))


def _defer_by_update(graph: Graph) -> None:
    graph.bd("update", *graph.some(), "--defer", graph.chance.choice((graph.date(), graph.date(), "")))


def _undefer(graph: Graph) -> None:
    graph.bd("undefer", graph.bead())


def _move(graph: Graph) -> None:
    bead, other = graph.two()
    graph.bd("update", bead, "--parent", graph.chance.choice((other, other, "")))


def _retype(graph: Graph) -> None:
    graph.bd("update", graph.bead(), "--type", graph.chance.choice(_TYPES))


def _other_table(graph: Graph) -> None:
    flag = graph.chance.choice(("--no-history", "--no-history", "--history", "--ephemeral", "--persistent"))
    graph.bd("update", graph.bead(), flag)


def _promote(graph: Graph) -> None:
    graph.bd("promote", graph.bead())


def _gate(graph: Graph) -> None:
    """bd 1.0.2 makes gates from formulas only."""
    kind = graph.chance.choice(_GATES)
    if graph.newest:
        graph.bd("gate", "create", "--type", kind, "--blocks", graph.bead(), "--timeout", "1s", "--await-id", "1")
    else:
        _depend(graph)


def _resolve(graph: Graph) -> None:
    graph.bd("gate", "resolve", graph.bead())


def _delete(graph: Graph) -> None:
    graph.bd("delete", graph.bead(), "--force")


def _bond(graph: Graph) -> None:
    kind = graph.chance.choice(("sequential", "parallel", "conditional"))
    graph.bd("mol", "bond", *graph.two(), "--type", kind)


def _swarm(graph: Graph) -> None:
    graph.bd("swarm", "create", graph.bead())


def _state(graph: Graph) -> None:
    graph.bd("set-state", graph.bead(), "patrol=muted")


_CHANGES: tuple[tuple[int, Callable[[Graph], None]], ...] = (
    (8, _depend), (8, _depend_often), (4, _create), (4, _status), (5, _close), (3, _reopen), (4, _defer),
    (3, _defer_by_update), (1, _undefer), (3, _move), (2, _retype), (3, _other_table), (1, _promote), (4, _gate),
    (1, _resolve), (2, _delete), (2, _batch), (2, _undepend), (1, _relate), (1, _depend_outside), (1, _bond),
    (1, _swarm), (1, _state),
)  # fmt: skip
