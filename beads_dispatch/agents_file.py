"""AGENTS_FILE: several agents, each a name that beads are assigned to, with its backend and its limits.

[agents."agent:docs"]
backend = "a2a"
url = "https://docs-agent.example.com"
max_in_flight = 4
"""

import difflib
import pathlib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from beads_dispatch import settings
from beads_dispatch.settings import AgentSettings, DispatchLimits, Environment, SettingsError

DEFAULT_BACKEND = "beadboard"


@dataclass(frozen=True)
class ConfiguredAgent:
    """One agent. `backend` is None where a process was not given the address: the feeder and reap work without."""

    limits: DispatchLimits
    backend: AgentSettings | None

    @property
    def name(self) -> str:
        """The assignee of its beads."""
        return self.limits.assignee


@dataclass(frozen=True)
class _Key:
    expected: str
    fits: Callable[[Any], bool]
    backends: tuple[str, ...] = ()  # whose key it is; empty: every backend's


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9


def _whole(value: Any) -> bool:
    return isinstance(value, int) and _positive(value)


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _url(value: Any) -> bool:
    return isinstance(value, str) and settings.is_http_url(value)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_text, value))


def _hints(value: Any) -> bool:
    return isinstance(value, dict) and set(value) <= {*settings.HINTS} and all(map(_texts, value.values()))


_BACKENDS = ("beadboard", "claude-agent-service", "a2a", "jobsink", "command")
_LIMITS = {
    "max_in_flight": _Key("a whole number of at least 1", _whole),
    "max_attempts": _Key("a whole number of at least 1", _whole),
    "slot_silence_minutes": _Key("a number above 0", _positive),
    "claim_timeout_seconds": _Key("a number above 0", _positive),
    "reap_after_minutes": _Key("a number above 0", _positive),
    "reap_only_ours": _Key("true or false", lambda value: isinstance(value, bool)),
}
_CONNECTION = {
    "backend": _Key("one of " + ", ".join(_BACKENDS), lambda value: value in _BACKENDS),
    "url": _Key("an http:// or https:// URL with a host", _url),
    "timeout_seconds": _Key("a number above 0", _positive),
    "token_file": _Key("the path of a file", _text),
    "ca_file": _Key("the path of a file", _text),
    "jobs_url": _Key("an http:// or https:// URL with a host", _url, ("beadboard",)),
}
_OPTIONS = {
    # hints: bd's hints on a bead that are passed on, by name, each with the values that are allowed.
    "hints": _Key(
        f'a table of lists of texts for {", ".join(settings.HINTS)}, such as {{model = ["opus", "sonnet"]}}',
        _hints,
        _BACKENDS[1:],
    ),
    "agent": _Key("a name", _text, ("claude-agent-service",)),
    "prompt": _Key("a text; {bead} in it is the bead's id", _text, ("claude-agent-service", "a2a", "command")),
    "max_budget_usd": _Key("a number above 0", _positive, ("claude-agent-service",)),
    "job_timeout_seconds": _Key("a whole number of at least 1", _whole, ("claude-agent-service", "command")),
    "command": _Key("a text", _text, ("command",)),
    "folder": _Key("the path of a folder", _text, ("command",)),
    "output": _Key("the path of a folder", _text, ("command",)),
}
_KEYS = {**_LIMITS, **_CONNECTION, **_OPTIONS}


def agents(env: Environment, *, required: bool = False) -> tuple[ConfiguredAgent, ...]:
    """The agents of AGENTS_FILE in its order; without one AGENT_ASSIGNEE at BEADBOARD_URL alone.

    `required`: BEADBOARD_URL must be set then. Raises SettingsError, which names file, line, key, what was expected and
    what was found.
    """
    path = env.get("AGENTS_FILE")
    if not path:
        known = required or bool(env.get("BEADBOARD_URL"))
        return (ConfiguredAgent(settings.limits(env), settings.agent(env) if known else None),)
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"AGENTS_FILE names {path}, which cannot be read ({exc}).") from None
    return _File(path, text).agents(settings.limits(env))


class _File:
    """One file: its text is kept to name the line of what is wrong."""

    def __init__(self, path: str, text: str) -> None:
        self._path = path
        self._lines = text.splitlines()
        try:
            self._content = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as exc:
            raise SettingsError(f"{path} is no TOML: {exc}.") from None

    def agents(self, defaults: DispatchLimits) -> tuple[ConfiguredAgent, ...]:
        found = self._content.get("agents")
        others = [key for key in self._content if key != "agents"]
        if others:
            self._fail((), others[0], "only tables named [agents.NAME]", self._content[others[0]])
        if not isinstance(found, dict) or not found:
            raise SettingsError(f"{self._path} names no agent, expected at least one table [agents.NAME].")
        return tuple(self._agent(name, table, defaults) for name, table in found.items())

    def _agent(self, name: str, table: Any, defaults: DispatchLimits) -> ConfiguredAgent:
        if not name.strip():
            self._fail(("agents",), name, "a name: this one would stand for the beads of nobody", name)
        if not isinstance(table, dict):
            self._fail(("agents",), name, f"a table [agents.{name}]", table)
        backend = table.get("backend", DEFAULT_BACKEND)
        for key, value in table.items():
            self._require(name, key, value, backend)
        limits = DispatchLimits(**{**vars(defaults), **_part(table, _LIMITS), "assignee": name})
        connection = _part(table, _CONNECTION)
        if "url" not in connection and backend != "command":
            self._fail(("agents", name), "url", f"url: where the backend {backend} is", None)
        for key, what in (("command", "what is run for a bead"), ("folder", "where it is run")):
            if backend == "command" and key not in table:
                self._fail(("agents", name), key, f"{key}: {what}", None)
        for key in ("url", "jobs_url"):
            connection[key] = connection[key].rstrip("/") if key in connection else ("" if key == "url" else None)
        found = AgentSettings(**connection, options=_part(table, _OPTIONS), name=name)
        if limits.claim_timeout_seconds <= found.timeout_seconds:
            above = f"a number above timeout_seconds ({found.timeout_seconds:g})"
            self._fail(("agents", name), "claim_timeout_seconds", above, limits.claim_timeout_seconds)
        return ConfiguredAgent(limits, found)

    def _require(self, name: str, key: str, value: Any, backend: Any) -> None:
        known = _KEYS.get(key)
        if known is None:
            near = difflib.get_close_matches(key, _KEYS, 1)
            expected = f"{near[0]}" if near else "one of " + ", ".join(_KEYS)
            self._fail(("agents", name), key, expected, key)
        if not known.fits(value):
            self._fail(("agents", name), key, known.expected, value)
        if known.backends and backend in _BACKENDS and backend not in known.backends:
            self._fail(("agents", name), key, f"{key} only with the backend {' or '.join(known.backends)}", backend)

    def _fail(self, table: tuple[str, ...], key: str, expected: str, found: Any) -> NoReturn:
        where = ".".join((*table, key)) if table else key
        # A URL or a command may hold credentials.
        shown = (
            "nothing" if found is None else "another value" if key in ("url", "jobs_url", "command") else repr(found)
        )
        raise SettingsError(
            f"{self._path}, line {self._line((*table, key))}: {where}: expected {expected}, found {shown}."
        )

    def _line(self, target: tuple[str, ...]) -> int:
        """Where a key is, or its table where it is not; tomllib names lines for bad syntax alone."""
        depth, best = 0, 1
        header: tuple[str, ...] = ()
        for number, line in enumerate(self._lines, 1):
            if line.lstrip().startswith("["):
                found = header = _keys(line) or header
            else:
                found = header + _keys(line.partition("=")[0] + "= 0")
            common = min(len(found), len(target))
            if common > depth and found[:common] == target[:common]:
                depth, best = common, number
        return best


def _keys(line: str) -> tuple[str, ...]:
    """The keys of a table's header, or of one value: `[a."b c"]` and `a."b c" = 0` have two."""
    try:
        found: Any = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return ()
    keys: tuple[str, ...] = ()
    while isinstance(found, dict) and found:
        key, found = next(iter(found.items()))
        keys += (key,)
    return keys


def _part(table: Mapping[str, Any], keys: Mapping[str, _Key]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key in keys}
