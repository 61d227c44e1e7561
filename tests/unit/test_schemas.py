"""The published schemas: well-formed, one for each type that is sent, and strict enough to refuse a wrong event."""

import copy
import json
import pathlib
from typing import Any

import jsonschema
import pytest
import yaml
from referencing import Registry, Resource

from beads_dispatch import events
from feeder import changes

KNATIVE = pathlib.Path(__file__).parents[2] / "knative"
TYPES = (events.ISSUE_CHANGED, events.DISPATCH_REQUESTED, events.REAP_REQUESTED)
SCHEMAS = {path.stem: json.loads(path.read_text()) for path in (KNATIVE / "schemas").iterdir()}

_REGISTRY: Registry[Any] = Registry().with_resources(
    (schema["$id"], Resource.from_contents(schema)) for schema in SCHEMAS.values()
)


def refusals(uri: str, what: object) -> list[str]:
    """Why `what` is refused by the schema of that URI, which may name a part of one; none if it is not."""
    validator = jsonschema.Draft202012Validator({"$ref": uri}, registry=_REGISTRY)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(what)]


def whole(event: events.Event) -> dict[str, Any]:
    """The event in CloudEvents' JSON format, from what is sent in binary mode."""
    headers, body = events.to_http(event)
    attributes = {name.removeprefix("ce-"): value for name, value in headers.items() if name != "content-type"}
    return {**attributes, "datacontenttype": headers["content-type"], "data": json.loads(body)}


CHANGE = changes.Change(
    id="0d3a8f5e-0000-4000-8000-000000000001:7:1",
    sequence="00000000000000000007.000001",
    bead="x-1",
    title="A bead",
    priority=2,
    before={"assignee": None, "status": "open"},
    after={"assignee": "agent", "status": "open"},
    actor="alice",
)
SENT = {
    events.ISSUE_CHANGED: whole(changes.to_event(CHANGE, "beads")),
    events.DISPATCH_REQUESTED: whole(
        changes.request(changes.RequestReason("slot", CHANGE.id), 3, events.DISPATCH_REQUESTED)
    ),
    events.REAP_REQUESTED: whole(changes.request(changes.RequestReason("tick", "1-2-3"), 1, events.REAP_REQUESTED)),
}


def test_there_is_a_schema_for_each_type_and_no_other() -> None:
    """A file is named after its type, and its $id is the `dataschema` of the events."""
    assert SCHEMAS.keys() == set(TYPES)
    for event_type, schema in SCHEMAS.items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["$id"] == events.SCHEMA_OF.format(type=event_type)


@pytest.mark.parametrize("event_type", TYPES)
def test_what_is_sent_is_accepted(event_type: str) -> None:
    """The data, by the name that the event gives, and the whole event; every field that is sent is described."""
    sent = SENT[event_type]
    assert refusals(sent["dataschema"], sent["data"]) == []
    assert refusals(f"{sent['dataschema']}#/$defs/event", sent) == []
    schema = SCHEMAS[event_type]
    assert sent["data"].keys() == schema["properties"].keys() == set(schema["required"])
    assert sent.keys() <= schema["$defs"]["event"]["properties"].keys()


def test_the_documented_event_is_as_its_schema_says() -> None:
    """docs/events.md shows one, and names every type and every attribute."""
    page = (KNATIVE.parent / "docs" / "events.md").read_text()
    shown = json.loads(page.partition("```json\n")[2].partition("```")[0])
    assert refusals(f"{shown['dataschema']}#/$defs/event", shown) == []
    attributes = {name for schema in SCHEMAS.values() for name in schema["$defs"]["event"]["properties"]}
    named = {*TYPES, *attributes} - {"specversion", "type", "datacontenttype", "data"}
    assert [name for name in named if f"`{name}`" not in page] == []


GONE = object()

# One mistake each, and a word of the reason.
MISTAKES = [
    (events.ISSUE_CHANGED, "data.id", GONE, "'id' is a required property"),
    (events.ISSUE_CHANGED, "data.id", "", "should be non-empty"),
    (events.ISSUE_CHANGED, "data.priority", "1", "'1' is not of type 'integer', 'null'"),
    (events.ISSUE_CHANGED, "data.after", None, "None is not of type 'object'"),
    (events.ISSUE_CHANGED, "data.after.status", GONE, "'status' is a required property"),
    (events.ISSUE_CHANGED, "data.before.assignee", "", "should be non-empty"),
    (events.ISSUE_CHANGED, "data.actor", None, "None is not of type 'string'"),
    (events.ISSUE_CHANGED, "data", [], "is not of type 'object'"),
    (events.ISSUE_CHANGED, "subject", GONE, "'subject' is a required property"),
    (events.ISSUE_CHANGED, "sequence", "7.1", "does not match"),
    (events.ISSUE_CHANGED, "source", "/beads/feeder", "does not match"),
    (events.ISSUE_CHANGED, "recovered", "false", "'true' was expected"),
    (events.ISSUE_CHANGED, "traceparent", "00-0-0-01", "does not match"),
    (events.ISSUE_CHANGED, "dataschema", "urn:beads:schema:other", "was expected"),
    (events.DISPATCH_REQUESTED, "data.waiting", 0, "0 is less than the minimum of 1"),
    (events.DISPATCH_REQUESTED, "data.waiting", "1", "'1' is not of type 'integer'"),
    (events.DISPATCH_REQUESTED, "data.waiting", GONE, "'waiting' is a required property"),
    (events.DISPATCH_REQUESTED, "cause", "boredom", "is not one of"),
    (events.DISPATCH_REQUESTED, "type", events.REAP_REQUESTED, "was expected"),
    (events.REAP_REQUESTED, "cause", "change", "is not one of"),
    (events.REAP_REQUESTED, "data", GONE, "'data' is a required property"),
    (events.REAP_REQUESTED, "id", "", "should be non-empty"),
]


@pytest.mark.parametrize(("event_type", "field", "value", "reason"), MISTAKES)
def test_a_wrong_event_is_refused(event_type: str, field: str, value: object, reason: str) -> None:
    """One mistake, one reason that names it."""
    wrong = copy.deepcopy(SENT[event_type])
    inside: Any = wrong
    *way, last = field.split(".")
    for part in way:
        inside = inside[part]
    inside.pop(last) if value is GONE else inside.update({last: value})
    (refusal,) = refusals(f"{events.SCHEMA_OF.format(type=event_type)}#/$defs/event", wrong)
    assert reason in refusal


@pytest.mark.parametrize("event_type", TYPES)
def test_the_eventtype_names_its_schema_and_declares_the_same_attributes(event_type: str) -> None:
    """What `kubectl get eventtype` leads to: the schema's name, and no attribute that only one of the two knows."""
    (manifest,) = [
        found
        for path in (KNATIVE / "base").glob("eventtype-*.yaml")
        if (found := yaml.safe_load(path.read_text()))["metadata"]["name"] == event_type
    ]
    declared = {attribute["name"]: attribute for attribute in manifest["spec"]["attributes"]}
    assert declared["dataschema"]["value"] == SCHEMAS[event_type]["$id"]
    assert SCHEMAS[event_type]["$id"] in manifest["spec"]["description"].split()
    event = SCHEMAS[event_type]["$defs"]["event"]
    assert declared.keys() == event["properties"].keys() - {"data"}
    assert {name for name, attribute in declared.items() if attribute["required"]} == {*event["required"]} - {"data"}
