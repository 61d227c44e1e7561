"""The small pure parts: notes, the dispatch record, preflight, back-off, log lines."""

import io
import json
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beads_dispatch import log, notes
from beads_dispatch.bead import RECORD_NUMBERS, DispatchRecord
from feeder import emitter, preflight
from feeder.supervision import Threads

FIT = {
    "dolt_version": "2.2.0",
    "log_bin": "1",
    "gtid_mode": "ON",
    "enforce_gtid_consistency": "ON",
    "binlog_row_metadata": "FULL",
    "log_bin_branch": "main",
    "branch": "main",
}


def test_the_notes_are_byte_for_byte() -> None:
    """Other people's scripts read them."""
    moment = datetime(2026, 7, 15, 9, 30, tzinfo=UTC)
    assert notes.claimed(moment) == "auto-dispatcher claimed at 2026-07-15T09:30:00Z"
    assert notes.dispatched("abc123") == "dispatched: job=abc123"
    assert notes.dispatch_failed(502, '{"error":"Queue full"}') == 'dispatch failed HTTP 502: {"error":"Queue full"}'
    assert notes.dispatch_failed(0, "refused") == "dispatch failed HTTP 000: refused"
    assert notes.dispatch_failed(400, "x" * 600) == "dispatch failed HTTP 400: " + "x" * 500
    assert notes.no_progress(31, 30.0) == "reaper: no progress for 31m (threshold 30m) — blocking"


def test_text_from_elsewhere_stays_on_one_line() -> None:
    """Line breaks of every kind, tabs, escapes and zero-width tricks become spaces."""
    assert notes.one_line("a\nb\r\nc\x1b[31m\u2028d\u202ee\x00") == "a b  c [31m d e "


@pytest.mark.parametrize(
    ("later", "found"),
    [([], True), (["dispatched: job=7"], True), (["dispatch outcome unknown: cut"], True), (["ann: wait"], False)],
)
def test_the_notes_since_a_claim_are_ours_alone(later: list[str], found: bool) -> None:
    """They may be taken away; not where a person wrote after the claim."""
    claim = "auto-dispatcher claimed at 2026-07-15T09:30:00Z"
    since = "\n".join([claim, *later])
    assert notes.since_claim(f"words\n{since}", "2026-07-15T09:30:00Z") == (since if found else None)
    assert notes.since_claim(f"words\n{since}", "2026-07-15T09:31:00Z") is None


def test_a_record_survives_its_json() -> None:
    """What is written under metadata.dispatch is read again; absent fields are left out."""
    record = DispatchRecord(claim="t", attempt=2, at="2026-07-15T09:30:00Z", failures=1)
    assert DispatchRecord.from_metadata({"dispatch": json.loads(record.to_json())}) == record
    assert "job" not in record.to_json()


@pytest.mark.parametrize("metadata", [None, [], "x", 3, {}, {"dispatch": None}, {"dispatch": []}])
def test_metadata_of_any_shape_is_an_empty_record(metadata: object) -> None:
    """People may edit metadata."""
    assert DispatchRecord.from_metadata(metadata) == DispatchRecord()


@given(st.one_of(
    st.text(), st.none(), st.booleans(), st.floats(), st.integers(), st.lists(st.text()), st.binary(),
    st.datetimes(timezones=st.none() | st.timezones()).map(datetime.isoformat),
))  # fmt: skip
def test_any_value_is_a_moment_in_utc_or_none(written: object) -> None:
    """No exception, whatever people write where a date of ours should be; what `timestamp` wrote is read again."""
    found = notes.moment(written)
    assert found is None or found.utcoffset() == timedelta()
    assert found is None or notes.moment(f"{found:%Y-%m-%dT%H:%M:%SZ}".zfill(20)) == found.replace(microsecond=0)


def test_a_moment_outside_the_calendar_is_none() -> None:
    """In UTC it is in year 0 or 10,000; without a zone it is UTC, whatever this machine's is."""
    assert notes.moment("9999-12-31T23:59:59-14:00") is None
    assert notes.moment("0001-01-01T00:00:00+14:00") is None
    assert notes.moment("1999") is None
    assert notes.moment("2026-07-15T09:30:00") == datetime(2026, 7, 15, 9, 30, tzinfo=UTC)
    assert notes.moment("2026-07-15T11:30:00+02:00") == datetime(2026, 7, 15, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize("count", [-1, 10**6, 10**25, 1e300, 1.0, True, "7", None, [7], {"a": 7}])
def test_a_count_that_is_none_is_absent(count: object) -> None:
    """As the predicate has it, which finds such a bead not eligible."""
    for name in RECORD_NUMBERS:
        assert DispatchRecord.from_json({name: count}) == DispatchRecord()
        assert vars(DispatchRecord.from_json({name: 999_999}))[name] == 999_999


def test_a_fit_server_passes_the_preflight() -> None:
    """As measured on Dolt 2.2.0; log_bin may read 1 or ON."""
    assert preflight.findings(FIT) == []
    assert preflight.findings({**FIT, "log_bin": "ON", "dolt_version": "1.87.0"}) == []


@pytest.mark.parametrize(("name", "value", "needed"), [
    ("log_bin", "0", "SET PERSIST log_bin = 1"),
    ("gtid_mode", "OFF", 'SET PERSIST gtid_mode = "ON"'),
    ("enforce_gtid_consistency", "OFF", 'SET PERSIST enforce_gtid_consistency = "ON"'),
    ("binlog_row_metadata", "MINIMAL", 'SET PERSIST binlog_row_metadata = "FULL"'),
    ("dolt_version", "1.86.4", "1.87.0 or newer"),
    ("dolt_version", "1.9.0", "1.87.0 or newer"),
])  # fmt: skip
def test_the_preflight_names_variable_found_needed_and_command(name: str, value: str, needed: str) -> None:
    """One finding, with all four parts."""
    (finding,) = preflight.findings({**FIT, name: value})
    assert name in finding and value in finding and needed in finding


def test_the_back_off_doubles_to_its_limit_and_starts_again() -> None:
    """0.2 s, 0.4, … 10 s, each give or take a fifth."""
    backoff = emitter.Backoff()
    assert backoff.first and not backoff.reset()
    delays = [backoff.next_seconds() for _ in range(12)]
    assert 0.16 <= delays[0] <= 0.24
    assert 8 <= delays[-1] <= 12
    assert not backoff.first and backoff.reset() and backoff.first


def test_an_outage_is_logged_once_and_each_refusal_in_it(caplog: pytest.LogCaptureFixture) -> None:
    """What is refused may say what is to be done, and comes after other words."""
    backoff = emitter.Backoff()
    for message, refused in (
        ("away", False), ("still away", False), ("refused: make it", True), ("refused: make it", True), ("away", False),
    ):  # fmt: skip
        backoff.failed(message, log.Action.FEED_DOWN, refused=refused)
    assert caplog.messages == ["away", "refused: make it"]
    backoff.reset()
    backoff.failed("refused: make it", log.Action.FEED_DOWN, refused=True)
    assert caplog.messages == ["away", "refused: make it", "refused: make it"]


def test_a_log_line_is_one_line_of_json() -> None:
    """Whatever a bead's text puts into it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(log.JsonLines())
    logger = logging.Logger("beads.test")
    logger.addHandler(handler)
    logger.info('said "hi"\nforged line', extra=log.context(action=log.Action.CLAIM, bead="x-\n1", job=None))
    (line,) = stream.getvalue().splitlines()
    found = json.loads(line)
    assert found["message"] == 'said "hi"\nforged line'
    assert (found["action"], found["bead"]) == ("claim", "x-\n1")
    assert "job" not in found


@pytest.mark.parametrize("target", [lambda: None, lambda: 1 // 0], ids=["ended", "raised"])
def test_a_thread_that_ends_before_the_stop_is_named(target: Callable[[], object]) -> None:
    """And stops the others, as the process then ends."""
    stop = threading.Event()
    threads = Threads(stop)
    threads.start("others", stop.wait)
    threads.start("short", target)
    threads.join(10, "short", "others")
    assert stop.is_set() and threads.failed == "short"
