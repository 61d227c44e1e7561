"""The arithmetic of the measurements: an error here is in every figure."""

import collections
import pathlib
import subprocess
from datetime import datetime

import pytest

from tools.bench import cold, compare, generate, latency, report, resource_usage, scale, write_overhead
from tools.proxies import Commands

_COMPARE, _BEAD = pathlib.Path("tools/bench/compare.py"), pathlib.Path("beads_dispatch/bead.py")


def test_percentiles_are_by_nearest_rank() -> None:
    """p50 of 1 to 100 is 50, p99 is 99, p100 the last; one sample is all of them."""
    samples = [float(number) for number in range(1, 101)]
    assert [report.percentile(samples, percent) for percent in (50, 90, 99, 100)] == [50, 90, 99, 100]
    assert report.percentile([7.0], 50) == 7
    assert report.summary([3.0, 1.0, 2.0]) == {"n": 3, "p50": 2.0, "p90": 3.0, "p99": 3.0, "max": 3.0}


def test_the_stages_add_up_to_the_whole() -> None:
    """From `returned` to `posted`, without a gap."""
    sample = latency.Sample(10.0, 10.1, 10.11, 10.12, 10.14, 10.15, 10.09)
    assert sum(latency.stages(sample).values()) == pytest.approx(150)


def test_polling_waits_half_its_period_on_average() -> None:
    """And a pass after that."""
    assert latency.polling(500, 120) == {"p50": 60_500, "p90": 108_500, "p99": 119_300, "max": 120_500}


def test_cpu_time_is_read_past_any_name() -> None:
    """The name of a process may hold spaces and parentheses."""
    assert resource_usage.parse_stat("7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 30 12 0 0 20 0 1") == 42
    assert resource_usage.parse_rss_kib("Name:\tx\nVmRSS:\t  2048 kB\n") == 2048


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_commands_are_counted_however_they_come(size: int) -> None:
    """Three commands and a login answer (its sequence is 1), in pieces of any size."""

    def packet(sequence: int, body: bytes) -> bytes:
        return len(body).to_bytes(3, "little") + bytes([sequence]) + body

    stream = packet(1, b"login") + packet(0, b"\x03SELECT 1") + packet(0, b"\x0e") + packet(0, b"\x03" + b"x" * 300)
    commands = Commands()
    for at in range(0, len(stream), size):
        commands.feed(stream[at : at + size])
    assert commands.number == 3


def test_the_generated_beads_are_as_many_as_were_asked_for() -> None:
    """So many in all, so many eligible, so many in progress; no id twice, closed ones with a date."""
    rows = [dict(zip(generate.ISSUE, row, strict=True)) for row in generate.issues(1000, 10, in_progress=2)]
    kinds = collections.Counter((row["assignee"], row["status"]) for row in rows)
    assert len({row["id"] for row in rows}) == 1000
    assert kinds["agent", "open"] == 10 and kinds["agent", "in_progress"] == 2
    assert all(isinstance(row["closed_at"], datetime) == (row["status"] == "closed") for row in rows)
    assert all((row["assignee"], row["status"]) != ("agent", "open") for row in map(dict, _rows_without_work()))


def _rows_without_work() -> list[dict[str, object]]:
    return [dict(zip(generate.ISSUE, row, strict=True)) for row in generate.issues(100, 0)]


def test_a_plan_shows_how_its_rows_are_read() -> None:
    """By which index, or by the whole table."""
    plan = """\
Project
 └─ LeftOuterLookupJoin
     ├─ TableAlias(i)
     │   └─ IndexedTableAccess(issues)
     │       ├─ index: [issues.status,issues.updated_at]
     │       └─ filters: [{[open, open], [NULL, ∞)}]
     └─ Table
         ├─ name: events
         └─ columns: [issue_id]"""
    assert scale.access(plan) == ["issues by status, updated_at", "events whole"]


def test_imports_are_summed_by_package() -> None:
    """A module's own time; the standard library is one package."""
    text = (
        "import time: self [us] | cumulative | imported package\n"
        "import time:      1500 |       9000 |   beads_dispatch.store\n"
        "import time:       500 |        500 | beads_dispatch\n"
        "import time:      3000 |       3000 |     json.decoder\n"
        "a line of the program's own\n"
    )
    assert cold.imports(text) == {"standard library": 3.0, "beads_dispatch": 2.0}


def test_writers_are_compared_within_a_round() -> None:
    """The median of what a kind takes more than the first in the same round, not of all together."""
    found = {"binlog off": [100.0, 200.0, 300.0], "binlog on": [110.0, 210.0, 310.0]}
    compared = write_overhead.compare(found)["binlog on"]
    assert compared["more"] == 10.0
    assert compared["ratio"] == 1.05


def test_the_figures_of_a_result_are_named_by_their_place() -> None:
    """However deep; what is not a number is not a figure."""
    result = {"unit": "ms", "POST": {"p50": 1.5, "n": 3}, "a": {"b": {"c": 2}}, "load": [1.0], "ok": True}
    assert dict(compare.figures(result)) == {"POST: p50": 1.5, "POST: n": 3, "a: b: c": 2}


def test_a_commit_is_measured_with_the_tools_of_now(tmp_path: pathlib.Path) -> None:
    """The tree of a commit holds its library and applications and today's tools; that of now is all as it is."""
    then, now = compare.make_tree(tmp_path / "then", "HEAD"), compare.make_tree(tmp_path / "now", None)
    for tree in (then, now):
        assert {path.name for path in tree.iterdir()} == {*compare.MEASURED, *compare.MEASURING}
        assert (tree / _COMPARE).read_text() == (compare.ROOT / _COMPARE).read_text()
    assert (now / _BEAD).read_text() == (compare.ROOT / _BEAD).read_text()


def test_a_commit_of_another_layout_is_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text names the reason; the same for what is not a commit."""
    (tmp_path / "beads").mkdir()
    (tmp_path / "beads" / "store.py").touch()
    who = ("-c", "user.name=a", "-c", "user.email=a@localhost")
    for command in (("init", "-q"), ("add", "beads"), (*who, "commit", "-q", "-m", "as in 0.1.0")):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    monkeypatch.setattr(compare, "ROOT", tmp_path)
    with pytest.raises(compare.CannotCompare, match=r"its layout is that of version 0\.1\.0"):
        compare.make_tree(tmp_path / "then", "HEAD")
    with pytest.raises(compare.CannotCompare, match="not a commit"):
        compare.make_tree(tmp_path / "none", "no-such-commit")
