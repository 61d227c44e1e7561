"""What the binlog does not hold is published all the same: it was purged, off for a while, or a backup was restored."""

import contextlib
import functools
import pathlib
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from beads_dispatch import events, store
from tools.bench import resource_usage
from tools.chaos import checks, history
from tools.chaos.checks import Check
from tools.chaos.history import Side
from tools.chaos.writer import Writer
from tools.servers import Sink
from tools.world import Feeder, World, wait_for

check = functools.partial(checks.check, "gap")

_GAP_LOGGED = "does not continue from the feed's position"
_NOTICED_SECONDS = 60  # what a restore undid is published in this time
_FOREIGN_POSITION = "11111111-2222-3333-4444-555555555555:1-77"


@dataclass(frozen=True)
class GapSize:
    beads: int
    changes: int
    day: int  # changes of a whole day, one of each bead


SHORT = GapSize(beads=30, changes=40, day=500)
FULL = GapSize(beads=200, changes=600, day=5_000)


def run(here: World, chance: random.Random, *, short: bool) -> Iterator[Check]:
    for name in SCENES:
        yield played(here, chance, SHORT if short else FULL, name)


class Scene:
    """A feeder that starts and stops, a writer, and a sink."""

    def __init__(self, here: World, sink: Sink, writer: Writer) -> None:
        self.here = here
        self.sink = sink
        self.write = writer.write
        self.log = here.log("feeder-gap")
        self.feeder = self.start()
        self.initial = states(here)

    def start(self, *, wait: bool = True) -> Feeder:
        self.feeder = self.here.feeder(self.sink.url, log=self.log)
        if wait:
            self.feeder.wait_until_reading()
        return self.feeder

    def last_published(self) -> dict[str, Side]:
        """Each bead as a subscriber knows it."""
        found = dict(self.initial)
        for event in self.sink.of_type(events.ISSUE_CHANGED):
            found[str(event.subject)] = history.side_of(event, "after")
        return {bead: side for bead, side in found.items() if side != history.NO_BEAD}

    def caught_up(self, seconds: float = 120) -> float:
        """Wait until a subscriber knows the beads as they are; returns the seconds. Raises TimedOut."""
        began = time.monotonic()
        wait_for(lambda: self.last_published() == states(self.here), "beads published as they are", seconds)
        return time.monotonic() - began

    def recovered(self) -> list[events.Event]:
        return [event for event in list(self.sink.received) if event.extensions.get("recovered") == "true"]

    def gaps_logged(self) -> int:
        return self.log.read_text().count(_GAP_LOGGED)


def states(here: World) -> dict[str, Side]:
    """Each bead's assignee and status."""
    return {bead: (row["assignee"] or "", row["status"]) for bead, row in here.rows().items()}


def played(here: World, chance: random.Random, size: GapSize, name: str) -> Check:
    """Play a scene to its end; a check with its figures, and with what was not published."""
    here.empty()
    broken = []
    with Sink() as sink, Writer(here, chance, size.beads) as writer:
        scene = Scene(here, sink, writer)
        try:
            figures = SCENES[name](here, scene, size)
        except AssertionError as exc:
            known, real = scene.last_published(), states(here)
            wrong = [bead for bead in sorted({*known, *real}) if known.get(bead) != real.get(bead)]
            here.server.kill()
            here.server.start(log_bin=True)
            figures, broken = f"{len(wrong)} beads not published as they are", [str(exc), *wrong[:3]]
        finally:
            scene.feeder.stop()
        broken += history.published(sink.received).differing
        if "Traceback" in scene.log.read_text(errors="replace"):
            broken.append("a traceback in the feeder's log")
    return check(name, figures, broken)


@contextlib.contextmanager
def _server_down(here: World) -> Iterator[pathlib.Path]:
    """Kill the server, and start it again after the block; gives its folder."""
    here.server.kill()
    try:
        yield here.folder / "dolt"
    finally:
        here.server.start()


def _purge(here: World) -> None:
    """As an administrator who removes the binlog's files."""
    with _server_down(here) as folder:
        for log in folder.glob("**/binlog"):
            shutil.rmtree(log)


def purged(here: World, scene: Scene, size: GapSize) -> str:
    """The binlog's files are gone, and the feeder is killed in the middle of the gap recovery."""
    scene.write(size.changes)
    scene.caught_up()
    scene.feeder.stop()
    before = states(here)
    scene.write(size.changes)
    _purge(here)
    after = states(here)
    net = {bead for bead in {*before, *after} if before.get(bead) != after.get(bead)}
    scene.sink.delay_seconds = 0.02
    scene.start(wait=False)
    wait_for(lambda: len(scene.recovered()) >= len(net) // 2, "half of the gap published", 60)
    scene.feeder.kill()
    scene.sink.delay_seconds = 0
    scene.start()
    took = scene.caught_up()
    found = scene.recovered()
    ids, beads = {event.id for event in found}, {event.subject for event in found}
    assert beads == net and len(ids) == len(net), f"{len(net)} beads differ, {len(ids)} ids for {len(beads)}"
    return (
        f"{size.changes} changes of {len(net)} beads missed, all published, {len(found) - len(ids)} repeats,"
        f" {took:.1f} s after"
    )


def off_and_on(here: World, scene: Scene, size: GapSize, *, watched: bool) -> str:
    """The binlog switched off, changes, on again, changes: its GTIDs show no gap. `watched`: a feeder runs."""
    scene.write(size.changes)
    scene.caught_up()
    if not watched:
        scene.feeder.stop()
    scene.write(size.changes // 4)
    if watched:
        scene.caught_up()
    here.server.kill()
    here.server.start(log_bin=False)
    scene.write(size.changes)
    if watched:
        wait_for(lambda: "log_bin is 0" in scene.log.read_text(), "the feeder logs that the binlog is off", 60)
    here.server.kill()
    here.server.start(log_bin=True)
    scene.write(size.changes // 4)
    if not watched:
        scene.start()
    took = scene.caught_up()
    return f"{size.changes} changes unlogged, {len(scene.recovered())} published as recovered, {took:.1f} s after"


def away(here: World, scene: Scene, size: GapSize) -> str:
    """A day of changes that the binlog no longer holds: published in bounded memory."""
    scene.caught_up()
    before = resource_usage.rss_mib(scene.feeder.pid, "VmHWM")
    scene.feeder.stop()
    here.add([f"day-{number:05}" for number in range(size.day)], assignee="bob")
    _purge(here)
    began = time.monotonic()
    scene.start()
    scene.caught_up(300)
    took, recovered = time.monotonic() - began, len(scene.recovered())
    after = resource_usage.rss_mib(scene.feeder.pid, "VmHWM")
    assert recovered == size.day, f"{recovered} of {size.day} published"
    return (
        f"{size.day} changes published in {took:.0f} s, feeder's peak {before:.0f} MiB before and {after:.0f} MiB after"
    )


def restored(here: World, scene: Scene, size: GapSize, *, whole: bool) -> str:
    """An older copy of the data is restored under a running feeder: the beads' database alone, or the whole server, and
    with it the feeder's state. What the latter undid cannot be known; the feed continues from now."""
    scene.write(size.changes)
    scene.caught_up()
    data, copy = here.folder / "dolt" / "data", here.folder / "backup"
    part = data if whole else data / here.dolt.database
    time.sleep(1)  # its position is stored
    with _server_down(here):
        shutil.copytree(part, copy)
    scene.write(size.changes)
    scene.caught_up()
    time.sleep(1)
    with _server_down(here):
        shutil.rmtree(part)
        shutil.move(copy, part)
    if whole:
        wait_for(scene.gaps_logged, "the feeder logs the gap", 60)
        scene.initial = states(here)
        scene.sink.received.clear()
    took = scene.caught_up()
    scene.write(size.changes)
    scene.caught_up()
    logged = scene.gaps_logged()
    assert logged <= 1 and (not whole or logged == 1), f"logged {logged} times that there is a gap"
    if whole:
        return f"continued from now, logged {logged} time(s), and published every change since"
    return f"published {len(scene.recovered())} beads as recovered {took:.1f} s after, and every change since"


def set_back(here: World, scene: Scene, size: GapSize, *, statements: Sequence[str]) -> str:
    """The database is set back under a running feeder by Dolt's own means, while others write. `{earlier}` stands for a
    commit of before, and `{copy}` for a backup of the database as it was then."""
    scene.write(size.changes)
    copy = f"file://{here.folder}/set-back-{time.monotonic_ns()}"
    fields = {"earlier": here.commit("earlier"), "copy": copy, "database": here.dolt.database}
    here.sql("CALL dolt_backup('sync-url', %s)", copy)
    scene.write(size.changes)
    here.commit("later")
    scene.write(size.changes // 4)
    scene.caught_up()
    before = states(here)
    with here.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement.format(**fields))
    after = states(here)
    net = sum(before.get(bead) != after.get(bead) for bead in {*before, *after})
    took = scene.caught_up(_NOTICED_SECONDS)
    assert net, "it set nothing back"
    scene.write(size.changes // 4)
    scene.caught_up()
    return f"{net} beads set back, published {took:.1f} s after, {len(scene.recovered())} of them as recovered"


def state_dropped(here: World, scene: Scene, size: GapSize) -> str:
    """Our own database is dropped while beads change."""
    scene.write(size.changes)
    scene.caught_up()
    here.sql(f"DROP DATABASE {store.STATE_DATABASE}")
    scene.write(size.changes)
    took = scene.caught_up()
    made = scene.log.read_text().count("was lost: it is made again")
    assert made == 1, f"made again {made} times"
    assert not scene.recovered(), f"{len(scene.recovered())} published once more"
    return f"made again, {size.changes} changes published {took:.1f} s after, none twice"


def foreign_position(here: World, scene: Scene, size: GapSize) -> str:
    """The stored position is another server's."""
    scene.write(size.changes)
    scene.caught_up()
    scene.feeder.stop()
    with contextlib.closing(store.Store(here.dolt)) as beads:
        beads.feed_state.set_position(_FOREIGN_POSITION, {})
    scene.write(size.changes)
    scene.start()
    took = scene.caught_up()
    logged = scene.gaps_logged()
    assert logged == 1, f"logged {logged} times that there is a gap"
    return (
        f"continued from now, logged once, {size.changes} changes published as {len(scene.recovered())},"
        f" {took:.1f} s after"
    )


RESTORED = "a backup restored over it"
SET_BACK = {
    "dolt_reset to an earlier commit": ["CALL dolt_reset('--hard', '{earlier}')"],
    "dolt_checkout of a table": ["CALL dolt_checkout('{earlier}', '--', 'issues')"],
    RESTORED: ["CALL dolt_backup('restore', '{copy}', '{database}', '--force')"],
    "dropped, and a backup restored": [
        "DROP DATABASE `{database}`",
        "CALL dolt_backup('restore', '{copy}', '{database}')",
    ],
}
STOPPED = "binlog off for a while, feeder stopped, changes before and after"
SCENES: Mapping[str, Callable[[World, Scene, GapSize], str]] = {
    "binlog purged, feeder killed half-way": purged,
    "binlog off for a while, feeder running": functools.partial(off_and_on, watched=True),
    STOPPED: functools.partial(off_and_on, watched=False),
    "stopped for a day, binlog purged": away,
    "the beads restored from a backup": functools.partial(restored, whole=False),
    "the server restored from a backup": functools.partial(restored, whole=True),
    "the stored position is another server's": foreign_position,
    "our database dropped": state_dropped,
    **{name: functools.partial(set_back, statements=statements) for name, statements in SET_BACK.items()},
}
