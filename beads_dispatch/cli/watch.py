"""beads-dispatch watch: what happens to each of the agent's beads, as it happens, by Dolt alone."""

import argparse
import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from beads_dispatch.cli import terminal
from beads_dispatch.cli.context import Context, add_limits
from beads_dispatch.cli.timeline import Timeline, steps_in
from beads_dispatch.store import Commit

_POLL_SECONDS = 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = "Shows each step of each bead of the agent, as it happens. With --json one object a line."
    add_limits(parser, "--assignee")


def run(context: Context) -> int:
    """Watch until interrupted. Raises SettingsError, StoreError."""
    assignee, history = context.limits.assignee, context.store.history
    timeline = Timeline(lambda entry: context.show(entry, lambda entry: [entry.line()], indent=None))
    with contextlib.suppress(KeyboardInterrupt):
        last = context.at("HEAD")[0].hash
        terminal.warn("watching; Ctrl-C ends it")  # from here on no change is missed
        while True:
            for commit in history.commits_between(last, "HEAD"):
                _show_commit(timeline, commit, history.changes_between(last, commit.hash), assignee)
                last = commit.hash
            time.sleep(_POLL_SECONDS)
    return 0


def _show_commit(timeline: Timeline, commit: Commit, changes: Sequence[Mapping[str, Any]], assignee: str) -> None:
    """Show the steps in a commit of the agent's beads, and of those that were."""
    for row in changes:
        if assignee in (row["from_assignee"], row["to_assignee"]) or timeline.knows(row["id"]):
            timeline.name(row["id"], row["title"])
            for step in steps_in([{**row, "at": commit.at}], assignee):
                timeline.add(row["id"], step)
