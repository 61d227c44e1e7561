"""What Dolt's history holds of a run, what a sink received of it, and how the two differ."""

import collections
import itertools
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from beads_dispatch import events
from beads_dispatch.cli import verify
from tools.database import AGENT
from tools.servers import Agent, Sink
from tools.world import World, not_in_time

Side = tuple[str, str]  # assignee and status; empty where there is no bead
Changes = Mapping[str, list[tuple[Side, Side]]]  # for each bead, its changes in order

NO_BEAD: Side = ("", "")


@dataclass(frozen=True)
class Published:
    """What a sink received, each event id once."""

    changes: Changes
    repeats: int
    differing: list[str]  # repeats that differ from the first event of their id

    @property
    def number(self) -> int:
        return _count(self.changes)


@dataclass(frozen=True)
class Comparison:
    """What a sink received, beside the changes in Dolt's history."""

    changes: int
    published: Published
    seconds: float  # until everything was published
    broken: list[str]

    @property
    def figures(self) -> str:
        missed = max(0, self.changes - self.published.number)
        return f"{self.changes} changes, {missed} missed, {self.published.repeats} repeats (same ids)"


def versions(here: World, since: str | None = None) -> list[verify.Version]:
    """Every version of every bead since a Dolt commit, or since the world was emptied."""
    return list(verify.versions(here.dolt, since or here.since))


def verdict(here: World) -> verify.Verdict:
    """Whether "one POST per claim" held since the world was emptied."""
    return verify.judge(versions(here), verify.written_by_others(here.dolt))


def in_words(verdict: verify.Verdict, outcomes: Mapping[str, int]) -> str:
    """The claims by how they ended, and what came of the passes."""
    ends = ", ".join(f"{number} {end}" for end, number in sorted(verdict.ends().items(), key=lambda item: -item[1]))
    lost, withdrawn = outcomes["LostRace"], outcomes["Withdrawn"]
    return f"{len(verdict.claims)} claims: {ends}; {lost} lost races, {withdrawn} withdrawn"


def wrong_posts(here: World, agent: Agent, verdict: verify.Verdict, tolerance_seconds: float) -> list[str]:
    """POSTs that the agent received without a claim, or for a bead that was somebody else's."""
    claims = collections.Counter(claim.bead for claim in verdict.claims)
    posts = collections.Counter(agent.posts)
    more = [f"{bead}: {n} POSTs and {claims[bead]} claims" for bead, n in posts.items() if n > claims[bead]]
    return more + verify.posts_not_ours(versions(here), agent.received, AGENT, tolerance_seconds)


def _changes_since(here: World, commit: str) -> Changes:
    """Every change of assignee or status since a Dolt commit, from Dolt's history."""
    found: dict[str, list[tuple[Side, Side]]] = collections.defaultdict(list)
    for version in versions(here, commit):
        before, after = _side(version.before), _side(version.after)
        if before != after and (before, after) != (NO_BEAD, ("", "open")):
            found[version.bead].append((before, after))
    return found


def published(received: Iterable[events.Event]) -> Published:
    """The changes among the events that a sink received."""
    first: dict[str, events.Event] = {}
    differing, repeats = [], 0
    found: dict[str, list[tuple[Side, Side]]] = collections.defaultdict(list)
    for event in received:
        if event.type != events.ISSUE_CHANGED:
            continue
        if event.id in first:
            repeats += 1
            if (event.data, event.subject) != (first[event.id].data, first[event.id].subject):
                differing.append(f"{event.id}: its repeats differ")
            continue
        first[event.id] = event
        found[str(event.subject)].append((side_of(event, "before"), side_of(event, "after")))
    return Published(found, repeats, differing)


def side_of(event: events.Event, side: str) -> Side:
    """One side of a change event."""
    bead = event.data[side] or {}
    return (bead.get("assignee") or "", bead.get("status") or "")


def _differences(changes: Changes, published: Changes) -> list[str]:
    """How the published changes differ from those in the history: the first difference of each bead."""
    found = []
    for bead in sorted({*changes, *published}):
        pairs = itertools.zip_longest(changes.get(bead, []), published.get(bead, []))
        for number, (change, event) in enumerate(pairs):
            if change != event:
                found.append(f"{bead}: change number {number} is {change}, published as {event}")
                break
    return found


def compare(here: World, since: str, sink: Sink, patience_seconds: float) -> Comparison:
    """Wait until a sink has every change since a Dolt commit, and compare what it has with Dolt's history."""
    changes = _changes_since(here, since)
    number, began = _count(changes), time.monotonic()
    late = not_in_time(lambda: published(sink.received).number >= number, "every change published", patience_seconds)
    seconds, found = time.monotonic() - began, published(sink.received)
    return Comparison(number, found, seconds, [*late, *_differences(changes, found.changes), *found.differing])


def _count(changes: Changes) -> int:
    return sum(map(len, changes.values()))


def _side(state: verify.State | None) -> Side:
    return (state.assignee, state.status) if state else NO_BEAD
