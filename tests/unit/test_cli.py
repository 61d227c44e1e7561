"""The command beads-dispatch as far as it is pure: what is written, read and worked out without a Dolt server."""

import ast
import importlib.metadata
import json
import pathlib
import shlex
import socket
import subprocess
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from beads_dispatch import gtid, settings, store
from beads_dispatch.bead import Bead, DispatchRecord
from beads_dispatch.cli import connection, history, main, replay, status, suspend, terminal, time_arguments, timeline
from beads_dispatch.cli.replay_simulation import QueueState, Recording, SlotUse, simulate
from beads_dispatch.cli.terminal import Styled
from beads_dispatch.settings import DispatchLimits
from beads_dispatch.suspension import Suspension

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
    ("99999999999999d", None),
    ("9999-12-31T23:59:59-14:00", None),
    ("kpe4jjm0b8subue7g67jg61k93qc38av", None),
])  # fmt: skip
def test_a_moment_is_a_time_or_how_long_ago(written: str, expected: datetime | None) -> None:
    """UTC where it names no zone; what is not a moment may be a commit."""
    assert time_arguments.parse(written, NOW) == expected


# --- the terminal -------------------------------------------------------------------------------------------


HOSTILE = "a\x1b[31mred\nline\u202eright\x9b1m"


def test_a_beads_text_cannot_write_on_the_terminal() -> None:
    """Escapes, line breaks and right-to-left marks become spaces, wherever in a line they are; the length stays."""
    assert terminal.clean(HOSTILE) == "a [31mred line right 1m"
    assert terminal.render(HOSTILE, coloured=True) == "a [31mred line right 1m"
    assert terminal.render((HOSTILE, Styled(HOSTILE, "red")), coloured=False) == 2 * "a [31mred line right 1m"
    assert terminal.render(("x ", Styled("\x1b[0m!", "red")), coloured=True) == "x \x1b[31m [0m!\x1b[0m"


def test_json_is_exact_and_safe_for_a_terminal() -> None:
    """Every character that is not printable is escaped; the text is what it was."""
    written = terminal.as_json(status.FeedStatus(HOSTILE, 1, "\U000e0041ü"))
    assert all(char.isprintable() or char == "\n" for char in written) and "ü" in written
    found = json.loads(written)
    assert (found["position"], found["detail"]) == (HOSTILE, "\U000e0041ü")


def test_long_texts_are_cut() -> None:
    """With a mark at the end."""
    assert terminal.cut("x" * 100, 10) == "x" * 9 + "…"
    assert terminal.cut("x" * 10, 10) == "x" * 10


def test_only_one_module_writes() -> None:
    """So that nothing leaves the command uncleaned; main.py prints the completion, and the kn plugins read no beads."""
    folder = pathlib.Path(str(terminal.__file__)).parent
    writers = {
        path.name
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name) and node.id == "print"
    }
    assert writers == {"main.py", "terminal.py", "kn_ping.py", "kn_process.py"}


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
    assert terminal.wants_colours({})
    assert terminal.wants_colours({"NO_COLOR": ""})
    assert not terminal.wants_colours({"NO_COLOR": "1"})
    assert not terminal.wants_colours({"TERM": "dumb"})
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)
    assert not terminal.wants_colours({})
    line = Styled("x", "red"), Styled("", "bold")
    assert terminal.render(line, coloured=True) == "\x1b[31mx\x1b[0m"
    assert terminal.render(line, coloured=False) == "x"


def test_a_result_is_json_for_programs() -> None:
    """The schema's number first, moments in RFC 3339, nothing lost; on one line where a stream needs it."""
    found = json.loads(terminal.as_json(status.FeedStatus("u:1", 3)))
    assert list(found.items()) == [("schema", 1), ("position", "u:1"), ("behind", 3), ("detail", "")]
    entry = timeline.Entry(NOW, "x-1", "claimed", None, "A title")
    assert json.loads(terminal.as_json(entry, indent=None))["at"] == "2026-07-15T09:30:00.000Z"
    assert len(terminal.as_json(entry, indent=None).splitlines()) == 1


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


def test_a_workspace_without_a_server_is_refused(tmp_path: pathlib.Path) -> None:
    """Not: connection refused."""
    make_workspace(tmp_path, dolt_mode="embedded")
    with pytest.raises(settings.SettingsError, match="bd init --server"):
        settings.dolt(connection.environment({}, tmp_path))


def test_the_actor_is_whom_bd_would_name() -> None:
    """What was given, then BEADS_ACTOR; nothing that could end a commit's author."""
    assert connection.actor({"BEADS_ACTOR": "ann"}, "bob") == "bob"
    assert connection.actor({"BEADS_ACTOR": "ann", "BD_ACTOR": "x"}, None) == "ann"
    assert connection.actor({"BD_ACTOR": "Ann <a@b>\nforged"}, None) == "Ann a@b forged"


@pytest.mark.parametrize(("words", "message"), [
    ("bogus", "invalid choice"), ("explain", "required: id"), ("replay", "required: --from"),
    ("suspend everything", "invalid choice"), ("status --max 2", "unrecognized"),
    ("--print-completion fish", "invalid choice"),
])  # fmt: skip
def test_a_wrong_command_line_ends_with_2(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before a workspace is looked for."""
    with pytest.raises(SystemExit) as stopped:
        main.run(words.split(), {})
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", [
    "", "status", "explain", "replay", "suspend", "resume", "reap", "dispatch", "release", "watch", "verify",
])  # fmt: skip
def test_every_command_has_help_and_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--help ends with 0, and describes the command."""
    with pytest.raises(SystemExit) as stopped:
        main.run([*command.split(), "--help"], {})
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    assert "--json" in text or not command
    assert max(map(len, text.splitlines())) <= 120


def test_an_interrupted_command_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """As shells count it, and without a traceback."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(status, "report", interrupted)
    assert main.run(["status"], {"DOLT_HOST": "127.0.0.1", "DOLT_PORT": "9", "DOLT_DATABASE": "b"}) == 130


def test_no_argument_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    """With status 0: whoever types the bare name wants to know what there is."""
    assert main.run([], {}) == 0
    text = capsys.readouterr()
    assert text.out.startswith("usage: beads-dispatch") and "explain" in text.out and text.err == ""


def test_the_version_needs_no_server(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ours; and that the others are not reachable, with the reason. Status 0."""
    env = {"DOLT_HOST": "127.0.0.1", "DOLT_PORT": "9", "DOLT_DATABASE": "b"}
    assert main.run(["--version"], env) == 0
    ours, others = capsys.readouterr().out.splitlines()
    assert ours == f"beads-dispatch {importlib.metadata.version('beads-dispatch')}"
    assert others.startswith("Dolt, bd's schema: not reachable: cannot reach Dolt at 127.0.0.1:9")


def test_a_server_that_does_not_answer_delays_the_version_by_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """It accepts, and then there is nothing: a wrong port, a proxy without its other side."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = {"DOLT_HOST": "127.0.0.1", "DOLT_PORT": str(silent.getsockname()[1]), "DOLT_DATABASE": "b"}
        began = time.monotonic()
        assert main.run(["--version"], env) == 0
        # Two seconds on an idle machine; with the limit that every other statement has it would be more than thirty.
        assert time.monotonic() - began < store.STATEMENT_SECONDS * 2 / 3
    assert "not reachable" in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_completion_script_knows_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """For the shells that shtab writes for."""
    assert main.run(["--print-completion", shell], {}) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in ("status", "explain", "as-of", "verify"))


@pytest.mark.parametrize(("typed", "offered"), [
    ("re", {"replay", "resume", "reap", "release"}),
    ("explain x-1 --as", {"--as-of", "--assignee"}),
    ("suspend ", {"dispatch", "reap"}),
    ("--print-completion z", {"zsh"}),
])  # fmt: skip
def test_bash_completes_what_is_typed(typed: str, offered: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    """By the script, in a real bash."""
    main.run(["--print-completion", "bash"], {})
    script = capsys.readouterr().out
    words = ["beads-dispatch", *typed.split(" ")]
    ask = f"""
        COMP_WORDS=({" ".join(shlex.quote(word) for word in words)}); COMP_CWORD={len(words) - 1}
        COMP_LINE={shlex.quote(" ".join(words))}; COMP_POINT=${{#COMP_LINE}}
        $(complete -p beads-dispatch | sed -E 's/.*-F ([^ ]+).*/\\1/')
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script + ask], capture_output=True, text=True)
    assert {word.strip() for word in done.stdout.split()} == offered, done.stderr


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
    assert gtid.count_missing(executed, position) == expected


def test_a_text_that_is_not_a_set_is_refused() -> None:
    """Rather than counted."""
    with pytest.raises(ValueError, match="invalid literal"):
        gtid.count_missing("a:x", "a:1")


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
    ({"accepted": (1, 0)}, ["acceptance criteria removed"]),
    ({"defer_until": (None, NOW.replace(tzinfo=None))}, ["deferred until 2026-07-15 09:30:00Z"]),
    ({"defer_until": (NOW.replace(tzinfo=None), None)}, ["no longer deferred"]),
    ({"assignee": (None, "agent")}, ["assigned to agent"]),
    ({"assignee": ("agent", None)}, ["assigned to nobody"]),
    ({"status": ("open", "in_progress"), "metadata": ({}, dispatch(claim="t", attempt=2))}, ["claimed, attempt 2"]),
    ({"metadata": (dispatch(claim="t"), dispatch(claim="t", job="j"))}, ["dispatched, job j"]),
    ({"metadata": (dispatch(claim="t"), dispatch(claim="t", outcome="unknown"))}, ["outcome unknown"]),
    ({"metadata": (dispatch(claim="t"), dispatch(claim="t", outcome="posting"))}, ["POST begun"]),
    ({"status": ("in_progress", "closed")}, ["became closed"]),
    ({"status": ("in_progress", "open"), "metadata": (dispatch(claim="t"), dispatch(failures=1, retry_at="r"))},
     ["released", "refusal 1 in a row", "retry from r"]),
    ({"status": ("in_progress", "blocked"), "metadata": ("no json", "[]")}, ["became blocked"]),
    ({}, []),
])  # fmt: skip
def test_a_version_is_described_by_what_it_changed(changed: dict[str, Any], expected: list[str]) -> None:
    """Of that which matters to dispatch; anything else is not an entry."""
    assert history.changes(version(**changed)) == expected


def test_an_entry_names_who_made_it() -> None:
    """Ours by the commit's author, with our note; bd's by the audit row that was written with it."""
    audit = [
        {"created_at": at(0).replace(tzinfo=None), "actor": "ann", "what": 'updated {"assignee":"agent"}'},
        {"created_at": at(0).replace(tzinfo=None), "actor": "eve", "what": 'updated {"title":"A"}'},
        {"created_at": at(5).replace(tzinfo=None), "actor": "bob", "what": "closed Done"},
    ]
    found = history.entries(
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


def test_resuming_shows_what_still_suspends() -> None:
    """bd's config is not the only place."""
    left = Suspension(dispatch="PingSource dispatch has suspend=true", reap=None)
    lines = suspend.lines(left, ("dispatch", "reap"), suspend=False)
    assert "still suspended" in lines[0] and "kn source ping resume dispatch" in lines[0]
    assert lines[1] == "reap is on"


# --- replay -------------------------------------------------------------------------------------------------


def bead(name: str, priority: int = 2, attempt: int = 0) -> Bead:
    return Bead(name, f"Bead {name}", priority, "open", "agent", NOW, DispatchRecord(attempt=attempt))


def used(minute: float, until: float | None) -> SlotUse:
    return SlotUse(at(minute), at(minute), at(until) if until is not None else None)


def would(recording: Recording, **limits: Any) -> dict[str, float | None]:
    """The minute at which each bead would have been dispatched."""
    rows = simulate(recording, DispatchLimits(**limits), at(100))
    return {
        row.bead: (row.would_dispatch_at - NOW).total_seconds() / 60 if row.would_dispatch_at else None for row in rows
    }


def test_the_first_in_the_queue_is_dispatched_and_the_next_when_its_slot_is_free() -> None:
    """For as long as the real job took."""
    recording = Recording(
        queue=[
            QueueState(at(0), [bead("b"), bead("c"), bead("a", priority=1)]),
            QueueState(at(1), [bead("b"), bead("c")]),
        ],
        dispatched={("a", 0): used(1, 6), ("b", 0): used(10, 13)},
    )
    assert would(recording) == {"a": 0, "b": 5, "c": 8}


def test_with_more_slots_beads_are_in_progress_side_by_side() -> None:
    """What if MAX_IN_FLIGHT were 2?"""
    recording = Recording(
        queue=[QueueState(at(0), [bead("a"), bead("b"), bead("c")])], dispatched={("a", 0): used(1, 6)}
    )
    assert would(recording, max_in_flight=2, slot_silence_minutes=3) == {"a": 0, "b": 0, "c": 3}


def test_a_bead_that_was_really_dispatched_stays_queued_where_there_is_no_slot() -> None:
    """What if it were 1 where it was 2: both were in progress, here the second stays in the queue."""
    recording = Recording(
        queue=[QueueState(at(0), [bead("a"), bead("b")]), QueueState(at(1), [])],
        dispatched={("a", 0): used(1, 21), ("b", 0): used(1, 3)},
    )
    assert would(recording) == {"a": 0, "b": 20}


def test_a_bead_that_a_person_took_away_is_not_dispatched() -> None:
    """And the row has the moment."""
    recording = Recording(
        queue=[QueueState(at(0), [bead("a"), bead("b")]), QueueState(at(2), [])],
        dispatched={("a", 0): used(0, 5)},
    )
    assert would(recording) == {"a": 0, "b": None}
    (row,) = [row for row in simulate(recording, DispatchLimits(), at(100)) if row.bead == "b"]
    assert row.note == "no longer eligible at 2026-07-15 09:32:00Z"


def test_what_was_in_progress_already_takes_a_slot() -> None:
    """From before the range, until its real end."""
    recording = Recording(queue=[QueueState(at(0), [bead("a")])], at_start={"x": used(0, 4)})
    assert would(recording) == {"a": 4}


def test_each_attempt_has_a_row() -> None:
    """A bead that was refused is dispatched again after its retry delay."""
    recording = Recording(
        queue=[QueueState(at(0), [bead("a")]), QueueState(at(1), []), QueueState(at(3), [bead("a", attempt=1)])],
        dispatched={("a", 0): used(1, 1.01), ("a", 1): used(3.1, None)},
    )
    rows = simulate(recording, DispatchLimits(), at(100))
    assert [(row.attempt, row.would_dispatch_at, row.dispatched_at) for row in rows] == [
        (1, at(0), at(1)),
        (2, at(3), at(3.1)),
    ]


def test_what_was_dispatched_although_it_was_never_eligible_with_these_limits_is_shown_too() -> None:
    """For example with another assignee."""
    (row,) = simulate(Recording(dispatched={("a", 0): used(1, 2)}), DispatchLimits(), at(100))
    assert (row.bead, row.would_dispatch_at, row.dispatched_at, row.note) == (
        "a",
        None,
        at(1),
        "not eligible with these limits",
    )


def test_the_replay_of_nothing_is_a_sentence() -> None:
    """Not an empty table."""
    empty = replay.Replay(NOW, NOW, 0, DispatchLimits(), [], [], [], [])
    lines = replay.lines(empty)
    assert "No bead was eligible, and none was dispatched." in lines
    assert lines[-1] == "0 would have been dispatched; 0 were."
