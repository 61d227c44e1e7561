"""Settings: from where, with which defaults, and the error for a wrong one."""

import json
import pathlib

import pytest

from beads_dispatch import settings
from tests.certificates import Certificates


def workspace(folder: pathlib.Path, **metadata: object) -> dict[str, str]:
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return {"BEADS_DIR": str(folder)}


def test_a_workspace_says_where_dolt_is(tmp_path: pathlib.Path) -> None:
    """metadata.json names host, user and database; dolt-server.port is read before the deprecated key."""
    env = workspace(tmp_path, dolt_server_host="db", dolt_server_port=1, dolt_server_user="bd", dolt_database="beads")
    port = tmp_path / "dolt-server.port"
    port.write_text("3399\n")
    assert settings.dolt(env) == settings.DoltSettings("db", 3399, "bd", "", "beads", port_file=port)


def test_explicit_settings_win_over_the_workspace(tmp_path: pathlib.Path) -> None:
    """DOLT_* are closer to the process than the workspace."""
    env = workspace(tmp_path, dolt_server_host="db", dolt_database="beads")
    env |= {"DOLT_HOST": "other", "DOLT_PORT": "3310", "DOLT_USER": "u", "DOLT_DATABASE": "d", "DOLT_PASSWORD": "p"}
    assert settings.dolt(env) == settings.DoltSettings("other", 3310, "u", "p", "d")


def test_a_password_is_read_from_a_file_and_never_shown(tmp_path: pathlib.Path) -> None:
    """DOLT_PASSWORD_FILE, without its last line break; a repr leaves it out."""
    (tmp_path / "password").write_text("s3cret\n")
    env = {"DOLT_HOST": "h", "DOLT_DATABASE": "d", "DOLT_PASSWORD_FILE": str(tmp_path / "password")}
    found = settings.dolt(env)
    assert found.password == "s3cret"
    assert "s3cret" not in repr(found)
    (tmp_path / "password").write_text("n3w")
    assert found.current_password() == "n3w"
    (tmp_path / "password").unlink()
    assert found.current_password() == "s3cret"


def test_a_password_file_that_is_no_text_is_refused_without_its_content(tmp_path: pathlib.Path) -> None:
    """Named with its setting at the start; while a process runs, the password that was read last is used."""
    (tmp_path / "password").write_text("s3cret")
    env = {"DOLT_HOST": "h", "DOLT_DATABASE": "d", "DOLT_PASSWORD_FILE": str(tmp_path / "password")}
    running = settings.dolt(env)
    (tmp_path / "password").write_bytes(b"n3w\xff")
    assert running.current_password() == "s3cret"
    with pytest.raises(settings.SettingsError, match=r"^DOLT_PASSWORD_FILE names .*not UTF-8") as refused:
        settings.dolt(env)
    assert "n3w" not in str(refused.value) and "xff" not in str(refused.value) and refused.value.__suppress_context__


def test_a_server_that_comes_back_on_another_port_is_found_by_its_port_file(tmp_path: pathlib.Path) -> None:
    """Read for each connection; while it is away, or half written, the port that was there at the start is used."""
    port = tmp_path / "dolt-server.port"
    port.write_text("3399\n")
    found = settings.dolt(workspace(tmp_path, dolt_database="beads"))
    port.write_text("3400\n")
    assert found.current_port() == 3400
    port.write_text("")
    assert found.current_port() == 3399
    port.unlink()
    assert found.current_port() == 3399


def test_a_port_file_that_holds_no_number_is_refused(tmp_path: pathlib.Path) -> None:
    """Whatever its bytes are."""
    (tmp_path / "dolt-server.port").write_bytes(b"33\xff")
    with pytest.raises(settings.SettingsError, match=r"^DOLT_PORT is "):
        settings.dolt(workspace(tmp_path, dolt_database="beads"))


@pytest.mark.parametrize("databases", ["*", "beads", "a,b"])
def test_a_feeds_key_is_never_longer_than_its_column(databases: str) -> None:
    """Of the server and of each database, whose names may have 64 characters as well; and each has its own."""
    found = settings.server({"DOLT_HOST": "h", "DOLT_DATABASE": databases, "FEED_NAME": "n" * 62})
    keys = [found.feed, *(found.of(name).published_feed for name in ("beads", "d" * 63 + "1", "d" * 63 + "2"))]
    assert max(map(len, keys)) <= 64
    assert len({*keys}) == (4 if databases != "beads" else 3)  # one database alone has one key
    short = settings.server({"DOLT_HOST": "h", "DOLT_DATABASE": databases, "FEED_NAME": "team"})
    assert short.of("beads").published_feed == "beads/team"


@pytest.mark.parametrize("name", ["DOLT_TLS_CA_FILE", "AGENT_CA_FILE", "AGENT_TOKEN_FILE"])
def test_a_file_that_cannot_be_used_is_refused_at_the_start(
    name: str, tmp_path: pathlib.Path, certificates: Certificates
) -> None:
    """Missing, empty or something else: named with the setting, and never with its content."""
    env = {"DOLT_HOST": "h", "DOLT_DATABASE": "d", "BEADBOARD_URL": "http://b", name: str(tmp_path / "file")}
    for content in (None, b"", b"s3cret\xff"):
        if content is not None:
            (tmp_path / "file").write_bytes(content)
        with pytest.raises(settings.SettingsError, match=f"^{name}: .*file cannot be used") as refused:
            settings.dolt(env), settings.agent(env)
        assert "s3cret" not in str(refused.value)
    (tmp_path / "file").write_bytes(b"t0ken\n" if "TOKEN" in name else certificates.ca.read_bytes())
    agent = settings.agent(env)
    assert env[name] in (settings.dolt(env).tls_ca_file, agent.token_file, agent.ca_file)


@pytest.mark.parametrize(("name", "value"), [
    ("MAX_IN_FLIGHT", "0"), ("MAX_IN_FLIGHT", "1.5"), ("MAX_IN_FLIGHT", "many"), ("REAP_AFTER_MINUTES", "-1"),
    ("REAP_ONLY_OURS", "yes"),
    ("CLAIM_TIMEOUT_SECONDS", "nan"), ("SLOT_SILENCE_MINUTES", "inf"), ("CLAIM_TIMEOUT_SECONDS", "30"),
])  # fmt: skip
def test_a_wrong_limit_is_named_with_what_was_found(name: str, value: str) -> None:
    """The error names the variable and the value."""
    with pytest.raises(settings.SettingsError) as wrong:
        settings.limits({name: value})
    assert name in str(wrong.value) and value in str(wrong.value)


def test_the_limits_have_the_designs_defaults() -> None:
    """1 bead at a time, 10 minutes, 120 seconds, 30 minutes."""
    limits = settings.limits({})
    assert (limits.assignee, limits.max_in_flight) == ("agent", 1)
    assert (limits.slot_silence_minutes, limits.claim_timeout_seconds, limits.reap_after_minutes) == (10, 120, 30)
    assert settings.limits({"REAP_AFTER_MINUTES": "0.5"}).reap_after_minutes == 0.5


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1", "３３０６"])
def test_a_port_is_a_port(port: str) -> None:
    """Digits between 1 and 65535."""
    with pytest.raises(settings.SettingsError, match="DOLT_PORT"):
        settings.dolt({"DOLT_HOST": "h", "DOLT_DATABASE": "d", "DOLT_PORT": port})


@pytest.mark.parametrize("url", ["beadboard:3000", "ftp://x", "http:///path", "http://x:abc", "http://[::1"])
def test_an_address_is_a_url_and_is_not_repeated(url: str) -> None:
    """A URL may hold credentials, so the error does not show it."""
    with pytest.raises(settings.SettingsError, match="BEADBOARD_URL is not an http") as wrong:
        settings.agent({"BEADBOARD_URL": url})
    assert url not in str(wrong.value)


def test_what_is_missing_is_named() -> None:
    """Nothing is guessed where a guess could cost money."""
    with pytest.raises(settings.SettingsError, match="BEADBOARD_URL is not set"):
        settings.agent({})
    with pytest.raises(settings.SettingsError, match="K_SINK is not set"):
        settings.feeder({})
    with pytest.raises(settings.SettingsError, match="DOLT_HOST is not set"):
        settings.dolt({})


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_a_broken_workspace_is_named(tmp_path: pathlib.Path, content: str) -> None:
    """The file that cannot be read is in the error."""
    (tmp_path / "metadata.json").write_text(content)
    with pytest.raises(settings.SettingsError, match=r"metadata\.json"):
        settings.dolt({"BEADS_DIR": str(tmp_path)})


def test_a_folder_that_is_no_workspace_is_named(tmp_path: pathlib.Path) -> None:
    """No metadata.json: the error names the folder."""
    with pytest.raises(settings.SettingsError, match=r"no metadata\.json"):
        settings.dolt({"BEADS_DIR": str(tmp_path)})


def test_a_workspace_without_a_server_is_refused_with_the_way_out(tmp_path: pathlib.Path) -> None:
    """Not: connection refused. Where DOLT_* name a server, the workspace's own mode does not matter."""
    env = workspace(tmp_path, dolt_mode="embedded", dolt_database="beads")
    with pytest.raises(settings.SettingsError) as refused:
        settings.dolt(env)
    for part in ("embedded", "bd init --server", f"data_dir is {tmp_path}/embeddeddolt", "dolt_mode to 'server'"):
        assert part in str(refused.value)
    found = settings.dolt(env | {"DOLT_HOST": "db", "DOLT_DATABASE": "b"})
    assert (found.host, found.database) == ("db", "b")


def test_a_home_folder_in_the_workspaces_path_is_expanded(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no shell did it: a ConfigMap, an env file, quotes."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".beads").mkdir()
    workspace(tmp_path / ".beads", dolt_database="beads")
    assert settings.dolt({"BEADS_DIR": "~/.beads"}).database == "beads"


@pytest.mark.parametrize("text", ["", "{}", '{"extensions": null}', '{"extensions": {}}'])
def test_overrides_may_be_empty(text: str) -> None:
    """A SinkBinding sets K_CE_OVERRIDES without a value when there are none."""
    assert settings.feeder({"K_SINK": "http://sink", "K_CE_OVERRIDES": text}).overrides == {}


def test_overrides_are_extensions() -> None:
    """{"extensions": {...}}, names in lower case as CloudEvents wants them."""
    feed = settings.feeder({"K_SINK": "http://sink", "K_CE_OVERRIDES": '{"extensions": {"Cluster": "blue"}}'})
    assert feed.overrides == {"cluster": "blue"}
    with pytest.raises(settings.SettingsError, match="K_CE_OVERRIDES"):
        settings.feeder({"K_SINK": "http://sink", "K_CE_OVERRIDES": "[]"})
