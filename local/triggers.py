"""The Broker's Triggers, read from their manifests: which events each one matches and where it delivers. Pure."""

import pathlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from beads_dispatch import events
from local import manifests
from local.manifests import ManifestError

EVENTING = "eventing.knative.dev"

_ATTRIBUTE = re.compile(r"[a-z0-9]+")
_ADDRESSABLE = {("v1", "Service"), ("serving.knative.dev/v1", "Service")}


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
    attributes: Mapping[str, str]  # what an event must have; an empty text means any value
    subscriber: Target
    delivery: Delivery


def load_triggers(folder: pathlib.Path, addresses: Mapping[str, str]) -> tuple[Trigger, ...]:
    """The Triggers in the folder's manifests; `addresses` has the local URL of each Service.

    Raises ManifestError, which names the file and the Trigger.
    """
    brokers = {name for name, _, _ in manifests.read(folder, EVENTING, "Broker")}
    return manifests.load(folder, EVENTING, "Trigger", lambda name, spec: _trigger(name, spec, brokers, addresses))


def matches(trigger: Trigger, event: events.Event) -> bool:
    """Whether the event has every attribute that the Trigger selects by."""
    found = ((_attribute(event, name), wanted) for name, wanted in trigger.attributes.items())
    return all(value is not None and (not wanted or value == wanted) for value, wanted in found)


def _attribute(event: events.Event, name: str) -> str | None:
    own = {
        "id": event.id, "source": event.source, "type": event.type, "subject": event.subject, "specversion": "1.0",
        "datacontenttype": "application/json", "dataschema": event.dataschema,
    }  # fmt: skip
    return own[name] if name in own else event.extensions.get(name)


def _trigger(name: str, spec: manifests.Manifest, brokers: set[str], addresses: Mapping[str, str]) -> Trigger:
    # Not `filters`, which RabbitMQ's Broker ignores.
    manifests.table(spec, "spec", ("broker", "filter", "subscriber", "delivery"))
    if spec.get("broker") not in brokers:
        raise ManifestError(
            f"spec.broker is {spec.get('broker')!r}, expected one of the folder's Brokers: {_list(brokers)}"
        )
    return Trigger(
        name=name,
        attributes=_attributes(spec.get("filter")),
        subscriber=_target(spec.get("subscriber"), "spec.subscriber", addresses),
        delivery=_delivery(spec.get("delivery"), addresses),
    )


def _attributes(value: Any) -> Mapping[str, str]:
    attributes = manifests.table(
        manifests.table(value, "spec.filter", ("attributes",)).get("attributes"), "spec.filter.attributes"
    )
    for name, text in attributes.items():
        if not isinstance(name, str) or not _ATTRIBUTE.fullmatch(name):
            raise ManifestError(
                f"spec.filter.attributes names {name!r}, expected an attribute: lower-case letters and digits"
            )
        manifests.require_text(text, f"spec.filter.attributes.{name}")
    return attributes


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
