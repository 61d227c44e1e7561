"""What the feeder warns of, and refuses, on real servers."""

import logging
import pathlib
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pymysql
import pytest

from beads_dispatch import store, suspension
from feeder import ownership, preflight
from local import processes
from local.dolt import DoltServer
from tests import support
from tests.conftest import Beads, make_workspace
from tools import toolchain

Configured = Callable[..., Beads]


@pytest.fixture
def configured(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Configured]:
    """A server of its own, with more system variables and another environment, and a workspace on it."""
    started: list[DoltServer] = []

    def start(zone: str = "UTC", **variables: object) -> Beads:
        monkeypatch.setenv("TZ", zone)
        server = DoltServer(toolchain.dolt(), tmp_path / "dolt", processes.free_port())
        monkeypatch.setattr(
            "local.dolt._VARIABLES",
            {"gtid_mode": "ON", "enforce_gtid_consistency": "ON", "binlog_row_metadata": "FULL", **variables},
        )
        server.start()
        started.append(server)
        return Beads(make_workspace("1.3.0", server, tmp_path / "workspace"))

    yield start
    for server in started:
        server.stop()


def warned(beads: Beads, caplog: pytest.LogCaptureFixture) -> list[str]:
    with caplog.at_level(logging.WARNING, "beads.feeder"):
        preflight.log_warnings(beads.store)
    return [record.getMessage() for record in caplog.records]


def test_a_server_as_make_up_starts_it_has_nothing_to_warn_of(beads: Beads, caplog: pytest.LogCaptureFixture) -> None:
    """UTC, a clock that is right, no writing of files, no table that the binlog breaks, no remote."""
    preflight.require(beads.store.server.variables())
    assert warned(beads, caplog) == []


def test_tables_that_the_binlog_breaks_are_named(beads: Beads, caplog: pytest.LogCaptureFixture) -> None:
    """In any database that the user may read: VIRTUAL columns, but not STORED ones; functional indexes."""
    with beads.cursor() as cursor:
        cursor.execute("CREATE DATABASE IF NOT EXISTS `odd-one`")
        cursor.execute("USE `odd-one`")
        cursor.execute(
            "CREATE TABLE `a%b` (i INT PRIMARY KEY,"
            " v INT GENERATED ALWAYS AS (i + 1) VIRTUAL NOT NULL COMMENT ') STORED',"
            " s INT GENERATED ALWAYS AS (i + 1) STORED NOT NULL COMMENT 'x')"
        )
        cursor.execute("CREATE TABLE c (i INT PRIMARY KEY)")
        cursor.execute("CREATE INDEX f ON c ((i + 1))")
    try:
        for table in ("`a%b`", "c"):  # it is so on this Dolt
            with pytest.raises((pymysql.Error, OSError)):
                beads.sql(f"INSERT INTO `odd-one`.{table} (i) VALUES (1)".replace("%", "%%"))
        virtual, functional = warned(beads, caplog)
        assert "odd-one.a%b.v," in virtual and "a%b.s" not in virtual
        assert "odd-one.c.f," in functional
    finally:
        beads.sql("DROP DATABASE `odd-one`")


def test_a_server_in_another_zone_whose_users_write_files(
    configured: Configured, caplog: pytest.LogCaptureFixture
) -> None:
    """Both are named with the command that ends them; and that command does."""
    beads = configured("America/New_York", secure_file_priv="")
    zone, files = warned(beads, caplog)
    assert "Dolt's NOW() is 18000 s behind UTC" in zone or "Dolt's NOW() is 14400 s behind UTC" in zone
    assert "secure_file_priv is not set" in files
    beads.sql(zone.split('-q "')[1].split('"')[0])
    beads.store.close()
    caplog.clear()
    assert len(warned(beads, caplog)) == 1
    beads.store.close()


def test_a_clock_that_differs_is_named() -> None:
    """Whichever of the two it is: the words give the direction."""
    now = datetime(2026, 7, 15, 9, 30, tzinfo=UTC)

    def state(ahead: timedelta) -> store.ServerState:
        moment = (now + ahead).replace(tzinfo=None)
        return store.ServerState("2.2.0", moment, moment, "/files", (), (), ())

    assert preflight.warnings(state(timedelta(seconds=59)), now) == []
    (line,) = preflight.warnings(state(timedelta(minutes=-40)), now)
    assert "Dolt's clock is 2400 s behind this process's" in line and "NTP" in line
    (line,) = preflight.warnings(state(timedelta(minutes=2)), now)
    assert "Dolt's clock is 120 s ahead of this process's" in line


def test_a_binlog_of_another_branch_is_refused(configured: Configured) -> None:
    """It would hold no change of the beads."""
    beads = configured(log_bin_branch="other")
    with pytest.raises(
        preflight.Unfit, match=r'log_bin_branch is other, needed main.*SET PERSIST log_bin_branch = "main"'
    ):
        preflight.require(beads.store.server.variables())
    beads.store.close()


def test_of_two_clones_only_the_named_one_dispatches(
    configured: Configured, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The key travels with the beads, by bd's own push and pull; each clone's id does not."""
    first = configured()
    remote, replica = tmp_path / "remote", "1234abcd"
    remote.mkdir()
    first.store.feed_state.prepare()
    first.sql(
        f"INSERT INTO {store.STATE_DATABASE}.feeders (feed, instance, user, host, process, version, beat_at,"
        " sink_accepts, replica) VALUES (%s, '', '', '', 1, '', UTC_TIMESTAMP(), TRUE, %s)",
        first.dolt.database, replica,
    )  # fmt: skip
    first.workspace.run("dolt", "remote", "add", "origin", f"file://{remote}")
    (line,) = warned(first, caplog)
    assert "has a remote (origin)" in line
    command = line.split("`bd ")[1].split("`")[0].split()
    assert command == ["kv", "set", suspension.REPLICA, replica]
    first.workspace.run(*command)
    caplog.clear()
    assert warned(first, caplog) == [] and first.store.control.suspension() == suspension.Suspension()
    first.workspace.run("dolt", "commit")
    first.workspace.run("dolt", "push")
    server = DoltServer(toolchain.dolt(), tmp_path / "second", processes.free_port())
    server.start()
    try:
        clone = first.dolt.database
        with support.closing(store.connect(server.connection(), database=None)) as connection:
            connection.cursor().execute("CALL DOLT_CLONE(%s, %s)", (f"file://{remote}", clone))
        second = store.Store(server.connection(clone))
        second.feed_state.prepare()
        found = second.control.suspension()
        assert found.dispatch and f"is {replica}, and this clone is without an id yet" in found.dispatch
        assert found.reap == found.dispatch
        # Moved to the second clone, whose feeder has run by now: it is its turn with the next pull.
        other = ownership.Owner(server.connection(clone), threading.Event())
        other.report()
        first.workspace.run("kv", "set", suspension.REPLICA, other.beat().replica)
        first.workspace.run("dolt", "commit")
        first.workspace.run("dolt", "push")
        assert first.store.control.suspension().dispatch and second.control.suspension().dispatch
        with support.closing(store.connect(server.connection(clone))) as connection:
            connection.cursor().execute("CALL DOLT_PULL('origin')")
        second.close()
        assert first.store.control.suspension().dispatch and not second.control.suspension().dispatch
        second.close()
        other.close()
    finally:
        server.stop()
        first.store.close()
