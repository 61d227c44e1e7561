"""beads-dispatch --version: ours, Dolt's, and that of bd's schema."""

import contextlib
import importlib.metadata

from beads_dispatch.cli import terminal
from beads_dispatch.cli.context import Context
from beads_dispatch.settings import SettingsError
from beads_dispatch.store import Store, StoreError

_SECONDS = 2.0  # ours is known without the server, so nobody waits long for the others


def run(context: Context) -> int:
    """Print the versions; those of a server that cannot be reached are no failure."""
    terminal.write(f"beads-dispatch {importlib.metadata.version('beads-dispatch')}", context.given)
    try:
        with contextlib.closing(Store(context.dolt, statement_seconds=_SECONDS)) as store:
            dolt, migration = store.versions()
    except (SettingsError, StoreError) as exc:
        lines = [f"Dolt, bd's schema: not reachable: {exc}"]
    else:
        where = f"{context.dolt.host}:{context.dolt.port}"
        lines = [f"Dolt {dolt} at {where}", f"bd's schema {migration} in database {context.dolt.database}"]
    for line in lines:
        terminal.write(line, context.given)
    return 0
