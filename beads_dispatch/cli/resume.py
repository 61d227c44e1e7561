"""beads-dispatch resume: the end of what `suspend` began, or of a hold."""

import argparse

from beads_dispatch.cli import suspend
from beads_dispatch.cli.context import Context
from beads_dispatch.store import Hold


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what resume takes."""
    suspend.add_arguments(parser)
    parser.add_argument("--now", action="store_true", help="end the holds too: the agents are well again")


def run(context: Context) -> int:
    """Resume. Raises SettingsError, StoreError."""
    if context.arguments.now:
        control = context.store.control
        for agent, hold in control.holds().items():
            control.set_hold(agent, hold, Hold())
    return suspend.change(context, suspend=False)
