"""How a person suspends dispatch or reap: what the values mean. Pure, and imports next to nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

# In bd's table `config`, where either of two keys suspends: that of `bd kv set auto-dispatch.suspend`, and that of
# `bd config set custom.auto-dispatch.suspend`, which holds up `bd dolt pull` until it is committed.
KV = "auto-dispatch.suspend"
KV_KEY = f"kv.{KV}"
CONFIG_KEY = "custom.auto-dispatch.suspend"
SUSPEND_KEYS = (KV_KEY, CONFIG_KEY)
_NAMES = {KV_KEY: f"bd kv {KV}", CONFIG_KEY: f"bd config {CONFIG_KEY}"}
# Of several clones of one database, each with a deployment, the one that dispatches and reaps. The name is that of
# `bd kv`, which is part of the clones; each clone's own id is not (store.Beat.replica).
REPLICA = "auto-dispatch.replica"
REPLICA_REASON = f"bd kv {REPLICA} is"
REPLICA_KEY = f"kv.{REPLICA}"  # in the table config

_OFF = ("", "false", "no", "off", "0")
_VALUES = {(False, False): "false", (True, False): "dispatch", (False, True): "reap", (True, True): "true"}


@dataclass(frozen=True)
class Suspension:
    """Who suspended dispatch and reap, in words; None where nobody did."""

    dispatch: str | None = None
    reap: str | None = None


def from_config(values: Mapping[str, str]) -> Suspension:
    """What these rows of bd's config suspend.

    A value that is neither a yes, a no nor a name suspends both: a typing error must not keep anything running that
    somebody meant to suspend.
    """
    dispatch = reap = None
    for key in SUSPEND_KEYS:
        value = (values.get(key) or "").strip().lower()
        if value not in _OFF:
            reason = f"{_NAMES[key]} is {value}"
            dispatch = dispatch or (None if value == "reap" else reason)
            reap = reap or (None if value == "dispatch" else reason)
    return Suspension(dispatch, reap)


def by_replica(dispatching: str, own: str) -> str:
    """Why a clone does nothing where another is the one that dispatches."""
    return f"{REPLICA_REASON} {dispatching[:64]}, and this clone is {own or 'without an id yet'}"


def to_config(*, dispatch: bool, reap: bool) -> str:
    """The value of KV_KEY that suspends these."""
    return _VALUES[dispatch, reap]


def in_extension(value: object) -> bool:
    """Whether the extension `suspend` of a PingSource, or of its events, suspends what the PingSource ticks for."""
    return str(value).strip().lower() == "true"
