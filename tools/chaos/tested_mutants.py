"""More mutants, each with the test that has to fail: python -m tools.chaos.tested_mutants NAME

For promises that a test shows in its own process; see tools.chaos.mutation_test.
"""

import contextlib
import functools
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any
from unittest import mock

import pymysql
import pytest

from beads_dispatch import breaker, credentials, notes, reaper, suspension
from beads_dispatch.agents import slots
from beads_dispatch.agents.beadboard import BeadBoard
from beads_dispatch.bead import Bead, DispatchRecord
from beads_dispatch.breaker import Breaker
from beads_dispatch.cli import conditions, resume
from beads_dispatch.dispatcher import Dispatcher
from beads_dispatch.settings import DoltSettings
from beads_dispatch.store import Hold, activity, connection, schema, server_check
from beads_dispatch.store.activity import ActivityReads
from beads_dispatch.store.bead_change import BeadChange
from beads_dispatch.store.claims import Claims
from beads_dispatch.store.feed_state import FeedState
from beads_dispatch.store.feeders import Feeders
from feeder import emitter, feed, pingsources, preflight, request_feed, rows
from feeder.binlog import Position
from feeder.eligibility_check import EligibilityCheck
from feeder.feed import ChangeFeed
from feeder.gap_recovery import GapRecoveries, GapRecovery
from feeder.job_watch import JobWatch
from feeder.ownership import Owner
from feeder.supervision import Threads

_SECONDS = 120  # for a test that takes a few

Patch = contextlib.AbstractContextManager[Any]

_read_schema = schema.read
_schemas: list[schema.BdSchema] = []
_prepare_dispatcher = Dispatcher.__post_init__
_refused_in_a_row = ActivityReads.refused_in_a_row
_compare_all = GapRecoveries.begin
_connect = connection.connect
_parse = DispatchRecord.from_json.__func__  # type: ignore[attr-defined]


def _without_max_attempts(self: Dispatcher) -> None:
    self.limits = replace(self.limits, max_attempts=10**6)
    _prepare_dispatcher(self)


def _refused_once(self: ActivityReads, *arguments: Any) -> list[Bead]:
    return [bead for bead in _refused_in_a_row(self, *arguments) if bead.record.failures == 1]


def _parse_or_raise(cls: type[DispatchRecord], found: Any) -> DispatchRecord:
    record: DispatchRecord = _parse(cls, found)
    if isinstance(found, str) and record == DispatchRecord():
        raise ValueError(found)
    return record


def _read_schema_once(rows: Any) -> schema.BdSchema:
    if not _schemas:
        _schemas.append(_read_schema(rows))
    return _schemas[0]


def _connect_or_plain(dolt: DoltSettings, **more: Any) -> Any:
    try:
        return _connect(dolt, **more)
    except pymysql.Error:
        return _connect(replace(dolt, tls_ca_file=None), **more)


@contextlib.contextmanager
def _nothing(*_: object) -> Iterator[None]:
    yield


_BREAKER, _ENDS, _FEED, _FAULTS, _JOBS, _CLOCKS, _OWNER, _DATABASES = (
    f"tests/integration/test_{name}.py::test_"
    for name in ("breaker", "pass_ends", "feed", "feed_faults", "jobs", "clocks", "owner", "databases")
)

TESTED: Mapping[str, tuple[Patch, str]] = {
    "beads that are all refused are counted": (
        mock.patch.object(Breaker, "is_every_bead_refused", lambda *_: False),
        f"{_BREAKER}an_agent_that_refuses_every_bead_costs_few_and_counts_none",
    ),
    "of beads in a row only those count that were refused once": (
        mock.patch.object(ActivityReads, "refused_in_a_row", _refused_once),
        f"{_BREAKER}beads_that_come_slowly_to_an_agent_that_refuses_every_bead_cost_few",
    ),
    "no status is requested after a refusal": (
        mock.patch.object(BeadBoard, "probe", lambda _: None),
        f"{_BREAKER}a_refusal_whose_agent_fails_a_status_request_is_not_counted",
    ),
    "refusals are not taken back": (
        mock.patch.object(Claims, "take_back_failure", lambda *_: None),
        f"{_BREAKER}refusals_are_taken_back_when_the_agent_turns_out_to_be_away",
    ),
    "an answer that cannot be used costs as little as none": (
        mock.patch.object(breaker, "COSTLY_HOLD_SECONDS", (30,)),
        f"{_BREAKER}an_answer_that_cannot_be_used_costs_few_beads",
    ),
    "a bead gets any number of jobs": (
        mock.patch.object(Dispatcher, "__post_init__", _without_max_attempts),
        f"{_BREAKER}a_bead_that_its_agent_opens_again_and_again_is_given_up",
    ),
    "a person's change leaves the count of jobs as it is": (
        mock.patch.object(BeadChange, "changes_by_others", lambda *_: 0),
        f"{_BREAKER}a_change_by_a_person_starts_the_count_of_jobs_anew",
    ),
    "an outage is noted each time": (
        mock.patch.object(breaker, "NOTED_OUTAGES", 10**6),
        f"{_ENDS}an_outage_of_a_weekend_writes_few_notes",
    ),
    "a lost request is noted each time": (
        mock.patch.object(breaker, "NOTED_OUTAGES", 10**6),
        f"{_ENDS}a_weekend_of_lost_requests_writes_few_notes",
    ),
    "a claim that was not sent is noted each time": (
        mock.patch.object(notes, "since_claim", lambda *_: None),
        f"{_ENDS}dolt_that_fails_before_each_post_writes_few_notes",
    ),
    "a pass has no end": (
        mock.patch.object(Dispatcher, "_ended", lambda *_: None),
        f"{_ENDS}a_pass_ends_after_its_time_between_two_beads",
    ),
    "a claim stays where Dolt fails before the POST": (
        mock.patch.object(Dispatcher, "_released_where_dolt_fails", _nothing),
        f"{_ENDS}dolt_that_fails_before_the_post_costs_no_bead",
    ),
    "a record that cannot be read is an error": (
        mock.patch.object(DispatchRecord, "from_json", classmethod(_parse_or_raise)),
        "tests/integration/test_dispatch.py::test_a_row_that_cannot_be_used_delays_no_other",
    ),
    "a transaction that cannot be read is read for ever": (
        mock.patch.object(feed, "_JUMP_AT", 10**6),
        f"{_FEED}a_transaction_that_cannot_be_read_is_passed_over",
    ),
    "an event that cannot be built stops the feed": (
        mock.patch.object(ChangeFeed, "_emit", ChangeFeed._send),
        f"{_FAULTS}an_event_that_cannot_be_built_is_passed_over",
    ),
    "a comparison that fails is made again and again": (
        mock.patch.object(GapRecovery, "abandon", lambda _: None),
        f"{_FAULTS}a_comparison_that_fails_is_left_to_the_next_one",
    ),
    "a change of any schema compares every database": (
        mock.patch.object(GapRecoveries, "begin", lambda self, *_: _compare_all(self)),
        f"{_DATABASES}a_change_of_one_database_compares_no_other",
    ),
    "change events wait for the comparison of all databases": (
        mock.patch.object(GapRecoveries, "_read_first", lambda _: None),
        f"{_DATABASES}change_events_are_published_while_databases_are_compared",
    ),
    "a hole in the position is a gap": (
        mock.patch.object(Position, "without_holes", Position.__str__),
        f"{_FAULTS}a_position_with_a_hole_is_read_on_from",
    ),
    "what a transaction with too many rows changed is forgotten": (
        mock.patch.object(GapRecovery, "begin", lambda *_: None),
        f"{_FAULTS}a_transaction_with_too_many_rows_is_published_as_its_net_change",
    ),
    "a connected feed does not compare again": (
        mock.patch.object(GapRecovery, "is_due", False),
        f"{_FAULTS}a_connected_feed_compares_again",
    ),
    "beads_dispatch is not made again": (
        mock.patch.object(ChangeFeed, "_restore_state", lambda _: None),
        f"{_FAULTS}the_state_that_is_dropped_is_made_again",
    ),
    "changes that are not seen are not asked for": (
        mock.patch.object(request_feed, "_UNSURE_SECONDS", 0.0),
        f"{_FAULTS}until_changes_are_seen_dolt_is_asked",
    ),
    "bd's schema is read once": (
        # Whenever it is asked for: an error makes the session ask, too.
        mock.patch.object(schema, "read", _read_schema_once),
        "tests/integration/test_migration.py",
    ),
    "a password is read once": (
        mock.patch.object(DoltSettings, "current_password", lambda self: self.password),
        "tests/integration/test_store.py::test_a_password_that_is_replaced_is_used_for_the_next_connection",
    ),
    "Dolt's certificate is not verified": (
        mock.patch.object(connection, "_trusting", lambda _: mock.Mock(value=lambda: connection._UNVERIFIED)),
        "tests/integration/test_dolt_tls.py::test_another_ca_or_another_host_name_is_refused",
    ),
    "activity of before the claim counts": (
        mock.patch.object(activity, "_after_claim", lambda *_: "TRUE"),
        f"{_CLOCKS}what_was_there_before_the_claim_is_not_the_agents_activity",
    ),
    "a night without Dolt is inactivity": (
        mock.patch.object(Feeders, "resumed_at", lambda _: None),
        f"{_CLOCKS}a_night_without_dolt_is_no_inactivity",
    ),
    "reap works while no feeder reports": (
        mock.patch.object(Feeders, "resume", lambda _: None),
        f"{_CLOCKS}a_feeder_that_never_returns_stops_the_reaper_for_half_an_hour_only",
    ),
    "two feeders own one feed": (
        mock.patch.object(Owner, "take", lambda _: True),
        f"{_OWNER}a_feeder_whose_feed_was_taken_ends",
    ),
    "each clone of a database dispatches": (
        mock.patch.object(suspension, "REPLICA_KEY", "another.key"),
        "tests/integration/test_preflight.py::test_of_two_clones_only_the_named_one_dispatches",
    ),
    "a thread dies unnoticed": (
        mock.patch.object(Threads, "_run", lambda _, name, target: target()),
        "tests/unit/test_small_parts.py::test_a_thread_that_ends_before_the_stop_is_named",
    ),
    "the server's settings are not looked at": (
        mock.patch.object(preflight, "require", lambda _: None),
        "tests/integration/test_preflight.py::test_a_binlog_of_another_branch_is_refused",
    ),
    "jobs that fail one after the other are the beads' fault": (
        mock.patch.object(Breaker, "_is_every_job_failing", lambda *_: False),
        f"{_JOBS}jobs_that_fail_at_once_cost_three_beads_and_count_none",
    ),
    "a bead whose job runs is started again": (
        mock.patch.object(slots, "runs", lambda *_: False),
        f"{_JOBS}a_bead_that_is_opened_again_while_its_job_runs_starts_no_second_one",
    ),
    "a job that cannot be asked for hides those behind it": (
        mock.patch.object(reaper, "IN_A_ROW", 1),
        f"{_JOBS}one_job_of_which_nothing_is_told_hides_no_other",
    ),
    "the end of a job is not asked for": (
        mock.patch.object(JobWatch, "look", lambda *_: False),
        f"{_JOBS}the_feeder_knows_whose_job_runs",
    ),
    "a lost answer is not looked for": (
        mock.patch.object(reaper._Reaper, "_resolve", lambda *_: None),
        "tests/integration/test_unknown_outcomes.py::test_a_lost_answer_is_found_after_a_grace_period",
    ),
    "what is dated years ahead is activity for years": (
        mock.patch.object(Claims, "mark_seen", lambda *_: None),
        f"{_CLOCKS}activity_from_the_future_counts_as_the_moment_at_which_reap_saw_it",
    ),
    "what is dated years ahead is the last that the agent did": (
        mock.patch.object(activity, "AHEAD", timedelta(days=70000)),
        f"{_CLOCKS}what_a_clock_years_ahead_dated_is_not_the_last_that_the_agent_did",
    ),
    "tokens and CAs are read once": (
        mock.patch.object(credentials, "_content", functools.cache(credentials._content)),
        "tests/unit/test_agent_client.py::test_token_and_ca_files_are_read_again_when_they_change",
    ),
    "the sink's CAs and token are read once": (
        mock.patch.object(credentials, "_content", functools.cache(credentials._content)),
        "tests/unit/test_sink.py::test_replaced_bundles_and_tokens_are_used_without_a_restart",
    ),
    "Dolt is used without TLS where it offers none": (
        mock.patch.object(connection, "connect", _connect_or_plain),
        "tests/integration/test_dolt_tls.py::test_a_server_without_tls_is_refused_with_the_way_out",
    ),
    "the port file is read once": (
        mock.patch.object(DoltSettings, "current_port", lambda self: self.port),
        "tests/unit/test_settings.py::test_a_server_that_comes_back_on_another_port_is_found_by_its_port_file",
    ),
    "two deployments share what suspends them": (
        mock.patch.object(DoltSettings, "feed", property(lambda self: self.database)),
        f"{_OWNER}a_feed_name_separates_two_deployments",
    ),
    "beads are copied in one go": (
        mock.patch.object(FeedState, "_page_end", lambda *_: None),
        f"{_FAULTS}beads_are_compared_and_copied_page_by_page",
    ),
    "an event that is refused is sent for ever": (
        mock.patch.object(emitter, "MOST_REFUSALS", 10**6),
        f"{_FAULTS}an_event_that_the_sink_refuses_for_good_is_passed_over",
    ),
    "columns that are not kept are decoded": (
        mock.patch.object(rows, "_skip", lambda _: None),
        f"{_FAULTS}the_columns_of_every_type_are_passed_over",
    ),
    "a pass goes on at SIGTERM": (
        mock.patch.object(Dispatcher, "_ended", lambda *_: None),
        f"{_ENDS}a_process_that_is_asked_to_stop_begins_no_other_bead",
    ),
    "a bulk release notes nothing": (
        mock.patch.object(notes, "released", lambda _: ""),
        f"{_BREAKER}one_command_ends_what_an_outage_left",
    ),
    "resume --now ends no hold": (
        mock.patch.object(resume, "Hold", lambda: Hold(1)),
        f"{_BREAKER}one_command_ends_what_an_outage_left",
    ),
    "a release forgets what reap has blocked": (
        mock.patch.object(ActivityReads, "reaped_unresolved", lambda *_: []),
        "tests/integration/test_unknown_outcomes.py::test_one_command_opens_also_what_reap_blocked_after_an_outage",
    ),
    "odd answers of the API server end the watch": (
        mock.patch.object(pingsources, "_object", lambda value, _: value),
        "tests/integration/test_suspend_mirror.py::test_an_odd_list_is_logged_once_and_asked_for_again",
    ),
    "who asks is not told that no feeder reports": (
        mock.patch.object(conditions, "feeder_problem", lambda _: ""),
        "tests/integration/test_cli.py::test_a_feeder_that_is_away_is_named_before_a_bead_that_is_eligible",
    ),
    "tables that the binlog breaks are not named": (
        mock.patch.object(server_check, "surroundings", lambda *_: []),
        "tests/integration/test_preflight.py::test_tables_that_the_binlog_breaks_are_named",
    ),
    "clocks may differ by any time": (
        mock.patch.object(server_check, "CLOCK_TOLERANCE", timedelta.max),
        "tests/integration/test_preflight.py::test_a_clock_that_differs_is_named",
    ),
    "nothing wakes the feeder at a defer date": (
        mock.patch.object(EligibilityCheck, "next_due", lambda *_: None),
        "tests/integration/test_due.py",
    ),
}


class _Failures:
    """Counts the tests that failed themselves; an error before a test is none of its findings."""

    def __init__(self) -> None:
        self.number = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.number += report.when == "call" and report.failed


def is_noticed(name: str) -> bool:
    """Whether its test fails on the mutant, in a process of its own."""
    command = (sys.executable, "-m", __name__, name)
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        return True  # it goes on for ever, which the test does not
    if done.returncode not in (0, 1):
        print(done.stdout)
    return done.returncode == 1


def main() -> int:
    """1 where the test fails on the mutant, 0 where it passes, 2 where it could not be run."""
    (name,) = sys.argv[1:]
    patch, test = TESTED[name]
    failures = _Failures()
    with patch:
        status = pytest.main(["-q", "-x", "--tb=short", "-p", "no:cacheprovider", test], plugins=[failures])
    return 1 if failures.number else 0 if status == pytest.ExitCode.OK else 2


if __name__ == "__main__":
    sys.exit(main())
