"""The page of one bead: why it is or is not dispatched, now or in the past, and what happened to it."""

import contextlib
from collections.abc import Mapping
from typing import Any

from beads_dispatch.cli import context, explain, history
from beads_dispatch.cli.context import CommandError
from beads_dispatch.cli.explain import Explanation, NoSuchBead
from beads_dispatch.store import Snapshot
from functions.console.view import PageError, View

# Commits of the whole database that are read for a bead's history without being asked: some 150 ms.
_COMMITS_AT_ONCE = 1000


def page(view: View) -> Mapping[str, Any]:
    """Raises PageError, StoreError."""
    bead, written = view.text("id"), view.text("as_of")
    if not bead:
        return {"found": None, "id": "", "as_of": "", "live": False}
    try:
        found, complete = _then(view, bead, written) if written else _now(view, bead)
    except NoSuchBead as exc:
        raise PageError(404, f"{exc}.") from None
    except CommandError as exc:
        raise PageError(400, f"{exc}.") from None
    return {
        "found": found,
        "repeats": history.repeats_step,
        "complete": complete,
        "id": bead,
        "as_of": written,
        "live": not written,
    }


def _now(view: View, bead: str) -> tuple[Explanation, bool]:
    """The explanation, and whether the bead's history was read."""
    row = view.beads.eligible.diagnose(view.agent.name, view.moment, bead)
    agent = context.agent_of(view.agents, row[0].bead.assignee if row else None)
    read = bool(view.text("history")) or len(view.beads.history.newest_commits(_COMMITS_AT_ONCE)) < _COMMITS_AT_ONCE
    names = list(view.agents)
    return explain.now(view.beads, agent.limits, bead, view.moment, None, names, with_history=read), read


def _then(view: View, bead: str, written: str) -> tuple[Explanation, bool]:
    commit, moment = context.commit_at(view.beads.history, written, view.moment)
    with contextlib.closing(Snapshot(view.dolt, commit.hash)) as past:
        return explain.then(past, view.beads, view.agent.limits, bead, moment, commit.hash), True
