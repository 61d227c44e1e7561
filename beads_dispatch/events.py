"""The CloudEvents this system speaks: their types, the one builder and the one parser."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote, unquote

from cloudevents.conversion import to_binary
from cloudevents.http import CloudEvent, from_http

from beads_dispatch import suspension, trace

ISSUE_CHANGED = "dev.beads.issue.changed.v1"
DISPATCH_REQUESTED = "dev.beads.dispatch.requested.v1"
REAP_REQUESTED = "dev.beads.reap.requested.v1"
TICK = "dev.knative.sources.ping"  # what a PingSource sends

FEEDER_SOURCE = "/beads/feeder"
DISPATCH_SOURCE = "/beads/dispatch"  # of the request that follows a pass which ended early

# What describes the data of an event of a type (knative/schemas): a name, to be compared. Nothing is fetched from it.
SCHEMA_OF = "urn:beads:schema:{type}"

MAX_BODY_BYTES = 64 * 1024  # a tick or a request is a few hundred bytes

_NAME = re.compile(r"[a-z0-9]+")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
# CloudEvents' HTTP binding 3.1.3.2: what is not printable ASCII, and also space, double quote and per
# cent, is percent-encoded in a header. `quote` always keeps letters, digits and "_.-~".
_PLAIN_IN_HEADER = "!#$&'()*+,/:;<=>?@[\\]^`{|}"


class InvalidEvent(Exception):
    """The request is not a CloudEvent we can use; sending it again cannot help. The text gives the reason, and
    never repeats a header or the body: they may hold a token."""


@dataclass(frozen=True)
class Event:
    """A CloudEvent as this system uses it: required attributes, extensions as text, JSON data."""

    id: str
    source: str
    type: str
    subject: str | None = None
    extensions: Mapping[str, str] = field(default_factory=dict)
    data: Any = None
    dataschema: str | None = None

    @property
    def tick(self) -> str | None:
        """Which tick this is: the last segment of the PingSource's path; None for every other event."""
        return self.source.rsplit("/", 1)[-1] if self.type == TICK else None

    @property
    def suspended(self) -> bool:
        """Whether the PingSource has `--ce-override suspend=true`."""
        return suspension.in_extension(self.extensions.get("suspend", ""))


def request(
    cause: str,
    cause_id: str,
    count: int,
    event_type: str,
    agent: str = "",
    source: str = FEEDER_SOURCE,
    *,
    alone: bool = True,
    database: str = "",
) -> Event:
    """The event that requests a pass of dispatch or reap, of one agent or of all; `count` beads are there for it. Its
    id is that of its cause; where it is not `alone` with it, the agent's name follows. `database`: where the cause
    was."""
    return Event(
        id=cause_id if alone else f"{cause_id}/{agent}",
        source=source,
        type=event_type,
        extensions={
            "cause": cause,
            "agent": agent,
            "database": database,
            "traceparent": trace.of_event(cause_id, event_type).traceparent,
        },
        data={"waiting": count},
        dataschema=SCHEMA_OF.format(type=event_type),
    )


def to_http(event: Event, overrides: Mapping[str, str] | None = None) -> tuple[dict[str, str], bytes]:
    """Headers and body of `event` in binary mode; `overrides` are a SinkBinding's extensions."""
    attributes: dict[str, str] = {
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "datacontenttype": "application/json",
        **{name: value for name, value in event.extensions.items() if value},
        **(overrides or {}),
    }
    if event.subject:
        attributes["subject"] = event.subject
    if event.dataschema:
        attributes["dataschema"] = event.dataschema
    headers, _ = to_binary(CloudEvent(attributes, None))
    # cloudevents 1.12 writes attributes into headers as they are.
    encoded = {name: quote(value, safe=_PLAIN_IN_HEADER) for name, value in headers.items() if value}
    encoded["content-type"] = "application/json"
    return encoded, json.dumps(event.data, ensure_ascii=False, separators=(",", ":")).encode()


def from_request(headers: Mapping[str, str], body: bytes) -> Event:
    """The event in an HTTP request, in binary or structured mode.

    Raises InvalidEvent for everything else: a batch, JSON that is not an object, missing or empty
    attributes, a bad time, data that is not JSON although its content type is.
    """
    if len(body) > MAX_BODY_BYTES:
        raise InvalidEvent(f"the body is larger than {MAX_BODY_BYTES} bytes")
    names = {name.lower(): value for name, value in headers.items()}
    content_type = names.get("content-type", "").split(";")[0].strip().lower()
    if content_type.startswith("application/cloudevents-batch"):
        raise InvalidEvent("a batch of CloudEvents is not accepted; send one event per request")
    binary = "ce-specversion" in names
    if not binary and not content_type.startswith("application/cloudevents"):
        raise InvalidEvent(
            "not a CloudEvent: send the ce-specversion, ce-type, ce-source and ce-id headers, or the whole event"
            " as application/cloudevents+json"
        )
    relevant = {"content-type": names.get("content-type", "")}
    if binary:
        relevant |= {name: unquote(value) for name, value in names.items() if name.startswith("ce-")}
        data = _json(body) if _is_json(content_type) and body else body or None
    else:
        data = _object(body).get("data")
    try:
        attributes = dict(from_http(relevant, body, data_unmarshaller=lambda given: given).get_attributes())
    except Exception:  # noqa: BLE001 - cloudevents raises whatever its parts raise on input it did not foresee
        raise InvalidEvent("the CloudEvent's required attributes are missing or cannot be read") from None
    return _checked(attributes, data)


def _checked(attributes: dict[str, Any], data: Any) -> Event:
    for name in ("id", "source", "type"):
        if not isinstance(attributes.get(name), str) or not attributes[name].strip():
            raise InvalidEvent(f"the attribute {name} is missing or empty")
    try:
        "".join(map(str, attributes.values())).encode()
    except UnicodeEncodeError:  # JSON can spell half of a surrogate pair, and nobody can pass that on
        raise InvalidEvent("an attribute is not Unicode text") from None
    if attributes.get("specversion") != "1.0":
        raise InvalidEvent("specversion is not 1.0")
    time = attributes.get("time")
    if time is not None and not _is_time(time):
        raise InvalidEvent("the attribute time is not an RFC 3339 timestamp")
    known = {"id", "source", "type", "specversion", "time", "subject", "datacontenttype", "dataschema"}
    return Event(
        id=attributes["id"],
        source=attributes["source"],
        type=attributes["type"],
        subject=str(attributes["subject"]) if attributes.get("subject") else None,
        extensions={
            name: _text(value)
            for name, value in attributes.items()
            if name not in known and _NAME.fullmatch(name) and value is not None
        },
        data=data,
        dataschema=str(attributes["dataschema"]) if attributes.get("dataschema") else None,
    )


def _object(body: bytes) -> dict[str, Any]:
    found = _json(body)
    if not isinstance(found, dict):
        raise InvalidEvent("the body is JSON but not an object, so it is not a CloudEvent")
    return found


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidEvent("the body is not JSON, although its content type is") from None


def _is_json(content_type: str) -> bool:
    return content_type in ("application/json", "text/json") or content_type.endswith("+json")


def _is_time(value: Any) -> bool:
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value.upper())
    except ValueError:
        return False
    return True


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
