"""TLS to Dolt: verified by DOLT_TLS_CA_FILE, or no connection. On real servers, with CAs made here."""

import os
import pathlib
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pymysql
import pytest

from beads_dispatch import settings, store
from beads_dispatch.store import StoreError
from feeder import binlog, changes
from local import processes
from local.dolt import DoltServer
from tests import support
from tests.certificates import Certificates
from tools import toolchain

DATABASE = "beads"
IDS = {"issues": ("id",)}


@pytest.fixture(scope="module")
def server(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DoltServer]:
    """A server that takes connections by TLS only, with a table in a database."""
    tls = {"tls_cert": str(certificates.certificate), "tls_key": str(certificates.key)}
    server = DoltServer(
        toolchain.dolt(), tmp_path_factory.mktemp("dolt"), processes.free_port(),
        listener={**tls, "require_secure_transport": True},
    )  # fmt: skip
    server.start()
    with support.closing(store.connect(server.connection(), database=None)) as connection:
        for statement in (
            f"CREATE DATABASE {DATABASE}",
            f"CREATE TABLE {DATABASE}.issues (id VARCHAR(20) PRIMARY KEY)",
        ):
            connection.cursor().execute(statement)
    yield server
    server.stop()


@pytest.fixture
def ca(certificates: Certificates, tmp_path: pathlib.Path) -> pathlib.Path:
    """A file of the test's own, which it may replace."""
    return pathlib.Path(shutil.copy(certificates.ca, tmp_path / "ca.crt"))


@pytest.fixture
def dolt(server: DoltServer, ca: pathlib.Path) -> settings.DoltSettings:
    return replace(server.connection(DATABASE), tls_ca_file=str(ca))


def asks(dolt: settings.DoltSettings) -> bool:
    """Whether a new connection answers. Raises StoreError."""
    with support.closing(store.Store(dolt)) as beads:
        return bool(beads.feed_state.executed())


def is_encrypted(connection: Any) -> bool:
    return isinstance(connection._sock, ssl.SSLSocket)


def test_a_connection_is_encrypted_and_verified(dolt: settings.DoltSettings) -> None:
    """Statements, and the binlog: both go through the same connect."""
    assert asks(dolt)
    with support.closing(store.connect(dolt)) as connection:
        assert is_encrypted(connection)
    with support.closing(store.Store(dolt)) as beads:
        stream = binlog.Stream(dolt, binlog.Position(beads.feed_state.executed()), IDS)
    with support.closing(stream), support.closing(store.connect(dolt)) as connection:
        connection.cursor().execute("INSERT INTO issues VALUES ('x-1')")
        found = next(one for one in stream if isinstance(one, changes.Transaction))
        assert [row.after for row in found.rows] == [{"id": "x-1"}]
        assert all(map(is_encrypted, stream._opened))


def test_another_ca_or_another_host_name_is_refused(dolt: settings.DoltSettings, certificates: Certificates) -> None:
    """The certificate is for 127.0.0.1, and not for localhost."""
    for wrong, why in (
        (replace(dolt, tls_ca_file=str(certificates.other_ca)), "certificate verify failed"),
        (replace(dolt, host="localhost"), "Hostname mismatch"),
    ):
        with pytest.raises(StoreError, match=why):
            asks(wrong)
        with pytest.raises(binlog.StreamLost, match=why):
            next(iter(binlog.Stream(wrong, binlog.Position(""), IDS)))


def test_a_server_without_tls_is_refused_with_the_way_out(dolt_server: DoltServer, ca: pathlib.Path) -> None:
    """No silent fallback to plain text: neither user nor password is sent."""
    with pytest.raises(StoreError, match=r"DOLT_TLS_CA_FILE is set, .* offers no TLS.*tls_cert.*config\.yaml"):
        asks(replace(dolt_server.connection("x"), tls_ca_file=str(ca)))


def test_a_replaced_ca_is_used_by_the_next_connection(
    dolt: settings.DoltSettings, ca: pathlib.Path, certificates: Certificates
) -> None:
    """Without a restart; a file that is away, or half written, leaves the CA that was there."""
    assert asks(dolt)
    shutil.copy(certificates.other_ca, ca)
    with pytest.raises(StoreError, match="certificate verify failed"):
        asks(dolt)
    shutil.copy(certificates.ca, ca)
    assert asks(dolt)
    ca.write_bytes(ca.read_bytes()[:200])
    assert asks(dolt)
    ca.unlink()
    assert asks(dolt)


def test_without_a_ca_tls_is_used_where_it_is_offered(server: DoltServer, dolt_server: DoltServer) -> None:
    """And not verified."""
    with support.closing(store.connect(server.connection(DATABASE))) as connection:
        assert is_encrypted(connection)
    with support.closing(store.connect(dolt_server.connection(), database=None)) as connection:
        assert not is_encrypted(connection)


def test_the_command_takes_the_same_setting(dolt: settings.DoltSettings, certificates: Certificates) -> None:
    """beads-dispatch status, by the environment."""
    for ca, found in ((dolt.tls_ca_file, "table not found"), (str(certificates.other_ca), "certificate verify failed")):
        environment = {
            **os.environ, "DOLT_HOST": dolt.host, "DOLT_PORT": str(dolt.port), "DOLT_DATABASE": DATABASE,
            "DOLT_TLS_CA_FILE": str(ca),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "beads_dispatch.cli.main", "status"], env=environment, capture_output=True, text=True
        )
        assert done.returncode and found in done.stderr


def test_it_is_pymysql_that_refuses(dolt_server: DoltServer, ca: pathlib.Path) -> None:
    """A release of PyMySQL that falls back to plain text when it is given a context would be noticed here."""
    with pytest.raises(pymysql.OperationalError, match="2026"):
        store.connect(replace(dolt_server.connection(), tls_ca_file=str(ca)), database=None)
