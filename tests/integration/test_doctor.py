"""beads-dispatch doctor on real servers: what is in order, each thing that is not, and --fix."""

import io
import pathlib
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from beads_dispatch import settings, store
from beads_dispatch.cli import doctor, grants, main
from beads_dispatch.store import STATE_DATABASE, layout, server_check
from feeder import http, metrics, ownership
from feeder.health import HealthState
from local.workspace import Workspace
from tests import support
from tests.conftest import Beads
from tests.integration.test_cli import Answer
from tools import toolchain

TICKS = {"dispatch": 30.0, "reap": 300.0}
USERS_SQL = pathlib.Path(__file__).parents[2] / "knative" / "users.sql"

Doctor = Callable[..., Answer]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Runs `beads-dispatch doctor` with an environment, and expects a status."""

    def ask(*words: str, status: int | None, **env: str) -> Answer:
        capsys.readouterr()
        answer = Answer(main.run(("doctor", *words), env), *capsys.readouterr())
        assert status in (answer.status, None), answer.out + answer.err
        return answer

    return ask


@pytest.fixture
def examine(beads: Beads, agent: support.Agent, ask: Callable[..., Answer]) -> Iterator[Doctor]:
    """Runs it on a workspace whose feeder has just reported, with ticks; the agent answers."""
    report(beads, TICKS)
    workspace = str(beads.workspace.beads_dir)

    def examine(*words: str, status: int | None, **env: str) -> Answer:
        return ask(*words, status=status, **{"BEADS_DIR": workspace, "BEADBOARD_URL": agent.url, **env})

    yield examine


def report(beads: Beads, ticks: dict[str, float]) -> None:
    owner = ownership.Owner(beads.dolt, threading.Event(), ticks=lambda: ticks)
    owner.report()
    owner.close()


def failed(answer: Answer) -> dict[str, dict[str, Any]]:
    """The checks that failed, by name."""
    assert answer.json["ok"] == (answer.status == 0)
    found = {one["name"]: one for one in answer.json["checks"] if one["ok"] is False}
    assert all(one["found"] and one["needed"] and one["fix"] for one in found.values())
    return found


def test_a_system_in_order_is_ok_in_every_line(examine: Doctor) -> None:
    """Status 0, nothing left unchecked, and nothing that is needed."""
    checks = examine("--json", status=0).json["checks"]
    assert {one["ok"] for one in checks} == {True}
    assert {(one["needed"], one["fix"], one["statement"]) for one in checks} == {("", "", "")}
    names = [one["name"] for one in checks]
    assert len(names) == len(set(names))
    assert {"server", "dolt version", "log_bin", "clock", "grants", "feeder", "version", "dispatch ticks", "reap ticks",
            "agent agent", "beads_dispatch", "bd's schema"} <= set(names)  # fmt: skip
    lines = examine(status=0).out.splitlines()
    assert len(lines) == len(checks) and all(re.match(r"[^:]+: +ok ", line) for line in lines)


def test_what_is_wrong_is_named_with_what_is_needed(
    beads: Beads, agent: support.Agent, examine: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fault alone, and it is the only line that fails."""
    one = failed(examine("--json", status=1, BEADBOARD_URL="http://127.0.0.1:9"))
    assert one.keys() == {"agent agent"} and "does not answer" in one["agent agent"]["found"]
    report(beads, {"dispatch": 30.0, "reap": 3600.0})
    one = failed(examine("--json", status=1))
    assert one.keys() == {"reap ticks"} and one["reap ticks"]["found"] == "the last tick of reap came 60 min ago"
    report(beads, TICKS)
    beads.sql(f"UPDATE {STATE_DATABASE}.feeders SET version = '0.0.1'")
    assert failed(examine("--json", status=1)).keys() == {"version"}
    beads.sql(f"UPDATE {STATE_DATABASE}.feeders SET sink_accepts = FALSE")
    assert failed(examine("--json", status=1)).keys() == {"version", "feeder"}
    beads.sql(f"DROP TABLE {STATE_DATABASE}.ticks")
    found = failed(examine("--json", status=1))
    assert "no table ticks" in found["beads_dispatch"]["found"]
    beads.store.feed_state.prepare()
    report(beads, TICKS)
    beads.sql(f"UPDATE {STATE_DATABASE}.layout SET version = 99, oldest = 98")
    (one,) = failed(examine("--json", status=1)).values()
    assert "layout 99" in one["found"] and "layout 98" in one["needed"] and "newer version" in one["fix"]
    beads.sql(f"UPDATE {STATE_DATABASE}.layout SET version = {layout.VERSION}, oldest = {layout.OLDEST}")
    monkeypatch.setattr(doctor, "_SCHEMAS", (67, 68))
    assert failed(examine("--json", status=1)).keys() == {"bd's schema"}
    monkeypatch.setattr(doctor, "_SCHEMAS", (1, 2))
    checks = examine("--json", status=0).json["checks"]  # a newer one may work: it is no failure
    assert [one["name"] for one in checks if one["ok"] is None] == ["bd's schema"]


def test_without_a_feeder(beads: Beads, examine: Doctor) -> None:
    """None ever was, or none for long: its ticks are not checked then."""
    beads.sql(f"UPDATE {STATE_DATABASE}.feeders SET beat_at = beat_at - INTERVAL 3630 SECOND")
    found = examine("--json", status=1)
    assert (
        failed(found).keys() == {"feeder"} and "no feeder has reported for 60 min" in failed(found)["feeder"]["found"]
    )
    assert [one["name"] for one in found.json["checks"] if one["ok"] is None] == ["dispatch ticks", "reap ticks"]
    beads.sql(f"DELETE FROM {STATE_DATABASE}.feeders")
    assert failed(examine("--json", status=1))["feeder"]["found"] == "no feeder has reported yet"


def test_without_a_server(beads: Beads, ask: Callable[..., Answer], tmp_path: pathlib.Path) -> None:
    """One line: an embedded workspace, or a server that does not answer."""
    (tmp_path / "metadata.json").write_text('{"dolt_mode": "embedded", "dolt_database": "x"}')
    found = failed(ask("--json", status=1, BEADS_DIR=str(tmp_path)))
    assert found.keys() == {"server"} and "embedded workspace" in found["server"]["found"]
    nowhere = {"DOLT_HOST": "127.0.0.1", "DOLT_PORT": "9", "DOLT_DATABASE": "x"}
    assert "cannot reach Dolt" in failed(ask("--json", status=1, **nowhere))["server"]["found"]


def test_an_agent_that_is_not_known_here_is_not_checked(examine: Doctor) -> None:
    """A person's shell may not have its address: no failure."""
    checks = examine("--json", status=0, BEADBOARD_URL="").json["checks"]
    assert [one["name"] for one in checks if one["ok"] is None] == ["agent agent"]


# --- grants ---------------------------------------------------------------------------------------------------


def test_the_needed_grants_are_those_of_users_sql() -> None:
    """User by user, in the file's own words."""
    lines = re.findall(r"^GRANT (.+) TO '([\w-]+)'@'%';$", USERS_SQL.read_text(), re.MULTILINE)
    granted: dict[str, list[str]] = {}
    for text, user in lines:
        granted.setdefault(user, []).append(text)
    assert {user: list(texts) for user, texts in grants.NEEDED.items()} == granted


@pytest.mark.parametrize("role", grants.NEEDED)
def test_a_user_has_what_it_needs_or_the_missing_grant_is_named(beads: Beads, examine: Doctor, role: str) -> None:
    """Each grant in turn is left out; the commands that are shown make up for it. A team's users have a suffix."""
    database, user = beads.dolt.database, f"{role}-{beads.dolt.database}d"
    env = {"DOLT_USER": user, "DOLT_PASSWORD": "secret"}
    for missing in grants.NEEDED[role]:
        beads.sql(f"DROP USER IF EXISTS '{user}'@'%%'")
        beads.sql(f"CREATE USER '{user}'@'%%' IDENTIFIED BY 'secret'")
        for grant in grants.NEEDED[role]:
            if grant != missing:
                beads.sql(f"GRANT {grant.replace('`beads`', f'`{database}`')} TO '{user}'@'%%'")
        answer = examine("--json", status=1, **env)
        if "server" not in failed(answer):
            command = failed(answer)["grants"]["fix"].partition("run ")[2]
            assert missing.replace("`beads`", f"`{database}`") in command and command.count("GRANT") == 1
            beads.sql(command.rstrip(";").replace("%", "%%"))
        else:  # it cannot even connect
            assert missing == "SELECT ON `beads`.*"
            beads.sql(f"GRANT SELECT ON `{database}`.* TO '{user}'@'%%'")
        assert "grants" not in failed(examine("--json", status=None, **env))
    beads.sql(f"DROP USER '{user}'@'%%'")


def test_another_user_needs_to_read(beads: Beads, examine: Doctor) -> None:
    """The beads and the state, no more."""
    beads.sql("CREATE USER IF NOT EXISTS 'ann'@'%%' IDENTIFIED BY 'secret'")
    beads.sql(f"GRANT SELECT ON `{beads.dolt.database}`.* TO 'ann'@'%%'")
    try:
        env = {"DOLT_USER": "ann", "DOLT_PASSWORD": "secret"}
        found = failed(examine("--json", status=1, **env))
        assert found["grants"]["fix"].endswith(f"GRANT SELECT ON `{STATE_DATABASE}`.* TO 'ann'@'%';")
        beads.sql(f"GRANT SELECT ON `{STATE_DATABASE}`.* TO 'ann'@'%%'")
        examine(status=0, **env)
    finally:
        beads.sql("DROP USER 'ann'@'%%'")


# --- ticks ----------------------------------------------------------------------------------------------------


def test_a_tick_is_in_the_feeders_next_report(beads: Beads) -> None:
    """Also a suspended one; and the next feeder's reports do not forget it."""
    health = HealthState()
    scrape = metrics.Scrape(store.Store(beads.dolt), [settings.DispatchLimits()], health)
    endpoint = http.Endpoint({}, health, scrape)
    body = b"{}"
    environ = {
        "REQUEST_METHOD": "POST", "PATH_INFO": "/", "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body),
        "CONTENT_TYPE": "application/json", "HTTP_CE_ID": "1", "HTTP_CE_SPECVERSION": "1.0", "HTTP_CE_SUSPEND": "true",
        "HTTP_CE_SOURCE": "/apis/v1/namespaces/beads/pingsources/reap", "HTTP_CE_TYPE": "dev.knative.sources.ping",
    }  # fmt: skip
    statuses: list[str] = []
    list(endpoint(environ, lambda status, headers: statuses.append(status)))  # type: ignore[arg-type]
    assert statuses == ["204 No Content"] and health.ticks().keys() == {"reap"}
    owner = ownership.Owner(beads.dolt, threading.Event(), ticks=health.ticks)
    owner.report()
    assert beads.store.feeders.ticks().keys() == {"reap"}
    owner.close()
    report(beads, {})
    assert beads.store.feeders.ticks().keys() == {"reap"}


# --- --fix ----------------------------------------------------------------------------------------------------


@pytest.fixture
def unset(tmp_path: pathlib.Path) -> Iterator[Workspace]:
    """A workspace on a server that bd started: bd's defaults, so without the binlog's settings."""
    workspace = Workspace(toolchain.bd(), tmp_path / "project")
    workspace.folder.mkdir()
    subprocess.run(["git", "init", "-q", str(workspace.folder)], check=True)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PATH", str(toolchain.dolt().parent), prepend=":")
        environment.setenv("DOLT_ROOT_PATH", str(tmp_path / "root"))
        (tmp_path / "root").mkdir()
        words = ("--prefix", "p", "--skip-hooks", "--skip-agents", "--non-interactive", "-q")
        workspace.run("init", "--server", *words)
        yield workspace
        workspace.run("dolt", "stop")


def test_fix_sets_what_is_safe_and_names_what_needs_a_restart(
    unset: Workspace, ask: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing without a yes; then the statements; after the restart that it names they count."""
    env = {"BEADS_DIR": str(unset.beads_dir)}
    before = failed(ask("--json", status=1, **env))
    assert {"log_bin", "gtid_mode", "enforce_gtid_consistency"} <= before.keys()
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))  # no terminal: nobody agreed
    refused = ask("--fix", status=1, **env)
    assert "SET PERSIST log_bin = 1;" in refused.err and "nothing was changed; --yes agrees" in refused.err
    assert failed(ask("--json", status=1, **env)) == before
    done = ask("--fix", "--yes", "--json", status=1, **env)
    assert set(done.json["changed"]) == {one["statement"] for one in before.values() if one["statement"]}
    assert done.json["restart"].startswith("`bd dolt stop; bd dolt start`: it reads log_bin, ")
    unset.run("dolt", "stop")
    unset.run("dolt", "start")
    after = failed(ask("--json", status=1, **env))
    assert not {"log_bin", "gtid_mode", "enforce_gtid_consistency", "binlog_row_metadata"} & after.keys()
    assert ask("--fix", "--yes", "--json", status=1, **env).json["changed"] == []


@pytest.fixture
def elsewhere(beads: Beads) -> Iterator[None]:
    """The server is in another time zone."""
    beads.sql("SET PERSIST time_zone = '-05:00'")
    yield
    beads.sql("SET PERSIST time_zone = 'SYSTEM'")


@pytest.mark.usefixtures("elsewhere")
def test_fix_asks_on_a_terminal(examine: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Yes and no; and a statement that counts at once needs no restart."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("\n"))
    assert "nothing was changed" in examine("--fix", status=1).err
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    done = examine("--fix", status=0)
    assert "changed: SET PERSIST time_zone = '+00:00'" in done.out and "to do:" not in done.out
    assert "changed" not in examine("--fix", status=0).out


def test_fix_changes_nothing_on_another_host(beads: Beads, examine: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong there. It is this machine here, by a name that is not loopback's."""
    monkeypatch.setattr("beads_dispatch.store.connection.connect", lambda dolt, **more: CONNECT(local(dolt), **more))
    broken = server_check.Finding("x", False, "none", "one", "Make it.", "CREATE DATABASE made_by_doctor")
    monkeypatch.setitem(doctor._LOOKS, "x", lambda context, beads: iter([broken]))
    env = {"DOLT_HOST": "dolt.example.com", "DOLT_PORT": str(beads.dolt.port), "DOLT_DATABASE": beads.dolt.database}
    assert "this one is at dolt.example.com" in examine("--fix", "--yes", status=1, **env).err
    assert not beads.sql("SHOW DATABASES LIKE 'made_by_doctor'")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("10.0.0.1", False),
        ("dolt.example.com", False),
        ("localhost.example.com", False),
    ],
)
def test_what_loopback_is(host: str, loopback: bool) -> None:
    """An address or name that cannot be another machine's."""
    assert doctor._is_loopback(host) == loopback


CONNECT = store.connect


def local(dolt: settings.DoltSettings) -> settings.DoltSettings:
    return replace(dolt, host="127.0.0.1") if dolt.host == "dolt.example.com" else dolt
