"""The Triggers: the deployed ones route as designed, and a wrong one is refused with the reason."""

import pathlib

import pytest

from beads_dispatch import events
from local import triggers
from local.manifests import ManifestError

BASE = pathlib.Path(__file__).parents[2] / "knative" / "base"
ADDRESSES = {"feeder": "http://feeder.test", "dispatch": "http://dispatch.test", "reap": "http://reap.test"}

BROKER = """
apiVersion: eventing.knative.dev/v1
kind: Broker
metadata: {name: default}
"""
TRIGGER = """
apiVersion: eventing.knative.dev/v1
kind: Trigger
metadata: {name: odd}
spec:
  broker: default
  subscriber: {ref: {apiVersion: v1, kind: Service, name: feeder}}
"""


def an_event(event_type: str = "t", source: str = "/s", **extensions: str) -> events.Event:
    return events.Event(id="1", source=source, type=event_type, extensions=extensions)


def a_tick(name: str, namespace: str = "any") -> events.Event:
    return an_event(events.TICK, f"/apis/v1/namespaces/{namespace}/pingsources/{name}", tick=name)


def matched_by(event: events.Event) -> list[tuple[str, str]]:
    loaded = triggers.load_triggers(BASE, ADDRESSES)
    return [(trigger.name, trigger.subscriber.name) for trigger in loaded if triggers.matches(trigger, event)]


def load(folder: pathlib.Path, trigger: str, broker: str = BROKER) -> triggers.Trigger:
    (folder / "odd.yaml").write_text(f"{broker}---{trigger}")
    (loaded,) = triggers.load_triggers(folder, ADDRESSES)
    return loaded


def refusal(folder: pathlib.Path, trigger: str, broker: str = BROKER) -> str:
    with pytest.raises(ManifestError) as refused:
        load(folder, trigger, broker)
    return str(refused.value)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (an_event(events.DISPATCH_REQUESTED), [("dispatch-requested", "dispatch")]),
        (an_event(events.REAP_REQUESTED), [("reap-requested", "reap")]),
        (a_tick("dispatch"), [("tick-dispatch", "feeder")]),
        (a_tick("reap", namespace="other"), [("tick-reap", "feeder")]),
        (a_tick("somebody-elses"), []),
        (a_tick("not-dispatch"), []),
        (an_event("somebody.elses", "/apis/v1/namespaces/any/pingsources/dispatch", tick="dispatch"), []),
        (an_event(events.TICK, "/apis/v1/namespaces/any/pingsources/dispatch"), []),
        (an_event(events.ISSUE_CHANGED), []),
    ],
    ids=lambda value: f"{value.type} {value.source}" if isinstance(value, events.Event) else "",
)
def test_every_event_goes_where_the_design_says(event: events.Event, expected: list[tuple[str, str]]) -> None:
    """Requests go to their function, ticks of our two PingSources to the feeder, change events and all else nowhere."""
    assert matched_by(event) == expected


def test_a_tick_s_dead_letter_is_the_function_itself() -> None:
    """With the feeder down, the backstop still works: the tick is delivered to its function."""
    loaded = triggers.load_triggers(BASE, ADDRESSES)
    dead_letters = {t.name: t.delivery.dead_letter.name for t in loaded if t.delivery.dead_letter}

    assert dead_letters == {"tick-dispatch": "dispatch", "tick-reap": "reap"}


def test_every_deployed_trigger_gives_up_before_the_next_tick() -> None:
    """Each Trigger limits its retries: Knative's default of 10 would last far longer than until the next tick."""
    for trigger in triggers.load_triggers(BASE, ADDRESSES):
        waits = [trigger.delivery.wait_seconds(failures) for failures in range(trigger.delivery.retry)]
        assert 0 < sum(waits) < 60, trigger.name


@pytest.mark.parametrize(
    ("attributes", "passes"),
    [
        ("type: com.example.done", True),
        ("type: com.example", False),
        ("type: com.example.done, source: /a/b", True),
        ("type: com.example.done, source: /b", False),
        ("suspend: 'true'", True),
        ("subject: none", False),
        ("nosuchattribute: x", False),
    ],
)
def test_an_event_must_have_every_attribute(tmp_path: pathlib.Path, attributes: str, passes: bool) -> None:
    """With exactly this text; extensions are attributes, too."""
    trigger = load(tmp_path, TRIGGER + f"  filter: {{attributes: {{{attributes}}}}}\n")
    assert triggers.matches(trigger, an_event("com.example.done", "/a/b", suspend="true")) is passes


def test_an_empty_text_is_any_value(tmp_path: pathlib.Path) -> None:
    """In `filter.attributes` an empty text requires only that the attribute is present."""
    what = load(tmp_path, TRIGGER + "  filter: {attributes: {type: t, cause: ''}}\n")

    assert triggers.matches(what, an_event("t", cause="tick"))
    assert not triggers.matches(what, an_event("t"))
    assert not triggers.matches(what, an_event("other", cause="tick"))


def test_a_trigger_without_a_filter_matches_everything(tmp_path: pathlib.Path) -> None:
    """No filter means every event."""
    assert triggers.matches(load(tmp_path, TRIGGER), an_event("whatever"))


def test_a_trigger_without_delivery_has_knative_s_own(tmp_path: pathlib.Path) -> None:
    """Where a manifest sets nothing, Knative's default applies: 10 retries, doubling from 0.2 s."""
    delivery = load(tmp_path, TRIGGER).delivery

    assert delivery.retry == 10
    assert [delivery.wait_seconds(failures) for failures in range(4)] == pytest.approx([0.2, 0.4, 0.8, 1.6])


def test_linear_backoff_grows_by_its_delay(tmp_path: pathlib.Path) -> None:
    """Linear waits are delay * n with n from 0: Knative's first linear retry comes at once."""
    delivery = load(
        tmp_path, TRIGGER + "  delivery: {retry: 3, backoffPolicy: linear, backoffDelay: PT1M1.5S}\n"
    ).delivery

    assert [delivery.wait_seconds(failures) for failures in range(3)] == [0, 61.5, 123]


@pytest.mark.parametrize(
    ("trigger", "words"),
    [
        (TRIGGER + "  filters: [{exact: {type: a}}]\n", ["spec", "filters", "filter"]),
        (TRIGGER + "  filter: {attributes: {Type: a}}\n", ["'Type'", "lower-case"]),
        (TRIGGER + "  filter: {attributes: {suspend: true}}\n", ["suspend", "put it in quotes"]),
        (TRIGGER + "  filter: {attributes: [type]}\n", ["spec.filter.attributes"]),
        (TRIGGER + "  filter: {exact: {type: a}}\n", ["spec.filter", "exact", "attributes"]),
        (TRIGGER.replace("name: feeder", "name: fedeer"), ["spec.subscriber.ref", "'fedeer'", "dispatch, feeder"]),
        (TRIGGER.replace("apiVersion: v1", "apiVersion: apps/v1"), ["spec.subscriber.ref", "serving.knative.dev/v1"]),
        (TRIGGER.replace("{ref: {", "{uri: http://x, ref: {"), ["spec.subscriber", "uri"]),
        (TRIGGER.replace("broker: default", "broker: defualt"), ["spec.broker", "'defualt'", "default"]),
        (TRIGGER + "  delivery: {retries: 2}\n", ["spec.delivery", "retries", "retry"]),
        (TRIGGER + "  delivery: {timeout: PT1S}\n", ["spec.delivery", "timeout"]),
        (TRIGGER + "  delivery: {retry: -1}\n", ["spec.delivery.retry", "-1"]),
        (TRIGGER + "  delivery: {backoffPolicy: random}\n", ["spec.delivery.backoffPolicy", "exponential or linear"]),
        (TRIGGER + "  delivery: {backoffPolicy: linear, backoffDelay: 2s}\n", ["backoffDelay", "'2s'", "PT0.2S"]),
        (
            TRIGGER + "  delivery: {deadLetterSink: {ref: {apiVersion: v1, kind: Service, name: nobody}}}\n",
            ["spec.delivery.deadLetterSink.ref", "'nobody'"],
        ),
    ],
)  # fmt: skip
def test_a_wrong_trigger_is_refused_with_its_file_and_name(
    tmp_path: pathlib.Path, trigger: str, words: list[str]
) -> None:
    """What the router would do differently from the Broker, or what the Broker would refuse, is an error at load."""
    message = refusal(tmp_path, trigger)

    for word in (str(tmp_path / "odd.yaml"), "Trigger odd", *words):
        assert word in message


def test_a_trigger_without_its_broker_is_refused(tmp_path: pathlib.Path) -> None:
    """A Trigger whose Broker is not among the manifests would never get an event."""
    assert "spec.broker is 'default', expected one of the folder's Brokers: none" in refusal(tmp_path, TRIGGER, "")


def test_a_folder_without_triggers_is_refused(tmp_path: pathlib.Path) -> None:
    """A router without Triggers would drop every event without a word."""
    with pytest.raises(ManifestError, match="holds no Trigger"):
        triggers.load_triggers(tmp_path, ADDRESSES)


def test_a_file_that_is_not_yaml_is_named(tmp_path: pathlib.Path) -> None:
    """The error names the file that cannot be read."""
    (tmp_path / "broken.yaml").write_text("a: [")

    with pytest.raises(ManifestError, match=r"broken\.yaml cannot be read as YAML"):
        triggers.load_triggers(tmp_path, ADDRESSES)
