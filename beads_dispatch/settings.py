"""Settings, read once at a process's start from a mapping (the environment).

Every field states its unit, its default and the reason. A secret may be given as NAME_FILE, the path of a
file that holds it, and is never part of a repr.
"""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from beads_dispatch import credentials, setting_values

# Part of this module's interface.
from beads_dispatch.setting_values import Environment as Environment
from beads_dispatch.setting_values import SettingsError as SettingsError
from beads_dispatch.setting_values import is_http_url as is_http_url

_PORT_FILE = "dolt-server.port"  # in a workspace's .beads folder
_FEED_LENGTH = 64  # characters of a feed's key, as our tables hold it

ALL = "*"  # in DOLT_DATABASE: every database of the server that has bd's tables

NO_BACKEND = "BEADBOARD_URL is not set. Set it to BeadBoard's address, for example http://beadboard:3000."

# bd's hints on a bead: `execution_suggested_<name>` in its metadata.
HINTS = ("model", "reasoning_effort", "agent_type", "mode")

DATABASE = "database"  # beside them, where several databases are served

# Where a SinkBinding mounts what it gives besides variables: CAs (trust bundles), and an OIDC token for the sink.
_SINK_CA_FOLDER = pathlib.Path("/knative-custom-certs")
_SINK_TOKEN = pathlib.Path("/oidc/token")


@dataclass(frozen=True)
class DoltSettings:
    """Where the beads are. Explicit DOLT_* win over a bd workspace's own files (BEADS_DIR)."""

    host: str
    port: int  # TCP; default 3306, as Dolt's own
    user: str
    password: str = field(repr=False)
    database: str
    password_file: str | None = None  # DOLT_PASSWORD_FILE, which may be replaced while a process runs
    # DOLT_TLS_CA_FILE: PEM, who signs the server's certificate; may be replaced while a process runs. With it every
    # connection is encrypted and verified, host name included. Without it TLS is used where the server offers it, and
    # nothing is verified.
    tls_ca_file: str | None = None
    # The port file of the workspace in BEADS_DIR, unless DOLT_PORT is set: a server that bd starts comes back on
    # another port.
    port_file: pathlib.Path | None = None
    # FEED_NAME; default the database's name. Two deployments on one database, on purpose, need two names.
    feed_name: str = ""
    # Where DOLT_DATABASE names several: these, or `*` for all that have bd's tables. `database` is empty then, or the
    # one of them that is looked at.
    databases: tuple[str, ...] = ()

    @property
    def feed(self) -> str:
        """The key of this deployment's rows in `beads_dispatch`: one database, or one server, and one FEED_NAME."""
        return self._key(ALL if self.databases else self.database)

    @property
    def published_feed(self) -> str:
        """The key of what was published of the database: the same whether its feeder serves one or several."""
        return self._key(self.database)

    def of(self, database: str) -> "DoltSettings":
        """One of several."""
        return replace(self, database=database)

    def _key(self, what: str) -> str:
        key = what if self.feed_name in ("", what) else f"{what}/{self.feed_name}"
        # With `*` the names of the databases, which may have 64 characters themselves, are not known at the start.
        return key if len(key) <= _FEED_LENGTH else hashlib.sha256(key.encode()).hexdigest()

    def current_port(self) -> int:
        """The port as the file holds it now; as it was at the start where there is no usable file just now."""
        with contextlib.suppress(OSError, ValueError):
            if self.port_file:
                return int(setting_values.content(self.port_file))
        return self.port

    def current_password(self) -> str:
        """The password as the file holds it now; as it was at the start where there is no file, or none just now."""
        try:
            return setting_values.content(self.password_file) if self.password_file else self.password
        except (OSError, ValueError):
            return self.password


@dataclass(frozen=True)
class AgentSettings:
    """The backend of one agent."""

    # Where the backend is: BEADBOARD_URL, or `url` in AGENTS_FILE. No default: a wrong guess would start paid work
    # somewhere else. Empty for a backend that has no address (command).
    url: str
    # AGENT_HEALTH_URL: claude-agent-service's /health. With it that service counts its running jobs; without it
    # BeadBoard only answers busy or not.
    health_url: str | None = None
    # AGENT_TIMEOUT_SECONDS: how long to wait for an answer to the POST. Longer than BeadBoard takes to
    # hand the job on (it answers at once or fails), shorter than CLAIM_TIMEOUT_SECONDS: a claim must not
    # count as orphaned while its POST is in flight.
    timeout_seconds: float = 30.0
    # AGENT_TOKEN_FILE: a bearer token for every request to the agent's side. AGENT_CA_FILE: PEM, who signs its
    # certificates, instead of the system's CAs. Both may be replaced while a process runs.
    token_file: str | None = None
    ca_file: str | None = None
    # What follows is in AGENTS_FILE alone. backend: one of beads_dispatch.agents.BACKENDS.
    backend: str = "beadboard"
    # jobs_url: claude-agent-service behind BeadBoard. Its /health counts jobs, its /jobs/{id} tells how one ended.
    jobs_url: str | None = None
    # The backend's own: see its module.
    options: Mapping[str, Any] = field(default_factory=dict)
    # The agent's name, as in DispatchLimits.assignee: its jobs run bd with BEADS_ACTOR set to it.
    name: str = "agent"

    def allowed_hints(self, suggested: Mapping[str, Any] | None) -> dict[str, str]:
        """Of the hints on a bead, by the name behind `execution_suggested_`, those that the option `hints` lists: all
        else is a text that anybody who edits beads could send to the backend. And the bead's database, if it is
        there."""
        lists, given = self.options.get("hints", {}), suggested or {}
        return {name: value for name, value in given.items() if name == DATABASE or value in lists.get(name, ())}


@dataclass(frozen=True)
class DispatchLimits:
    """Whom beads are dispatched for, the concurrency limit, and when a bead is inactive."""

    # AGENT_ASSIGNEE: the agent. A bead assigned to it is dispatched to the backend.
    assignee: str = "agent"
    # MAX_IN_FLIGHT: the concurrency limit, in beads. 1: one agent, one working copy.
    max_in_flight: int = 1
    # SLOT_SILENCE_MINUTES: a bead in progress without activity for this long holds no slot
    # (an agent may give up and leave its bead in_progress). Below REAP_AFTER_MINUTES.
    slot_silence_minutes: float = 10.0
    # CLAIM_TIMEOUT_SECONDS: a claim without a job or an outcome after this long is orphaned, by a crash.
    # Above AGENT_TIMEOUT_SECONDS.
    claim_timeout_seconds: float = 120.0
    # REAP_AFTER_MINUTES: a bead in progress without activity for this long is blocked. Longer than the agent's
    # longest single step without a note.
    reap_after_minutes: float = 30.0
    # MAX_ATTEMPTS: jobs for one bead between two changes by somebody who is not the agent; then it is blocked.
    max_attempts: int = 10
    # REAP_ONLY_OURS: reap blocks only beads with a claim of ours, not what a person works on under the agent's name.
    reap_only_ours: bool = False

    @property
    def slot_silence(self) -> timedelta:
        return timedelta(minutes=self.slot_silence_minutes)

    @property
    def claim_timeout(self) -> timedelta:
        return timedelta(seconds=self.claim_timeout_seconds)

    @property
    def reap_after(self) -> timedelta:
        return timedelta(minutes=self.reap_after_minutes)


@dataclass(frozen=True)
class FeederSettings:
    """The feeder's sink and address."""

    # K_SINK: where events go; a SinkBinding sets it to the Broker's address.
    sink: str
    # K_CE_OVERRIDES: {"extensions": {name: value}} put on every event; a SinkBinding sets it, empty when
    # there are none.
    overrides: Mapping[str, str]
    # PORT and HOST: where ticks and health checks are answered. HOST: all addresses, as a pod needs.
    port: int = 8080
    host: str = "0.0.0.0"
    # SINK_TIMEOUT_SECONDS: a Broker may answer only after the subscriber ran, cold start and retries
    # included (measured: seconds; over 60 s when it retried). Far above that.
    sink_timeout_seconds: float = 120.0
    # K_CA_CERTS: PEM, CAs that an https sink is verified with, besides the system's and those in the folder.
    sink_ca_certs: str = ""
    sink_ca_folder: str | None = None  # its files may be replaced while a process runs
    sink_token_file: str | None = None  # a bearer token; may be replaced while a process runs


def dolt(env: Environment) -> DoltSettings:
    """The connection to one database, from DOLT_* or the workspace in BEADS_DIR. Raises SettingsError."""
    found = server(env)
    if found.databases:
        raise SettingsError(
            f"DOLT_DATABASE is {env['DOLT_DATABASE']!r}, and one database is needed here. Set it to one, or name it by"
            " --database where there is that option."
        )
    return found


def served(env: Environment, name: str) -> DoltSettings:
    """The connection to one of the databases that are served. Raises SettingsError."""
    found = server(env)
    if found.databases and found.databases != (ALL,) and name not in found.databases:
        raise SettingsError(f"{name!r} is not served; the databases are {', '.join(found.databases)}.")
    return found.of(name)


def console(env: Environment) -> DoltSettings:
    """The connection to the database that the console shows: of several the one in CONSOLE_DATABASE, or else the
    workspace's own. Raises SettingsError."""
    found = server(env)
    if not found.databases:
        return found
    name = env.get("CONSOLE_DATABASE") or str(_workspace(env).get("dolt_database") or "")
    if not name:
        raise SettingsError("DOLT_DATABASE names several, and the console shows one. Set CONSOLE_DATABASE to it.")
    return served(env, name)


def server(env: Environment) -> DoltSettings:
    """As dolt, of one or several databases. Raises SettingsError."""
    workspace = _workspace(env)
    host = env.get("DOLT_HOST") or str(workspace.get("dolt_server_host") or "")
    database = env.get("DOLT_DATABASE") or str(workspace.get("dolt_database") or "")
    if not host or not database:
        missing = "DOLT_HOST" if not host else "DOLT_DATABASE"
        raise SettingsError(
            f"{missing} is not set, and no bd workspace names it. Set DOLT_HOST and DOLT_DATABASE, or set"
            " BEADS_DIR to a workspace's .beads folder that holds metadata.json with dolt_server_host and"
            " dolt_database."
        )
    folder, written, several = beads_dir(env), env.get("DOLT_PORT"), _several(database)
    return DoltSettings(
        host=host,
        port=setting_values.port(written or str(workspace.get("dolt_server_port") or 3306), "DOLT_PORT"),
        user=env.get("DOLT_USER") or str(workspace.get("dolt_server_user") or "root"),
        password=setting_values.secret(env, "DOLT_PASSWORD"),
        database="" if several else database,
        databases=several,
        password_file=env.get("DOLT_PASSWORD_FILE") or None,
        tls_ca_file=setting_values.usable_file(env, "DOLT_TLS_CA_FILE", credentials.ca_file),
        port_file=folder / _PORT_FILE if folder and not written else None,
        feed_name=env.get("FEED_NAME", ""),
    )


def _several(database: str) -> tuple[str, ...]:
    """The names in DOLT_DATABASE where it names several; empty for one."""
    names = tuple(name.strip() for name in database.split(","))
    if names == (ALL,):
        return names
    if ALL in names or "" in names or len({*names}) < len(names):
        raise SettingsError(
            f"DOLT_DATABASE is {database!r}, expected a database, several different ones with commas between them, or"
            f" {ALL} for all."
        )
    return names if len(names) > 1 else ()


def agent(env: Environment) -> AgentSettings:
    """The agent's backend. Raises SettingsError."""
    url = env.get("BEADBOARD_URL", "").rstrip("/")
    if not url:
        raise SettingsError(NO_BACKEND)
    health = env.get("AGENT_HEALTH_URL") or None
    if health:
        setting_values.http_url(health, "AGENT_HEALTH_URL")
    return AgentSettings(
        url=setting_values.http_url(url, "BEADBOARD_URL"),
        health_url=health,
        timeout_seconds=setting_values.number(env, "AGENT_TIMEOUT_SECONDS", AgentSettings.timeout_seconds),
        token_file=setting_values.usable_file(env, "AGENT_TOKEN_FILE", credentials.token_file),
        ca_file=setting_values.usable_file(env, "AGENT_CA_FILE", credentials.ca_file),
        name=env.get("AGENT_ASSIGNEE") or DispatchLimits.assignee,
    )


def limits(env: Environment) -> DispatchLimits:
    """The limits, checked against each other. Raises SettingsError."""
    found = DispatchLimits(
        assignee=env.get("AGENT_ASSIGNEE") or DispatchLimits.assignee,
        max_in_flight=int(setting_values.number(env, "MAX_IN_FLIGHT", DispatchLimits.max_in_flight, whole=True)),
        slot_silence_minutes=setting_values.number(env, "SLOT_SILENCE_MINUTES", DispatchLimits.slot_silence_minutes),
        claim_timeout_seconds=setting_values.number(env, "CLAIM_TIMEOUT_SECONDS", DispatchLimits.claim_timeout_seconds),
        reap_after_minutes=setting_values.number(env, "REAP_AFTER_MINUTES", DispatchLimits.reap_after_minutes),
        max_attempts=int(setting_values.number(env, "MAX_ATTEMPTS", DispatchLimits.max_attempts, whole=True)),
        reap_only_ours=setting_values.flag(env, "REAP_ONLY_OURS"),
    )
    timeout = setting_values.number(env, "AGENT_TIMEOUT_SECONDS", AgentSettings.timeout_seconds)
    if found.claim_timeout_seconds <= timeout:
        raise SettingsError(
            f"CLAIM_TIMEOUT_SECONDS ({found.claim_timeout_seconds:g}) must be above AGENT_TIMEOUT_SECONDS"
            f" ({timeout:g}), or a claim is released while its POST is in flight."
        )
    return found


def feeder(env: Environment) -> FeederSettings:
    """The feeder's sink and address. Raises SettingsError."""
    sink = env.get("K_SINK", "")
    if not sink:
        raise SettingsError(
            "K_SINK is not set. In a cluster a SinkBinding sets it to the Broker's address; elsewhere set it"
            " to the URL that takes the CloudEvents."
        )
    return FeederSettings(
        sink=setting_values.http_url(sink, "K_SINK"),
        overrides=setting_values.overrides(env.get("K_CE_OVERRIDES", "")),
        port=setting_values.port(env.get("PORT") or "8080", "PORT"),
        host=env.get("HOST") or FeederSettings.host,
        sink_timeout_seconds=setting_values.number(env, "SINK_TIMEOUT_SECONDS", FeederSettings.sink_timeout_seconds),
        sink_ca_certs=setting_values.pem(env, "K_CA_CERTS"),
        sink_ca_folder=str(_SINK_CA_FOLDER) if _SINK_CA_FOLDER.is_dir() else None,
        sink_token_file=str(_SINK_TOKEN) if _SINK_TOKEN.is_file() else None,
    )


def beads_dir(env: Environment) -> pathlib.Path | None:
    """The workspace's .beads folder, as BEADS_DIR names it; a leading `~` is the home folder."""
    folder = env.get("BEADS_DIR")
    return pathlib.Path(os.path.expanduser(folder)) if folder else None


def _workspace(env: Environment) -> dict[str, object]:
    """The server that the workspace in BEADS_DIR names; empty without one.

    bd reads the port from dolt-server.port first; dolt_server_port in metadata.json is deprecated.
    """
    folder = beads_dir(env)
    if folder is None:
        return {}
    path = folder / "metadata.json"
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(
            f"BEADS_DIR is {folder}, but there is no metadata.json in it. Set BEADS_DIR to the .beads folder"
            " of a workspace that `bd init --server` made."
        ) from None
    except (OSError, ValueError) as exc:
        raise SettingsError(f"{path} cannot be read as JSON ({exc}).") from None
    if not isinstance(metadata, dict):
        raise SettingsError(f"{path} holds {type(metadata).__name__}, expected a JSON object.")
    if metadata.get("dolt_mode") == "embedded" and not (env.get("DOLT_HOST") and env.get("DOLT_DATABASE")):
        raise SettingsError(
            f"{folder} is an embedded workspace: bd keeps its beads in files, and beads are dispatched from a Dolt SQL"
            " server. `bd init --server` makes a workspace on a server. To convert this one, run a Dolt SQL server"
            f" whose data_dir is {folder}/embeddeddolt; in {path} set dolt_mode to 'server' and dolt_server_host to the"
            f" server's host; write the server's port to {folder}/dolt-server.port."
        )
    metadata.setdefault("dolt_server_host", "127.0.0.1")
    port = folder / _PORT_FILE
    if port.is_file():
        metadata["dolt_server_port"] = port.read_text(encoding="utf-8", errors="replace").strip()
    return metadata
