"""AGENTS_FILE: what it may say, and how what is wrong in it is named."""

import pathlib
import re
from dataclasses import fields
from typing import Any

import pytest

from beads_dispatch import agents, agents_file, settings
from beads_dispatch.settings import AgentSettings, DispatchLimits

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "agents.md").read_text()


def read(folder: pathlib.Path, text: str | bytes, **environment: str) -> tuple[agents_file.ConfiguredAgent, ...]:
    path = folder / "agents.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return agents_file.agents({"AGENTS_FILE": str(path), **environment})


def refused(folder: pathlib.Path, text: str | bytes) -> str:
    """What is said of a file, without its path."""
    with pytest.raises(settings.SettingsError) as wrong:
        read(folder, text)
    return str(wrong.value).replace(str(folder / "agents.toml"), "FILE")


def test_without_a_file_there_is_one_agent() -> None:
    """AGENT_ASSIGNEE at BEADBOARD_URL; without an address too, where nothing is started."""
    (found,) = agents_file.agents({"AGENT_ASSIGNEE": "claude", "BEADBOARD_URL": "http://b", "MAX_IN_FLIGHT": "2"})
    assert (found.name, found.limits.max_in_flight) == ("claude", 2)
    assert found.backend == AgentSettings("http://b", name="claude")
    assert agents_file.agents({})[0].backend is None
    with pytest.raises(settings.SettingsError, match="BEADBOARD_URL is not set"):
        agents_file.agents({}, required=True)


def test_each_table_is_an_agent_in_the_files_order(tmp_path: pathlib.Path) -> None:
    """A limit that is not in its table is the environment's; the backend's own keys are its options."""
    first, second, third = read(
        tmp_path,
        """
        [agents."agent:docs"]
        backend = "a2a"
        url = "https://docs.example.com/a2a/"
        max_in_flight = 4
        hints = {model = ["opus"], mode = ["plan", "act"]}
        [agents.agent]
        url = "http://b"
        jobs_url = "http://c/"
        [agents.here]
        backend = "command"
        command = "claude -p"
        folder = "~"
        reap_after_minutes = 90
        """,
        MAX_IN_FLIGHT="2",
        AGENT_ASSIGNEE="ignored",
    )
    assert [first.name, second.name, third.name] == ["agent:docs", "agent", "here"]
    assert [each.limits.max_in_flight for each in (first, second, third)] == [4, 2, 2]
    assert first.backend == AgentSettings(
        "https://docs.example.com/a2a", backend="a2a", name="agent:docs",
        options={"hints": {"model": ["opus"], "mode": ["plan", "act"]}},
    )  # fmt: skip
    assert second.backend and (second.backend.backend, second.backend.jobs_url) == ("beadboard", "http://c")
    assert third.backend and third.backend.options == {"command": "claude -p", "folder": "~"}
    assert third.limits.reap_after_minutes == 90


AGENT = '[agents.a]\nurl = "http://b"\n'
COMMAND = '[agents.a]\nbackend = "command"\ncommand = "c"\nfolder = "f"\n'

WRONG: dict[str, tuple[str, str, str, str]] = {
    # name: the text, the line and the key, what was expected, what was found
    "no table": ("x = 1\n", "line 1: x", "only tables named [agents.NAME]", "1"),
    "another table": (f"{AGENT}[agent.b]\n", "line 3: agent", "only tables named [agents.NAME]", "{'b': {}}"),
    "no agent table": ("[agents]\na = 1\n", "line 2: agents.a", "a table [agents.a]", "1"),
    "empty name": ('[agents."  "]\nurl = "http://b"\n', "line 1: agents.  ", "a name", "'  '"),
    "unknown key": (f"{AGENT}colour = 1\n", "line 3: agents.a.colour", "one of max_in_flight, ", "'colour'"),
    "typing error": (f"{AGENT}max_inflight = 1\n", "line 3: agents.a.max_inflight", "max_in_flight", "'max_inflight'"),
    "backend": ('[agents.a]\nbackend = "gpt"\n', "line 2: agents.a.backend", "one of beadboard, ", "'gpt'"),
    "backend's type": ("[agents.a]\nbackend = []\n", "line 2: agents.a.backend", "one of beadboard, ", "[]"),
    "no url": ('[agents.a]\nbackend = "a2a"\n', "line 1: agents.a.url", "url: where the backend a2a is", "nothing"),
    "no command": (
        '[agents.b]\nurl = "http://b"\n[agents.a]\nbackend = "command"\n',
        "line 3: agents.a.command", "command: what is run for a bead", "nothing",
    ),
    "no folder": (
        '[agents.a]\nbackend = "command"\ncommand = "c"\n',
        "line 1: agents.a.folder", "folder: where it is run", "nothing",
    ),
    "url": ('[agents.a]\nurl = "ftp://me:pw@b"\n', "line 2: agents.a.url", "an http:// or ", "another value"),
    "jobs_url": (f'{AGENT}jobs_url = "b"\n', "line 3: agents.a.jobs_url", "an http:// or ", "another value"),
    "whole number": (f"{AGENT}max_in_flight = 1.5\n", "line 3: agents.a.max_in_flight", "a whole number", "1.5"),
    "zero": (f"{AGENT}max_attempts = 0\n", "line 3: agents.a.max_attempts", "a whole number of at least 1", "0"),
    "true for a number": (f"{AGENT}max_in_flight = true\n", "line 3: agents.a.max_in_flight", "a whole number", "True"),
    "infinite": (f"{AGENT}reap_after_minutes = inf\n", "line 3: agents.a.reap_after_minutes", "a number", "inf"),
    "nan": (f"{AGENT}slot_silence_minutes = nan\n", "line 3: agents.a.slot_silence_minutes", "a number", "nan"),
    "text for a number": (f'{AGENT}timeout_seconds = "30"\n', "line 3: agents.a.timeout_seconds", "a number", "'30'"),
    "flag": (f'{AGENT}reap_only_ours = "no"\n', "line 3: agents.a.reap_only_ours", "true or false", "'no'"),
    "token file": (f"{AGENT}token_file = ' '\n", "line 3: agents.a.token_file", "the path of a file", "' '"),
    "another backend's key": (
        f'{AGENT}folder = "/tmp"\n',
        "line 3: agents.a.folder", "folder only with the backend command", "'beadboard'",
    ),
    "timeouts": (
        f"{AGENT}claim_timeout_seconds = 5\n",
        "line 3: agents.a.claim_timeout_seconds", "a number above timeout_seconds (30)", "5",
    ),
    "hints' names": (f'{COMMAND}hints = {{modle = ["x"]}}\n', "line 5: agents.a.hints", "a table of lists", "modle"),
    "hints' values": (f'{COMMAND}hints = {{model = "x"}}\n', "line 5: agents.a.hints", "a table of lists", "'x'"),
    "hints' table": (f"{COMMAND}[agents.a.hints]\nmodel = []\n", "line 5: agents.a.hints", "a table of lists", "[]"),
    "inline": ('agents.a = {url = "http://b", colour = 1}\n', "line 1: agents.a.colour", "one of", "'colour'"),
    "dotted": ('agents.b.url = "http://b"\nagents.a.url = 7\n', "line 2: agents.a.url", "an http://", "another value"),
    "table's table": ("[agents.a.hints]\nmodel = ['x']\n", "line 1: agents.a.hints", "hints only with", "'beadboard'"),
    "quoted": ('[ agents . "a b" ]\n"url" = 7\n', "line 2: agents.a b.url", "an http://", "another value"),
    "the second": (f'{AGENT}[agents.aa]\nurl = "http://b"\nmax_attempts = -1\n', "line 5: agents.aa.max_attempts",
                   "a whole number", "-1"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(tmp_path: pathlib.Path, name: str) -> None:
    """Line, key, expected, found; an address or a command may hold credentials and is not repeated."""
    text, where, expected, found = WRONG[name]
    said = refused(tmp_path, text)
    assert said.startswith(f"FILE, {where}: expected {expected}")
    assert f", found {found}" in said or found in said.rpartition(", found ")[2]
    assert "pw" not in said


@pytest.mark.parametrize(("text", "why"), [
    ("", "FILE names no agent, expected at least one table [agents.NAME]."),
    ("agents = 3", "FILE names no agent, expected at least one table [agents.NAME]."),
    ("[agents]", "FILE names no agent"),
    ("[[agents]]\nurl = 1", "FILE names no agent"),
    ("[agents.a]\nurl = \n", "at line 2, column 7"),
    (f"{AGENT}{AGENT}", "line 3"),
    (b"\xff\xfe", "cannot be read"),
    (f"x = {'[' * 2000}", "FILE is no TOML"),
])  # fmt: skip
def test_a_file_that_is_none_is_refused(tmp_path: pathlib.Path, text: str | bytes, why: str) -> None:
    """Bad syntax with its line, and a file that names nobody."""
    assert why in refused(tmp_path, text)


def test_a_file_that_is_away_is_refused(tmp_path: pathlib.Path) -> None:
    """Nothing is guessed: the one agent of the environment is not meant."""
    with pytest.raises(settings.SettingsError, match=r"AGENTS_FILE names .*away, which cannot be read"):
        agents_file.agents({"AGENTS_FILE": str(tmp_path / "away"), "BEADBOARD_URL": "http://b"})


def test_every_limit_is_a_key_and_every_backend_a_module() -> None:
    """A new limit, setting or backend is one that the file knows, and the other way round."""
    assert set(agents_file._LIMITS) == {each.name for each in fields(DispatchLimits)} - {"assignee"}
    ours = {"health_url", "options", "name"}  # of the environment, and made here
    assert set(agents_file._CONNECTION) == {each.name for each in fields(AgentSettings)} - ours
    assert set(agents_file._BACKENDS) == set(agents.BACKENDS)
    for key in agents_file._KEYS.values():
        assert set(key.backends) <= set(agents.BACKENDS)


def test_the_documented_file_is_one_with_every_backend(tmp_path: pathlib.Path) -> None:
    """docs/agents.md: its example can be copied, and its tables have each key and each backend."""
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    found = read(tmp_path, example)
    assert [each.backend.backend for each in found if each.backend] == list(agents.BACKENDS)
    for each in found:
        assert each.backend and agents.backend(each.backend).tells_jobs
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == set(agents_file._KEYS)
    assert re.findall(r"^\| ([a-z0-9-]+) \|", PAGE, re.MULTILINE) == ["backend", *agents.BACKENDS, "key"]


def test_the_documented_keys_name_their_backends() -> None:
    """The second column of the table of keys: no backend stands for every one."""
    for key, cell in re.findall(r"^\| `(\w+)` \| ([^|]*)\|", PAGE, re.MULTILINE):
        named = [name for name in agents.BACKENDS if name in cell.replace("all but", "")]
        if "all but" in cell:
            named = [name for name in agents.BACKENDS if name not in named]
        assert list(agents_file._KEYS[key].backends) == named or key == "url", key


@pytest.mark.parametrize(("suggested", "passed"), [
    (None, {}),
    ({}, {}),
    ({"model": "opus"}, {"model": "opus"}),
    ({"model": "Opus"}, {}),
    ({"model": "opus; rm -rf /", "mode": "plan"}, {}),
    ({"model": ["opus"]}, {}),
    ({"colour": "opus"}, {}),
])  # fmt: skip
def test_only_listed_hints_are_allowed(suggested: Any, passed: dict[str, str]) -> None:
    """By name and value, letter by letter."""
    agent = AgentSettings("", options={"hints": {"model": ["opus", "sonnet"]}})
    assert agent.allowed_hints(suggested) == passed
    assert AgentSettings("").allowed_hints(suggested) == {}
