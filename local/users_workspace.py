"""A workspace of the user's own: what has to be changed so that beads can be dispatched from it is shown, asked for,
and done.

- A workspace that bd keeps in files of its own (embedded) is served while this runs, from the same files, and is
  embedded again when it stops. In between, bd finds the server by metadata.json and dolt-server.port.
- A server that bd started gets the settings of its binlog, and is started again: once, and for good.
"""

import contextlib
import json
import os
import pathlib
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

from beads_dispatch import settings, store
from feeder import preflight
from local import processes
from local.dolt import DoltServer
from local.processes import StartError
from local.terminal import report, show

_EMBEDDED = "embeddeddolt"  # the folder of bd's data
_BACKUP = "metadata.json.embedded"  # what metadata.json was; there while the workspace is served
_PORT = "dolt-server.port"
_SETTINGS = (
    "SET PERSIST log_bin = 1",
    'SET PERSIST gtid_mode = "ON"',
    'SET PERSIST enforce_gtid_consistency = "ON"',
    'SET PERSIST binlog_row_metadata = "FULL"',
)

Confirm = Callable[[str], bool]


@contextlib.contextmanager
def served(beads_dir: pathlib.Path, data: pathlib.Path, port: int, confirm: Confirm) -> Iterator[settings.DoltSettings]:
    """The connection to the workspace's server, which is started where there is none, and stopped at the end. `data`:
    a folder for the settings and the log of that server. Raises StartError, SettingsError, StoreError."""
    if _is_embedded(beads_dir):
        with _serving(beads_dir, data, port, confirm):
            yield settings.dolt({**os.environ, "BEADS_DIR": str(beads_dir)})
        return
    _require_binlog(beads_dir, confirm)
    yield settings.dolt({**os.environ, "BEADS_DIR": str(beads_dir)})


def _is_embedded(beads_dir: pathlib.Path) -> bool:
    """Also where an earlier run was killed, and could not change it back."""
    return (beads_dir / _BACKUP).exists() or _metadata(beads_dir).get("dolt_mode") == "embedded"


def _metadata(beads_dir: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads((beads_dir / "metadata.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise settings.SettingsError(
            f"BEADS_DIR is {beads_dir}, but there is no metadata.json in it. Set BEADS_DIR to the .beads folder of a"
            " workspace that `bd init` made."
        ) from None
    except (OSError, ValueError) as exc:
        raise settings.SettingsError(f"{beads_dir / 'metadata.json'} cannot be read as JSON ({exc}).") from None
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def _serving(beads_dir: pathlib.Path, data: pathlib.Path, port: int, confirm: Confirm) -> Iterator[None]:
    folder, metadata, backup = beads_dir / _EMBEDDED, beads_dir / "metadata.json", beads_dir / _BACKUP
    if not backup.exists():
        _ask(
            [
                f"{beads_dir} is embedded: bd keeps its beads in {folder}, which no server serves.",
                "While this runs:",
                f"  - a Dolt server on 127.0.0.1:{port} serves {folder}",
                f"  - {metadata} has dolt_mode server and dolt_server_host 127.0.0.1 (as it is now: {backup})",
                f"  - {beads_dir / _PORT} has the port {port}",
                "When it stops, both files are as before. Its database beads_dispatch stays beside your beads'.",
            ],
            confirm,
        )
        backup.write_bytes(metadata.read_bytes())
    before = json.loads(backup.read_text(encoding="utf-8"))
    server = DoltServer(processes.program("dolt"), data, port, data=folder)
    report(f"starting Dolt on 127.0.0.1:{port} for {folder}")
    try:
        server.start()
        _write(metadata, json.dumps({**before, "dolt_mode": "server", "dolt_server_host": "127.0.0.1"}, indent=2))
        _write(beads_dir / _PORT, str(port))
        yield
    finally:
        server.stop()
        os.replace(backup, metadata)
        (beads_dir / _PORT).unlink(missing_ok=True)


def _require_binlog(beads_dir: pathlib.Path, confirm: Confirm) -> None:
    """Set the binlog's settings on a server that bd started, where they are not. Raises StartError."""
    dolt = settings.dolt({**os.environ, "BEADS_DIR": str(beads_dir)})
    with contextlib.closing(store.Store(dolt)) as beads:
        findings = preflight.findings(beads.server.variables())
    if not findings:
        return
    if not (beads_dir / "dolt-server.pid").exists():
        raise StartError("Dolt's binlog cannot be read. " + " ".join(findings))
    _ask(
        [
            f"The binlog of the Dolt server that bd started for {beads_dir} is not as it has to be. To be run:",
            *(f"  {statement};" for statement in _SETTINGS),
            "  bd dolt stop; bd dolt start",
        ],
        confirm,
    )
    with contextlib.closing(store.connect(dolt)) as connection, connection.cursor() as cursor:
        for statement in _SETTINGS:
            cursor.execute(statement)
    for word in ("stop", "start"):
        _bd(beads_dir, "dolt", word)


def _bd(beads_dir: pathlib.Path, *words: str) -> None:
    environment = {**os.environ, "BEADS_DIR": str(beads_dir), "BD_NON_INTERACTIVE": "1"}
    done = subprocess.run(
        [processes.program("bd"), *words], cwd=beads_dir.parent, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise StartError(f"`bd {' '.join(words)}` failed: {(done.stderr or done.stdout).strip()}")


def _ask(lines: list[str], confirm: Confirm) -> None:
    show("", *lines)
    if not confirm("Go on?"):
        raise StartError("nothing was changed. To agree without being asked, set YES=1.")


def _write(path: pathlib.Path, text: str) -> None:
    """All or nothing."""
    unnamed = path.with_name(f".{path.name}.new")
    unnamed.write_text(text, encoding="utf-8")
    os.replace(unnamed, path)
