"""beads-dispatch watch: what happens to each bead of the sentinel, as it happens, by Dolt alone."""

import time
from collections.abc import Callable

from beads_dispatch.cli.timeline import Entry, Timeline, steps_in
from beads_dispatch.store import Commit, Store

_POLL_SECONDS = 0.25


class Watch:
    """Follows Dolt's commits from the one that is the newest now. Every method raises StoreError."""

    def __init__(self, beads: Store, assignee: str, show: Callable[[Entry], None]) -> None:
        self._beads = beads
        self._assignee = assignee
        self._timeline = Timeline(show)
        self._last = self._head()

    def look(self) -> None:
        """Show what was committed since the last look."""
        head = self._head()
        if head == self._last:
            return
        for commit in self._beads.history.commits_between(self._last, head):
            self._take(commit)
            self._last = commit.hash
        self._last = head

    def _head(self) -> str:
        found = self._beads.history.commit("HEAD")
        assert found is not None, "a Dolt database has a first commit"
        return found.hash

    def _take(self, commit: Commit) -> None:
        for row in self._beads.history.changes_between(self._last, commit.hash):
            ours = self._assignee in (row["from_assignee"], row["to_assignee"])
            if ours or self._timeline.knows(row["id"]):
                self._timeline.name(row["id"], row["title"])
                for step in steps_in([{**row, "at": commit.at}], self._assignee):
                    self._timeline.add(row["id"], step)


def run(beads: Store, assignee: str, show: Callable[[Entry], None]) -> None:
    """Watch until interrupted. Raises StoreError."""
    watch = Watch(beads, assignee, show)
    while True:
        watch.look()
        time.sleep(_POLL_SECONDS)
