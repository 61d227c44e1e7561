"""How a person suspends dispatch or reap: what the values mean. Pure, and imports next to nothing."""

from dataclasses import dataclass

CONFIG_KEY = "custom.auto-dispatch.suspend"  # in bd's config
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


def from_config(value: str | None) -> Suspension:
    """What the value of CONFIG_KEY suspends; None where the key is not set.

    A value that is neither a yes, a no nor a name suspends both: a typing error must not keep anything running that
    somebody meant to suspend.
    """
    value = (value or "").strip().lower()
    if value in _OFF:
        return Suspension()
    reason = f"bd config {CONFIG_KEY} is {value}"
    return Suspension(None if value == "reap" else reason, None if value == "dispatch" else reason)


def by_replica(dispatching: str, own: str) -> str:
    """Why a clone does nothing where another is the one that dispatches."""
    return f"{REPLICA_REASON} {dispatching[:64]}, and this clone is {own or 'without an id yet'}"


def to_config(*, dispatch: bool, reap: bool) -> str:
    """The value of CONFIG_KEY that suspends these."""
    return _VALUES[dispatch, reap]


def in_extension(value: object) -> bool:
    """Whether the extension `suspend` of a PingSource, or of its events, suspends what the PingSource ticks for."""
    return str(value).strip().lower() == "true"
