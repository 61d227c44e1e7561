"""beads-dispatch reap: what a reap pass would do now, and when it would come to the others."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from beads_dispatch.cli import status, terminal
from beads_dispatch.cli.context import Context, add_limits, now


@dataclass(frozen=True)
class ReapForecast:
    """What a pass would do at a moment."""

    at: datetime
    suspended: str | None
    to_reopen: Sequence[str]  # claimed, and never sent
    to_block: Sequence[str]  # inactive for too long
    later: Sequence[status.InProgress]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = "Shows what reap would do now. It changes nothing: reap itself runs at its tick."
    parser.add_argument("--dry-run", action="store_true", help="the same: this command is always a dry run")
    add_limits(parser, "--assignee", "--claim-timeout-seconds", "--reap-after-minutes")


def run(context: Context) -> int:
    """Print the forecast. Raises SettingsError, StoreError."""
    beads, limits, moment = context.store, context.limits, now()
    to_reopen, to_block = status.to_reap(beads, limits, moment)
    found = ReapForecast(
        at=moment,
        suspended=beads.control.suspension().reap,
        to_reopen=to_reopen,
        to_block=to_block,
        later=[one for one in status.in_progress(beads, limits, moment) if one.bead not in {*to_reopen, *to_block}],
    )
    context.show(found, lines)
    return 0


def lines(found: ReapForecast) -> list[terminal.Line]:
    """The forecast as people read it."""
    return [
        *([f"reap is suspended: {terminal.cut(found.suspended, 120)}"] if found.suspended else []),
        *(f"would reopen: {bead} (claimed, never sent)" for bead in found.to_reopen),
        *(f"would block: {bead} (inactive)" for bead in found.to_block),
        *([] if found.to_reopen or found.to_block else ["would do nothing now"]),
        *(
            f"in progress: {one.bead}, last activity {terminal.span(found.at - one.last_activity)} ago; "
            + (f"reaped at {terminal.moment(one.reap_at)} if it stays inactive" if one.reap_at else "not reaped")
            for one in found.later
        ),
    ]
