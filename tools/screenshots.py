"""The pictures of docs/console.md: python -m tools.screenshots

A workspace with a day of made-up history, the real console on it, and the machine's Chromium.
"""

import json
import pathlib
import random
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from beads_dispatch import notes, store
from tools import browser, world

FOLDER = pathlib.Path(__file__).parents[1] / "docs" / "console"
PAGES = {
    "now": "/", "queue": "/queue", "bead": "/bead?id=demo-31", "timeline": "/timeline", "day": "/day",
    "what-if": "/what-if?from=3h&max_in_flight=2",
}  # fmt: skip
_VIEWPORT = {"width": 900, "height": 720}
Step = tuple[datetime, str, str, dict[str, Any], str, str]  # when, bead, status, record, note, author
_TITLES = (
    "Write a haiku about queues", "Add a test for the parser's last line", "Describe the new settings",
    "Upgrade the linter", "Find why the nightly build is slow", "Remove the old importer", "Translate the error texts",
)  # fmt: skip


def make_history(here: world.World, now: datetime, dispatches: int) -> None:
    """A day of beads that were assigned, dispatched and closed; one in eight was refused first."""
    chance = random.Random(7)
    steps: list[Step] = []
    for number in range(dispatches):
        bead, begin = f"demo-{number}", now - timedelta(hours=23 * chance.random() ** 0.8, minutes=8)
        waited = timedelta(seconds=chance.choice((0.2, 0.3, 0.4, 1, 30, 400)) * (1 + chance.random()))
        steps.append((begin, bead, "open", {}, "", "ann"))
        if chance.random() < 0.125:
            code = chance.choice((429, 502, 502))
            note = notes.dispatch_failed(code, "the service is at its limit")
            steps.append((begin + waited / 2, bead, "open", {"attempt": 1, "failures": 1}, note, store.DISPATCHER))
        claim: dict[str, Any] = {"claim": f"c{number}", "attempt": 1, "at": notes.timestamp(begin + waited)}
        job = {**claim, "job": f"{chance.getrandbits(48):012x}"}
        started = begin + waited
        steps.append((started, bead, "in_progress", claim, notes.claimed(started), store.DISPATCHER))
        posted = started + timedelta(milliseconds=50)
        steps.append((posted, bead, "in_progress", job, notes.dispatched(job["job"]), store.DISPATCHER))
        steps.append((posted + timedelta(minutes=5), bead, "closed", job, "", "agent"))
    _write(here, sorted(steps, key=lambda step: step[0]))


def _write(here: world.World, steps: list[Step]) -> None:
    with here.cursor() as cursor:
        for at, bead, status, record, note, author in steps:
            title = _TITLES[int(bead.removeprefix("demo-")) % len(_TITLES)]
            state = (status, _metadata(record), at.replace(tzinfo=None))
            cursor.execute(
                "INSERT INTO issues (id, title, description, design, acceptance_criteria, notes, assignee, status,"
                " metadata, updated_at) VALUES (%s, %s, '', '', 'It works.', %s, 'agent', %s, %s, %s) ON DUPLICATE KEY"
                " UPDATE notes = CONCAT(notes, %s), status = %s, metadata = %s, updated_at = %s",
                (bead, title, note, *state, f"\n{note}", *state),
            )
            who, date = f"{author} <{author}@localhost>", at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            cursor.execute("CALL DOLT_COMMIT('-Am', %s, '--author', %s, '--date', %s)", (f"{bead}", who, date))


def _metadata(record: dict[str, Any]) -> str:
    return json.dumps({"dispatch": record} if record else {})


def make_present(here: world.World, now: datetime) -> None:
    """Beads in progress, in the queue, and such that wait for different reasons."""
    blank, later = {"acceptance_criteria": ""}, {"defer_until": (now + timedelta(hours=9)).replace(tzinfo=None)}
    recent = now.replace(tzinfo=None)
    columns_of: tuple[dict[str, Any], ...] = ({}, {}, {}, blank, later, {}, {})
    for number, (title, columns) in enumerate(zip(_TITLES, columns_of, strict=True), 26):
        here.insert([f"demo-{number}"], title=title, priority=number % 3, updated_at=recent, **columns)
    here.sql(
        "INSERT INTO dependencies (id, depends_on_issue_id, issue_id, type, created_by)"
        " VALUES (UUID(), 'demo-30', 'demo-31', 'blocks', 'ann')"
    )
    here.commit("beads")
    here.workspace.run("recompute-blocked")
    reads = store.Store(here.dolt)
    for bead in reads.eligible.first("agent", now, 1):
        claimed = reads.claims.claim(bead, now)
        reads.claims.record_dispatched(claimed, "b07f3386635d", now)
    reads.close()


def main() -> int:
    if browser.chromium() is None:
        print(f"this {browser.MISSING}", file=sys.stderr)
        return 1
    now = datetime.now(UTC)
    with world.world() as here, browser.browser() as chromium:
        make_history(here, now, 26)
        make_present(here, now)
        with here.system("http://127.0.0.1:9") as system:
            system.start_console()
            FOLDER.mkdir(exist_ok=True)
            page = chromium.new_page(viewport=_VIEWPORT)  # type: ignore[arg-type]
            for name, path in PAGES.items():
                page.goto(f"http://127.0.0.1:{system.ports.console}{path}")
                if name == "what-if":
                    page.locator("#answer").scroll_into_view_if_needed()
                page.screenshot(path=FOLDER / f"{name}.png")
                print(f"{name}.png: {(FOLDER / f'{name}.png').stat().st_size // 1024} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
