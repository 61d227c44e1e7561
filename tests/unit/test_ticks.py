"""The tick sources: they send what the PingSources would, when they would."""

import contextlib
import pathlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from beads_dispatch import events
from feeder import wsgi
from local import ticks, wsgi_server
from local.manifests import ManifestError
from tests import support

BASE = pathlib.Path(__file__).parents[2] / "knative" / "base"

MANIFEST = """
apiVersion: sources.knative.dev/v1
kind: PingSource
metadata: {name: odd}
spec:
  schedule: "*/5 * * * *"
  contentType: application/json
"""


@contextlib.contextmanager
def ticking(sources: ticks.Ticks) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=sources.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(support.PATIENCE_SECONDS)
        assert not thread.is_alive()


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the ticks' threads have logged so far."""
    return [record.getMessage() for record in caplog.records if record.name == "beads.ticks"]


def load(folder: pathlib.Path, manifest: str) -> ticks.TickSource:
    (folder / "odd.yaml").write_text(manifest)
    (loaded,) = ticks.load_sources(folder)
    return loaded


def test_the_deployed_sources_are_read() -> None:
    """What is sent locally is what is deployed: dispatch every 2 minutes, reap every 10."""
    loaded = ticks.load_sources(BASE)

    assert {(source.name, source.every_minutes) for source in loaded} == {("dispatch", 2), ("reap", 10)}
    assert all(source.data == {} and "suspend" not in source.extensions for source in loaded)


def test_a_tick_is_what_a_pingsource_sends() -> None:
    """Type and source are Knative's, the name is the last segment of the source, and every tick has its own id."""
    source = ticks.TickSource("dispatch", 2, data={})
    tick = source.tick()

    assert tick.type == "dev.knative.sources.ping"
    assert tick.source == "/apis/v1/namespaces/local/pingsources/dispatch"
    assert tick.tick == "dispatch"
    assert tick.data == {}
    assert tick.id != source.tick().id


def test_overrides_are_on_every_tick(tmp_path: pathlib.Path) -> None:
    """`kn source ping update --ce-override suspend=true` lands in ceOverrides, and from there on each tick."""
    source = load(tmp_path, MANIFEST + '  ceOverrides: {extensions: {suspend: "true"}}\n')

    assert source.tick().suspended


@pytest.mark.parametrize(
    ("every", "now", "expected"),
    [
        (2, (10, 0, 0), 120),
        (2, (10, 1, 30), 30),
        (10, (10, 57, 59), 121),
        (10, (10, 10, 0), 600),
        (7, (10, 58, 0), 120),
        (7, (10, 56, 30), 210),
        (1, (23, 59, 59), 1),
    ],
)
def test_a_tick_comes_at_the_minutes_that_cron_says(every: int, now: tuple[int, int, int], expected: float) -> None:
    """`*/N` is every full minute that N divides, and starts again with the hour."""
    source = ticks.TickSource("any", every)

    assert source.seconds_until_next(datetime(2026, 1, 1, *now, tzinfo=UTC)) == expected


def test_ticks_are_sent_until_stopped(sink: support.Sink) -> None:
    """Each source ticks on its own; a period in seconds replaces its schedule."""
    sources = ticks.load_sources(BASE)

    with ticking(ticks.Ticks(sources, sink.url, {"dispatch": 0.02})):
        support.wait_for(lambda: len(sink.received) >= 3, "three ticks")

    assert {event.tick for event in sink.received} == {"dispatch"}
    assert len({event.id for event in sink.received}) == len(sink.received)


def test_a_slow_answer_delays_no_other_source() -> None:
    """The Broker answers a tick when the work is done; the other source's ticks go on meanwhile."""
    came: set[str | None] = set()
    both = threading.Event()

    def answers_when_both_came(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        came.add(events.from_request(wsgi.headers(environ), wsgi.body(environ)).tick)
        if came == {"dispatch", "reap"}:
            both.set()
        both.wait(support.PATIENCE_SECONDS)
        return wsgi_server.answer(start_response, 202)

    with wsgi_server.Server(answers_when_both_came, threads=2) as sink:
        sources = ticks.Ticks(ticks.load_sources(BASE), sink.url, {"dispatch": 0.01, "reap": 0.01})
        with ticking(sources):
            assert both.wait(support.PATIENCE_SECONDS / 2), f"while no tick was answered there came only {came}"


def test_an_outage_is_logged_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    """A sink that refuses ticks is logged once; the next tick is sent all the same, and its success is logged."""
    answers = [503, 503, 503, 202, 202]

    def changes_its_mind(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        return wsgi_server.answer(start_response, answers.pop(0) if len(answers) > 1 else answers[0])

    sources = ticks.load_sources(BASE)
    with (
        wsgi_server.Server(changes_its_mind, threads=1) as sink,
        ticking(ticks.Ticks(sources, sink.url, {"reap": 0.01})),
    ):
        support.wait_for(lambda: "ticks are accepted again" in logged(caplog), "the end of the outage is logged")

    assert logged(caplog) == ["a tick was not accepted: HTTP 503", "ticks are accepted again"]


def test_a_sink_that_is_down_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A refused connection is an outage like any other."""
    with support.closing(support.Sink()) as gone:
        url = gone.url

    with ticking(ticks.Ticks(ticks.load_sources(BASE), url, {"reap": 0.01})):
        support.wait_for(lambda: logged(caplog), "the outage is logged")

    assert "no answer (ConnectError" in logged(caplog)[0]


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (MANIFEST.replace("*/5 * * * *", "0 9 * * 1-5"), ["spec.schedule", "'0 9 * * 1-5'", "*/N * * * *"]),
        (MANIFEST.replace("*/5", "*/0"), ["spec.schedule"]),
        (MANIFEST.replace("*/5", "*/60"), ["spec.schedule", "1 to 59"]),
        (MANIFEST.replace("application/json", "text/plain"), ["spec.contentType", "application/json"]),
        (MANIFEST + "  data: '{'\n", ["spec.data", "expected JSON"]),
        (MANIFEST + "  data: {}\n  suspend: true\n", ["spec has suspend"]),
        (MANIFEST + "  ceOverrides: {extensions: {suspend: true}}\n", ["extensions.suspend", "put it in quotes"]),
    ],
)
def test_a_source_that_cannot_be_used_is_refused(tmp_path: pathlib.Path, manifest: str, words: list[str]) -> None:
    """The error names the file, the PingSource and the field."""
    with pytest.raises(ManifestError) as refused:
        load(tmp_path, manifest)

    for word in (str(tmp_path / "odd.yaml"), "PingSource odd", *words):
        assert word in str(refused.value)


def test_a_folder_without_sources_is_refused(tmp_path: pathlib.Path) -> None:
    """A backstop that never ticks must not look like one that has nothing to do."""
    with pytest.raises(ManifestError, match="holds no PingSource"):
        ticks.load_sources(tmp_path)


def test_a_period_for_an_unknown_source_is_refused() -> None:
    """A misspelt name would leave the schedule in force, without a word."""
    with pytest.raises(ValueError, match="dispach"):
        ticks.Ticks(ticks.load_sources(BASE), "http://sink.test", {"dispach": 1})
