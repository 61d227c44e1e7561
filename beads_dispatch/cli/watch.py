"""beads-dispatch watch: what happens to each of the agent's beads, as it happens, by Dolt alone."""

import argparse
import contextlib
import time
from collections.abc import Callable

from beads_dispatch.cli.context import Context, add_limits
from beads_dispatch.cli.timeline import Entry, Timeline, steps_in
from beads_dispatch.store import Commit, Store

_POLL_SECONDS = 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = "Shows each step of each bead of the agent, as it happens. With --json one object a line."
    add_limits(parser, "--assignee")


def run(context: Context) -> int:
    """Watch until interrupted. Raises SettingsError, StoreError."""
    assignee = context.limits.assignee
    context.note("watching; Ctrl-C ends it")
    with contextlib.suppress(KeyboardInterrupt):
        watch = Watch(
            context.store, assignee, lambda entry: context.show(entry, lambda entry: [entry.line()], indent=None)
        )
        while True:
            watch.check()
            time.sleep(_POLL_SECONDS)
    return 0


class Watch:
    """Follows Dolt's commits from the one that is the newest now. Every method raises StoreError."""

    def __init__(self, beads: Store, assignee: str, show: Callable[[Entry], None]) -> None:
        self._history = beads.history
        self._assignee = assignee
        self._timeline = Timeline(show)
        self._last = self._head()

    def check(self) -> None:
        """Show what was committed since the last check."""
        head = self._head()
        if head == self._last:
            return
        for commit in self._history.commits_between(self._last, head):
            self._read(commit)
            self._last = commit.hash
        self._last = head

    def _head(self) -> str:
        found = self._history.commit("HEAD")
        assert found is not None, "a Dolt database has a first commit"
        return found.hash

    def _read(self, commit: Commit) -> None:
        for row in self._history.changes_between(self._last, commit.hash):
            ours = self._assignee in (row["from_assignee"], row["to_assignee"])
            if ours or self._timeline.knows(row["id"]):
                self._timeline.name(row["id"], row["title"])
                for step in steps_in([{**row, "at": commit.at}], self._assignee):
                    self._timeline.add(row["id"], step)
