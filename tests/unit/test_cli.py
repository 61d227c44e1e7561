"""The command beads-dispatch as far as it is pure: what is written, read and worked out without a Dolt server."""

import json
import pathlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from beads_dispatch import settings
from beads_dispatch.bead import Bead, DispatchRecord
from beads_dispatch.cli import connection, history, main, replay, status, suspend, terminal, time_arguments, timeline
from beads_dispatch.cli.replay import Look, Record, Run

NOW = datetime(2026, 7, 15, 9, 30, tzinfo=UTC)


def at(minute: float) -> datetime:
    return NOW + timedelta(minutes=minute)


# --- moments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("written", "expected"), [
    ("now", NOW),
    ("90s", NOW - timedelta(seconds=90)),
    ("15m", NOW - timedelta(minutes=15)),
    ("1.5h ago", NOW - timedelta(minutes=90)),
    ("3d", NOW - timedelta(days=3)),
    ("2026-07-15 09:30", NOW),
    ("2026-07-15T09:30:00z", NOW),
    ("2026-07-15T11:30+02:00", NOW),
    ("2026-07-15 09:30:00.250Z", NOW + timedelta(milliseconds=250)),
    ("2026-07-15", datetime(2026, 7, 15, tzinfo=UTC)),
    ("2026-07-99", None),
    ("HEAD~3", None),
    ("kpe4jjm0b8subue7g67jg61k93qc38av", None),
])  # fmt: skip
def test_a_moment_is_a_time_or_how_long_ago(written: str, expected: datetime | None) -> None:
    """UTC unless it says otherwise; what is no moment may be a commit."""
    assert time_arguments.parse(written, NOW) == expected


# --- the terminal -------------------------------------------------------------------------------------------


def test_a_beads_text_cannot_write_on_the_terminal() -> None:
    """Escapes, line breaks and right-to-left marks become spaces; long texts are cut."""
    assert terminal.text("a\x1b[31mred\nline\u202eright") == "a [31mred line right"
    assert terminal.text("x" * 100, 10) == "x" * 9 + "…"


@pytest.mark.parametrize(("seconds", "expected"), [
    (0.25, "250 ms"), (45, "45 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"),
    (7500, "2 h 5 min"), (172800, "2 d"), (-45, "45 s"),
])  # fmt: skip
def test_a_span_is_as_exact_as_it_needs_to_be(seconds: float, expected: str) -> None:
    """Milliseconds to days."""
    assert terminal.span(timedelta(seconds=seconds)) == expected


def test_colours_are_only_for_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """And never with NO_COLOR, or on a dumb one."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert terminal.paint({})("x", "red") == "\x1b[31mx\x1b[0m"
    assert terminal.paint({"NO_COLOR": ""})("x", "red") != "x"
    assert terminal.paint({"NO_COLOR": "1"})("x", "red") == "x"
    assert terminal.paint({"TERM": "dumb"})("x", "red") == "x"
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)
    assert terminal.paint({})("x", "red") == "x"


def test_a_result_is_json_for_programs() -> None:
    """Moments in RFC 3339, nothing lost."""
    found = json.loads(terminal.as_json(status.Feed("u:1", 3)))
    assert found == {"position": "u:1", "behind": 3, "why": ""}
    assert json.loads(terminal.as_json([NOW, timedelta(seconds=2)])) == ["2026-07-15T09:30:00.000Z", 2.0]


# --- the workspace and the actor ----------------------------------------------------------------------------


def make_workspace(folder: pathlib.Path, **metadata: object) -> pathlib.Path:
    (folder / ".beads").mkdir(parents=True)
    (folder / ".beads" / "metadata.json").write_text(json.dumps({"dolt_database": "b", **metadata}))
    return folder / ".beads"


def test_the_nearest_workspace_upwards_is_found(tmp_path: pathlib.Path) -> None:
    """From a folder deep inside; not from above the repository's root."""
    outer = make_workspace(tmp_path)
    deep = tmp_path / "repository" / "src" / "deep"
    deep.mkdir(parents=True)
    assert connection.nearest_workspace(deep) == outer
    (tmp_path / "repository" / ".git").mkdir()
    assert connection.nearest_workspace(deep) is None
    inner = make_workspace(tmp_path / "repository")
    assert connection.nearest_workspace(deep) == inner


def test_a_worktree_has_the_workspace_of_its_repository(tmp_path: pathlib.Path) -> None:
    """Git's own files say where that is."""
    workspace = make_workspace(tmp_path / "main")
    metadata = tmp_path / "main" / ".git" / "worktrees" / "other"
    metadata.mkdir(parents=True)
    (metadata / "commondir").write_text("../..\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".git").write_text(f"gitdir: {metadata}\n")
    assert connection.nearest_workspace(tmp_path / "other") == workspace


def test_a_redirect_is_followed(tmp_path: pathlib.Path) -> None:
    """Relative to the folder that holds .beads."""
    shared = make_workspace(tmp_path / "shared")
    (tmp_path / "here" / ".beads").mkdir(parents=True)
    (tmp_path / "here" / ".beads" / "redirect").write_text("# shared\n../shared/.beads\n")
    assert connection.nearest_workspace(tmp_path / "here") == shared


def test_what_is_set_wins_over_the_workspace(tmp_path: pathlib.Path) -> None:
    """DOLT_* before bd's own names before BEADS_DIR before the folder."""
    make_workspace(tmp_path)
    assert connection.environment({}, tmp_path)["BEADS_DIR"] == str(tmp_path / ".beads")
    assert connection.environment({"BEADS_DIR": "/x"}, tmp_path)["BEADS_DIR"] == "/x"
    found = connection.environment({"DOLT_HOST": "d", "DOLT_DATABASE": "b", "BEADS_DOLT_SERVER_HOST": "e"}, tmp_path)
    assert (found["DOLT_HOST"], "BEADS_DIR" in found) == ("d", False)
    found = connection.environment({"BEADS_DOLT_SERVER_PORT": "1", "BEADS_DOLT_PASSWORD": "p"}, tmp_path)
    assert (found["DOLT_PORT"], found["DOLT_PASSWORD"]) == ("1", "p")


def test_a_workspace_without_a_server_is_said_to_be_one(tmp_path: pathlib.Path) -> None:
    """Not: connection refused."""
    make_workspace(tmp_path, dolt_mode="embedded")
    with pytest.raises(settings.SettingsError, match="bd init --server"):
        connection.environment({}, tmp_path)


def test_the_actor_is_whom_bd_would_name() -> None:
    """What was given, then BEADS_ACTOR; nothing that could end a commit's author."""
    assert connection.actor({"BEADS_ACTOR": "ann"}, "bob") == "bob"
    assert connection.actor({"BEADS_ACTOR": "ann", "BD_ACTOR": "x"}, None) == "ann"
    assert connection.actor({"BD_ACTOR": "Ann <a@b>\nforged"}, None) == "Ann a@b forged"


@pytest.mark.parametrize(("words", "said"), [
    ("", "COMMAND"), ("bogus", "invalid choice"), ("explain", "required: id"), ("replay", "required: --from"),
    ("reap", "required: --dry-run"), ("suspend everything", "invalid choice"), ("status --max 2", "unrecognized"),
])  # fmt: skip
def test_a_wrong_command_line_ends_with_2(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is looked for."""
    with pytest.raises(SystemExit) as stopped:
        main.run(words.split(), {})
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", [
    "", "status", "explain", "replay", "suspend", "resume", "reap", "dispatch", "release", "watch",
])  # fmt: skip
def test_every_command_has_help_and_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--help ends with 0, and says what the command is for."""
    with pytest.raises(SystemExit) as stopped:
        main.run([*command.split(), "--help"], {})
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    assert "--json" in text or not command
    assert max(map(len, text.splitlines())) <= 120


# --- status -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("executed", "position", "expected"), [
    ("a:1-10", "a:1-10", 0),
    ("a:1-10", "a:1-7", 3),
    ("a:1-10", "a:1-2:5:7-9", 4),
    ("a:1-10,b:1-3", "a:1-10", 3),
    ("A:1-10", "a:1-4:6,00000000-0000-0000-0000-000000000001:1", 5),
    ("a:1-10", "", 10),
    ("a:1-10,\n b:4", "a:1-12,b:4", 0),
])  # fmt: skip
def test_the_lag_is_counted_in_transactions(executed: str, position: str, expected: int) -> None:
    """Those in one set and not in the other, whatever the intervals."""
    assert status.behind(executed, position) == expected


def test_a_set_that_is_none_is_refused() -> None:
    """Rather than counted."""
    with pytest.raises(ValueError, match="invalid literal"):
        status.behind("a:x", "a:1")


# --- history ------------------------------------------------------------------------------------------------


def version(minute: float = 0, author: str = "bd", noted: str = "", **changed: Any) -> dict[str, Any]:
    """A row of Store.versions; `changed` are (before, after)."""
    columns: dict[str, Any] = {
        "assignee": ("agent", "agent"),
        "status": ("open", "open"),
        "metadata": ({}, {}),
        "accepted": (1, 1),
        "priority": (2, 2),
        "defer_until": (None, None),
    }
    row: dict[str, Any] = {"at": at(minute).replace(tzinfo=None), "author": author, "noted": noted, "commit": "c"}
    for name, (before, after) in {**columns, "id": ("x-1", "x-1"), **changed}.items():
        row[f"from_{name}"], row[f"to_{name}"] = before, after
    return row


def dispatch(**record: Any) -> dict[str, Any]:
    return {"dispatch": record}


@pytest.mark.parametrize(("changed", "expected"), [
    ({"id": (None, "x-1"), "status": (None, "open"), "assignee": (None, None)}, ["created"]),
    ({"accepted": (0, 1), "priority": (2, 0)}, ["acceptance criteria written", "priority P0"]),
    ({"accepted": (1, 0)}, ["acceptance criteria taken away"]),
    ({"defer_until": (None, NOW.replace(tzinfo=None))}, ["deferred until 2026-07-15 09:30:00Z"]),
    ({"defer_until": (NOW.replace(tzinfo=None), None)}, ["not deferred any more"]),
    ({"assignee": (None, "agent")}, ["assigned to agent"]),
    ({"assignee": ("agent", None)}, ["assigned to nobody"]),
    ({"status": ("open", "in_progress"), "metadata": ({}, dispatch(claim="t", attempt=2))}, ["claimed, attempt 2"]),
    ({"metadata": (dispatch(claim="t"), dispatch(claim="t", job="j"))}, ["dispatched, job j"]),
    ({"metadata": (dispatch(claim="t"), dispatch(claim="t", outcome="unknown"))}, ["outcome unknown"]),
    ({"metadata": (dispatch(claim="t"), dispatch(claim="t", outcome="posting"))}, ["POST begun"]),
    ({"status": ("in_progress", "closed")}, ["became closed"]),
    ({"status": ("in_progress", "open"), "metadata": (dispatch(claim="t"), dispatch(failures=1, retry_at="r"))},
     ["given back", "refusal 1 in a row", "retry from r"]),
    ({"status": ("in_progress", "blocked"), "metadata": ("no json", "[]")}, ["became blocked"]),
    ({}, []),
])  # fmt: skip
def test_a_version_is_told_as_what_it_changed(changed: dict[str, Any], expected: list[str]) -> None:
    """Of that which matters to dispatch; anything else is no step."""
    assert history.changes(version(**changed)) == expected


def test_a_step_names_who_made_it() -> None:
    """Ours by the commit's author, with our note; bd's by the audit row that was written with it."""
    audit = [
        {"created_at": at(0).replace(tzinfo=None), "actor": "ann", "what": 'updated {"assignee":"agent"}'},
        {"created_at": at(0).replace(tzinfo=None), "actor": "eve", "what": 'updated {"title":"A"}'},
        {"created_at": at(5).replace(tzinfo=None), "actor": "bob", "what": "closed Done"},
    ]
    found = history.steps(
        [
            version(0.01, assignee=(None, "agent"), noted="please do it"),
            version(1, "beads-reaper", "\nreaper: no progress", status=("in_progress", "blocked")),
            version(9, status=("blocked", "open")),
        ],
        audit,
    )
    assert [(step.what, step.actor, step.detail) for step in found] == [
        ("assigned to agent", "ann", ""),
        ("became blocked", "beads-reaper", "reaper: no progress"),
        ("became open", "bd", ""),
    ]


# --- the timeline -------------------------------------------------------------------------------------------


def test_each_step_is_shown_once_with_the_time_since_the_one_before() -> None:
    """Whatever the order in which they are learned."""
    shown: list[timeline.Entry] = []
    steps = timeline.Timeline(shown.append)
    steps.name("x-1", "A title")
    for what, minute in (("assigned", 0.0), ("closed", 2.0), ("claimed", 1.0), ("closed", 2.0)):
        steps.add("x-1", timeline.Step(what, at(minute)))
    assert [(entry.what, entry.after_ms) for entry in shown] == [
        ("assigned", None),
        ("closed", 120_000),
        ("claimed", 60_000),
    ]
    assert [step.what for step in steps.steps("x-1")] == ["assigned", "claimed", "closed"]
    assert shown[2].line() == "09:31:00.000  x-1            claimed      +60000 ms  A title"


def test_resuming_says_what_still_stops_it() -> None:
    """bd's config is not the only switch."""
    left = suspend.Switched(dispatch="PingSource dispatch has suspend=true", reap=None)
    lines = suspend.lines(left, suspend.BOTH, suspend=False)
    assert "still suspended" in lines[0] and "kn source ping resume dispatch" in lines[0]
    assert lines[1] == "reap is on"


# --- replay -------------------------------------------------------------------------------------------------


def bead(name: str, priority: int = 2, attempt: int = 0) -> Bead:
    return Bead(name, f"Bead {name}", priority, "open", "agent", NOW, DispatchRecord(attempt=attempt))


def went(minute: float, until: float | None) -> Run:
    return Run(at(minute), at(minute), at(until) if until is not None else None)


def would(record: Record, **rules: Any) -> dict[str, float | None]:
    """The minute at which each bead would have gone."""
    rows = replay.simulate(record, Rules(**rules), at(100))
    return {row.bead: (row.would_at - NOW).total_seconds() / 60 if row.would_at else None for row in rows}


def test_the_first_of_those_that_wait_goes_and_the_next_when_its_slot_is_free() -> None:
    """For as long as the real run took."""
    record = Record(
        looks=[Look(at(0), [bead("b"), bead("c"), bead("a", priority=1)]), Look(at(1), [bead("b"), bead("c")])],
        runs={("a", 0): went(1, 6), ("b", 0): went(10, 13)},
    )
    assert would(record) == {"a": 0, "b": 5, "c": 8}


def test_with_more_slots_they_go_side_by_side() -> None:
    """What if MAX_IN_FLIGHT were 2?"""
    record = Record(looks=[Look(at(0), [bead("a"), bead("b"), bead("c")])], runs={("a", 0): went(1, 6)})
    assert would(record, max_in_flight=2, slot_silence_minutes=3) == {"a": 0, "b": 0, "c": 3}


def test_a_bead_that_really_went_waits_on_where_there_is_no_slot() -> None:
    """What if it were 1 where it was 2: the record has both at work, here the second waits."""
    record = Record(
        looks=[Look(at(0), [bead("a"), bead("b")]), Look(at(1), [])],
        runs={("a", 0): went(1, 21), ("b", 0): went(1, 3)},
    )
    assert would(record) == {"a": 0, "b": 20}


def test_a_bead_that_a_person_took_away_does_not_go() -> None:
    """And the row says when."""
    record = Record(
        looks=[Look(at(0), [bead("a"), bead("b")]), Look(at(2), [])],
        runs={("a", 0): went(0, 5)},
    )
    assert would(record) == {"a": 0, "b": None}
    (row,) = [row for row in replay.simulate(record, Rules(), at(100)) if row.bead == "b"]
    assert row.note == "no longer eligible at 2026-07-15 09:32:00Z"


def test_what_was_at_work_already_holds_its_slot() -> None:
    """From before the range, until its real end."""
    record = Record(looks=[Look(at(0), [bead("a")])], at_start={"x": went(0, 4)})
    assert would(record) == {"a": 4}


def test_each_attempt_has_a_row() -> None:
    """A bead that was refused goes again when its retry time has come."""
    record = Record(
        looks=[Look(at(0), [bead("a")]), Look(at(1), []), Look(at(3), [bead("a", attempt=1)])],
        runs={("a", 0): went(1, 1.01), ("a", 1): went(3.1, None)},
    )
    rows = replay.simulate(record, Rules(), at(100))
    assert [(row.attempt, row.would_at, row.went_at) for row in rows] == [(1, at(0), at(1)), (2, at(3), at(3.1))]


def test_what_went_although_these_rules_never_made_it_eligible_is_told_too() -> None:
    """For example with another assignee."""
    (row,) = replay.simulate(Record(runs={("a", 0): went(1, 2)}), Rules(), at(100))
    assert (row.bead, row.would_at, row.went_at, row.note) == ("a", None, at(1), "not eligible with these rules")


def test_the_replay_of_nothing_says_so() -> None:
    """And not an empty table."""
    empty = replay.Replay(NOW, NOW, 0, Rules(), [], [], [], [])
    lines = replay.lines(empty, terminal.Paint(False))
    assert "No bead was eligible, and none was dispatched." in lines
    assert lines[-1] == "0 would have gone; 0 went."
