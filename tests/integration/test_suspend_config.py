"""The switch in bd: either key, and what is not committed of it holds up nobody's `bd dolt pull`."""

import pathlib
from collections.abc import Iterator

import pytest

from beads_dispatch import suspension
from beads_dispatch.cli import main
from beads_dispatch.suspension import Suspension
from local.dolt import DoltServer
from local.workspace import BdError, Workspace
from tests.conftest import Beads
from tools import toolchain


@pytest.mark.parametrize(("kv", "config", "suspended"), [
    ("true", None, (True, True)), ("dispatch", None, (True, False)), ("reap", "dispatch", (True, True)),
    ("ture", "false", (True, True)), ("false", "true", (True, True)), ("off", None, (False, False)),
])  # fmt: skip
def test_either_key_suspends(beads: Beads, kv: str, config: str | None, suspended: tuple[bool, bool]) -> None:
    """With the values of before; the reason names the key. Resuming ends both."""
    beads.workspace.run("kv", "set", suspension.KV, kv)
    if config is not None:
        beads.workspace.run("config", "set", suspension.CONFIG_KEY, config)
    found = beads.store.control.suspension()
    assert (found.dispatch is not None, found.reap is not None) == suspended
    if kv == "true":
        assert found.dispatch == "bd kv auto-dispatch.suspend is true"
    assert main.run(["resume"], {"BEADS_DIR": str(beads.workspace.beads_dir)}) == 0
    assert beads.store.control.suspension() == Suspension()


@pytest.fixture
def pulling(dolt_server: DoltServer, tmp_path: pathlib.Path) -> Iterator[Beads]:
    """A workspace with a remote that it has pushed to."""
    workspace = Workspace(toolchain.bd("1.3.0"), tmp_path / "workspace")
    workspace.init(dolt_server.port, "pulls")  # beside the database of the other tests
    beads = Beads(workspace)
    beads.empty()
    (tmp_path / "remote").mkdir()
    beads.workspace.run("dolt", "remote", "add", "origin", f"file://{tmp_path / 'remote'}")
    beads.workspace.run("dolt", "push")
    yield beads
    beads.empty()
    beads.sql("CALL DOLT_REMOTE('remove', 'origin')")
    beads.store.close()


def test_neither_the_key_nor_our_writes_hold_up_a_pull(
    pulling: Beads, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    """`bd kv set`, suspend and resume, a PingSource's mirror. The older key does until it is committed."""
    workspace, env = pulling.workspace, {"BEADS_DIR": str(pulling.workspace.beads_dir), "BEADS_ACTOR": "ann"}

    def pulled() -> bool:
        workspace.run("dolt", "pull")
        return True

    workspace.run("kv", "set", suspension.KV, "true")
    assert pulled()
    for words in (["resume"], ["suspend", "reap"], ["suspend", "reap"]):
        assert main.run(words, env) == 0
        assert pulling.sql("SELECT * FROM dolt_status") == [] and pulled()
    assert capsys.readouterr().err == ""
    pulling.store.control.mirror_pingsource("dispatch", True)
    assert pulling.sql("SELECT * FROM dolt_status") == [] and pulled()
    workspace.run("config", "set", suspension.CONFIG_KEY, "true")
    with pytest.raises(BdError, match="config"):
        pulled()
    assert main.run(["resume"], env) == 0
    assert pulled()


def test_who_may_not_commit_can_suspend_all_the_same(beads: Beads, capsys: pytest.CaptureFixture[str]) -> None:
    """An emergency does not wait for a privilege; a line says what is left to do."""
    database = beads.dolt.database
    beads.sql("CREATE USER 'eve'@'%%' IDENTIFIED BY 'secret'")
    try:
        for grant in (f"SELECT, INSERT, UPDATE, DELETE ON `{database}`.*", "SELECT ON `beads_dispatch`.*"):
            beads.sql(f"GRANT {grant} TO 'eve'@'%%'")
        env = {"BEADS_DIR": str(beads.workspace.beads_dir), "DOLT_USER": "eve", "DOLT_PASSWORD": "secret"}
        assert main.run(["suspend"], env) == 0
        assert "`bd dolt commit` commits it" in capsys.readouterr().err
        assert beads.store.control.suspension().dispatch == "bd kv auto-dispatch.suspend is true"
    finally:
        beads.sql("DROP USER 'eve'@'%%'")
