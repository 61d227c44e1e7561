"""Assigns two beads that can be worked and one that cannot, and shows what happened to them."""

import time
from collections.abc import Callable

from local.terminal import report, report_failure, show
from local.timeline import SystemTimeline, table
from local.workspace import EXAMPLES, Workspace

DEMO_SECONDS = 60


def demo(
    workspace: Workspace, timeline: SystemTimeline, assignee: str, started: float, require_running: Callable[[], None]
) -> bool:
    """Whether the two beads arrived and the one was left alone. `started`: when the command was (time.monotonic())."""
    new = (("Has no acceptance criteria", ""), *EXAMPLES[:2])
    blank, *good = beads = [workspace.create(title, acceptance) for title, acceptance in new]
    for bead, (title, _) in zip(beads, new, strict=True):
        timeline.name(bead, title)
    report(f"assigning {', '.join(beads)} to {assignee}; {blank} has no acceptance criteria")
    for bead in beads:
        workspace.run("assign", bead, assignee)
    first, deadline = None, time.monotonic() + DEMO_SECONDS
    while True:
        steps = {bead: timeline.refresh(bead) for bead in beads}
        done = {bead: {step.what for step in steps[bead]} for bead in beads}
        if first is None and any("dispatched" in done[bead] for bead in good):
            first = time.monotonic() - started
        arrived = [bead for bead in good if {"dispatched", "closed"} <= done[bead]]
        if len(arrived) == len(good) or time.monotonic() > deadline:
            break
        require_running()
        time.sleep(0.2)
    show("", *table(steps), "")
    if first is not None:
        show(f"first dispatch {first:.1f} s after this command was started")
    left_alone = "claimed" not in done[blank]
    show(f"{blank} was {'left alone, as it should be' if left_alone else 'claimed, although it is not eligible'}")
    if len(arrived) < len(good):
        missing = ", ".join(bead for bead in good if bead not in arrived)
        report_failure(f"not dispatched and closed within {DEMO_SECONDS} s: {missing}")
    return left_alone and len(arrived) == len(good)
