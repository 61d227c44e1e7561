"""A Dolt SQL server of our own: loopback only, binlog on, its data and its server UUID in one folder."""

import contextlib
import json
import pathlib
from collections.abc import Mapping

import pymysql

from beads_dispatch import settings, store
from local.processes import Process, require_free

# Read at the server's start only; and `log_bin`.
_VARIABLES = {"gtid_mode": "ON", "enforce_gtid_consistency": "ON", "binlog_row_metadata": "FULL"}


class DoltServer:
    """Starts and stops `dolt sql-server` on a folder; the data stays when it stops."""

    def __init__(
        self,
        binary: pathlib.Path,
        folder: pathlib.Path,
        port: int,
        *,
        log_bin: bool = True,
        data: pathlib.Path | None = None,
        listener: Mapping[str, object] | None = None,
    ) -> None:
        """`data`: the folder of the databases, by default one in `folder`. `listener`: more of that section of
        config.yaml, such as TLS."""
        self.port = port
        self._listener = {"host": "127.0.0.1", "port": port, **(listener or {})}
        self._binary = binary
        self._folder = folder.resolve()
        self._data = data.resolve() if data else self._folder / "data"
        self._log_bin = log_bin
        self._process: Process | None = None

    def connection(self, database: str = "") -> settings.DoltSettings:
        return settings.DoltSettings("127.0.0.1", self.port, "root", "", database)

    def start(self, *, log_bin: bool | None = None) -> None:
        """Start and wait until it answers. Raises StartError."""
        require_free(self.port, "the Dolt server")
        self._log_bin = self._log_bin if log_bin is None else log_bin
        for folder in (self._folder / "root", self._folder / "files", self._data):
            folder.mkdir(parents=True, exist_ok=True)
        self._remove_lost_position()
        settings_file = self._folder / "config.yaml"
        config = {
            "log_level": "warning", "listener": self._listener,
            "data_dir": str(self._data), "cfg_dir": str(self._folder / "root"),
            "system_variables": {
                "log_bin": int(self._log_bin), "secure_file_priv": str(self._folder / "files"), **_VARIABLES,
            },
        }  # fmt: skip
        settings_file.write_text(json.dumps(config))  # which is YAML too
        command: list[str | pathlib.Path] = [self._binary, "sql-server", "--config", settings_file]
        # Two servers that share a root share a UUID.
        environment = {"DOLT_ROOT_PATH": str(self._folder / "root"), "DOLT_DISABLE_EVENT_FLUSH": "1"}
        self._process = Process("dolt", command, self._folder / "server.log", environment)
        try:
            self._process.wait_until(self._answers, "answer")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        if self._process is not None:
            self._release_binlog_readers()
            self._process.stop()
            self._process = None

    def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def _remove_lost_position(self) -> None:
        """Dolt writes the file with its binlog position in place. One that was killed meanwhile leaves it empty, and
        with such a file it refuses to start ("unknown binlog position flavor"); without the file it counts from 1."""
        position = self._data / ".doltcfg" / "binlog-position"
        if position.is_file() and not position.read_bytes():
            position.unlink()

    def _release_binlog_readers(self) -> None:
        """Write a row and delete it: Dolt notices that a binlog reader has left only at its next write, or at a
        heartbeat every 30 s, and it does not stop before."""
        with contextlib.suppress(pymysql.Error, OSError):  # no feeder ever ran here, or Dolt is down or hangs
            connection = store.connect(self.connection(store.STATE_DATABASE), connect_timeout=1, read_timeout=1)
            with contextlib.closing(connection), connection.cursor() as cursor:
                cursor.execute("REPLACE INTO switches (feed, name, suspended) VALUES ('', 'stop', FALSE)")
                cursor.execute("DELETE FROM switches WHERE feed = ''")

    def _answers(self) -> bool:
        try:
            store.connect(self.connection(), database=None).close()
        except (pymysql.Error, OSError):
            return False
        return True
