"""The Broker's Triggers, read from their manifests: which events each one matches and where it delivers. Pure."""

import pathlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from beads_dispatch import events
from local import manifests
from local.manifests import ManifestError

EVENTING = "eventing.knative.dev"

_ATTRIBUTE = re.compile(r"[a-z0-9]+")
_ADDRESSABLE = {("v1", "Service"), ("serving.knative.dev/v1", "Service")}


@dataclass(frozen=True)
class Text:
    """One attribute of the event compared with a text."""

    how: str  # exact, prefix or suffix
    attribute: str
    value: str


@dataclass(frozen=True)
class All:
    parts: tuple["Filter", ...]


@dataclass(frozen=True)
class AnyOf:
    parts: tuple["Filter", ...]


@dataclass(frozen=True)
class Not:
    part: "Filter"


Filter = Text | All | AnyOf | Not

_COMPARE: Mapping[str, Callable[[str, str], bool]] = {
    "exact": str.__eq__,
    "prefix": str.startswith,
    "suffix": str.endswith,
}
_DIALECTS = (*_COMPARE, "all", "any", "not")


@dataclass(frozen=True)
class Target:
    """A Service by its name, and its local URL."""

    name: str
    url: str


@dataclass(frozen=True)
class Delivery:
    """How often a Trigger retries, how long it waits, and the sink of what it could not deliver."""

    retry: int
    backoff_policy: str  # exponential or linear
    backoff_seconds: float
    dead_letter: Target | None = None

    def wait_seconds(self, failures: int) -> float:
        """The wait after that many failures, counted from 0, as Knative counts: delay * 2^n, or delay * n."""
        return self.backoff_seconds * (2**failures if self.backoff_policy == "exponential" else failures)


# What Knative's own config-br-defaults gives a Broker, and thereby a Trigger without `delivery`.
DEFAULT_DELIVERY = Delivery(retry=10, backoff_policy="exponential", backoff_seconds=0.2)


@dataclass(frozen=True)
class Trigger:
    name: str
    filter: Filter
    subscriber: Target
    delivery: Delivery


def load_triggers(folder: pathlib.Path, addresses: Mapping[str, str]) -> tuple[Trigger, ...]:
    """The Triggers in the folder's manifests; `addresses` has the local URL of each Service.

    Raises ManifestError, which names the file and the Trigger.
    """
    brokers = {name for name, _, _ in manifests.read(folder, EVENTING, "Broker")}
    return manifests.load(folder, EVENTING, "Trigger", lambda name, spec: _trigger(name, spec, brokers, addresses))


def matches(what: Filter, event: events.Event) -> bool:
    """Whether the event passes the filter. An attribute that the event lacks matches nothing."""
    match what:
        case Text(how, attribute, value):
            found = _attribute(event, attribute)
            return found is not None and _COMPARE[how](found, value)
        case All(parts):
            return all(matches(part, event) for part in parts)
        case AnyOf(parts):
            return any(matches(part, event) for part in parts)
        case Not(part):
            return not matches(part, event)


def _attribute(event: events.Event, name: str) -> str | None:
    own = {
        "id": event.id, "source": event.source, "type": event.type, "subject": event.subject, "specversion": "1.0",
        "datacontenttype": "application/json", "dataschema": event.dataschema,
    }  # fmt: skip
    return own[name] if name in own else event.extensions.get(name)


def _trigger(name: str, spec: manifests.Manifest, brokers: set[str], addresses: Mapping[str, str]) -> Trigger:
    manifests.table(spec, "spec", ("broker", "filter", "filters", "subscriber", "delivery"))
    if spec.get("broker") not in brokers:
        raise ManifestError(
            f"spec.broker is {spec.get('broker')!r}, expected one of the folder's Brokers: {_list(brokers)}"
        )
    return Trigger(
        name=name,
        filter=_filters(spec),
        subscriber=_target(spec.get("subscriber"), "spec.subscriber", addresses),
        delivery=_delivery(spec.get("delivery"), addresses),
    )


def _filters(spec: manifests.Manifest) -> Filter:
    """`filters` if there are any, else the older `filter`, in which an empty text means any value."""
    if spec.get("filters"):
        return All(_parts(spec["filters"], "spec.filters"))
    older = manifests.table(spec.get("filter"), "spec.filter", ("attributes",))
    attributes = manifests.table(older.get("attributes"), "spec.filter.attributes")
    return All(
        tuple(
            _text("exact" if value else "prefix", name, value, "spec.filter.attributes")
            for name, value in attributes.items()
        )
    )


def _parts(value: Any, where: str) -> tuple[Filter, ...]:
    if not isinstance(value, list) or not value:
        raise ManifestError(f"{where} is {value!r}, expected a list of filters")
    return tuple(_filter(part, f"{where}[{number}]") for number, part in enumerate(value))


def _filter(value: Any, where: str) -> Filter:
    if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in _DIALECTS:
        raise ManifestError(f"{where} is {value!r}, expected exactly one of {_list(_DIALECTS)}")
    dialect, content = next(iter(value.items()))
    where = f"{where}.{dialect}"
    if dialect == "all":
        return All(_parts(content, where))
    if dialect == "any":
        return AnyOf(_parts(content, where))
    if dialect == "not":
        return Not(_filter(content, where))
    if not isinstance(content, dict) or not content or not all(content.values()):
        raise ManifestError(f"{where} is {content!r}, expected attributes and a text for each")
    return All(tuple(_text(dialect, name, text, where) for name, text in content.items()))


def _text(how: str, attribute: Any, value: Any, where: str) -> Text:
    if not isinstance(attribute, str) or not _ATTRIBUTE.fullmatch(attribute):
        raise ManifestError(f"{where} names {attribute!r}, expected an attribute: lower-case letters and digits")
    return Text(how, attribute, manifests.require_text(value, f"{where}.{attribute}"))


def _target(value: Any, where: str, addresses: Mapping[str, str]) -> Target:
    destination = manifests.table(value, where, ("ref",))
    ref = manifests.table(destination.get("ref"), f"{where}.ref", ("apiVersion", "kind", "name"))
    if (ref.get("apiVersion"), ref.get("kind")) not in _ADDRESSABLE:
        raise ManifestError(f"{where}.ref is {dict(ref)}, expected a Service of v1 or of serving.knative.dev/v1")
    name = ref.get("name")
    if name not in addresses:
        raise ManifestError(f"{where}.ref names {name!r}, but addresses are known only for {_list(addresses)}")
    return Target(str(name), addresses[str(name)])


def _delivery(value: Any, addresses: Mapping[str, str]) -> Delivery:
    if value is None:
        return DEFAULT_DELIVERY
    known = ("retry", "backoffPolicy", "backoffDelay", "deadLetterSink")
    spec = manifests.table(value, "spec.delivery", known)
    retry, policy, delay = spec.get("retry", 0), spec.get("backoffPolicy"), spec.get("backoffDelay")
    if type(retry) is not int or retry < 0:
        raise ManifestError(f"spec.delivery.retry is {retry!r}, expected a whole number of at least 0")
    if policy not in ("exponential", "linear", None):
        raise ManifestError(f"spec.delivery.backoffPolicy is {policy!r}, expected exponential or linear")
    sink = spec.get("deadLetterSink")
    return Delivery(
        retry=retry,
        # Knative waits only when both the policy and the delay are set.
        backoff_policy=policy or "exponential",
        backoff_seconds=manifests.seconds(delay, "spec.delivery.backoffDelay") if policy and delay else 0.0,
        dead_letter=_target(sink, "spec.delivery.deadLetterSink", addresses) if sink is not None else None,
    )


def _list(names: Any) -> str:
    return ", ".join(sorted(names)) or "none"
