"""beads-dispatch --version: ours, Dolt's, and that of bd's schema."""

import contextlib

from beads_dispatch.cli import terminal
from beads_dispatch.cli.context import Context
from beads_dispatch.settings import SettingsError
from beads_dispatch.store import Store, StoreError

_SECONDS = 2.0  # ours is known without the server, so nobody waits long for the others


def run(context: Context) -> int:
    """Print the versions. A server that cannot be reached is not a failure."""
    import importlib.metadata  # here: --help has no use for it

    lines = [f"beads-dispatch {importlib.metadata.version('beads-dispatch')}"]
    try:
        dolt = context.dolt
        with contextlib.closing(Store(dolt, statement_seconds=_SECONDS)) as store:
            version, migration = store.versions()
        lines += [f"Dolt {version} at {dolt.host}:{dolt.port}", f"bd's schema {migration} in database {dolt.database}"]
    except (SettingsError, StoreError) as exc:
        lines.append(f"Dolt, bd's schema: not reachable: {exc}")
    for line in lines:
        terminal.write(line, context.given)
    return 0
