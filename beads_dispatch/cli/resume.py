"""beads-dispatch resume: the end of what `suspend` began."""

from beads_dispatch.cli import suspend
from beads_dispatch.cli.context import Context

add_arguments = suspend.add_arguments


def run(context: Context) -> int:
    """Resume. Raises SettingsError, StoreError."""
    return suspend.change(context, suspend=False)
