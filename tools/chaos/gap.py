"""What the binlog does not hold is published all the same: it was purged, off for a while, or a backup was restored."""

import contextlib
import functools
import pathlib
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from beads_dispatch import events, store
from tools.chaos import checks, history
from tools.chaos.checks import Check
from tools.chaos.history import Side
from tools.chaos.writer import Writer
from tools.servers import Sink
from tools.world import Feeder, World, seconds_until, wait_for

check = functools.partial(checks.check, "gap")

_GAP_LOGGED = "does not continue from the feed's position"
_FOREIGN_POSITION = "11111111-2222-3333-4444-555555555555:1-77"


@dataclass(frozen=True)
class GapSize:
    beads: int
    changes: int
    day: int  # changes of a whole day, one of each bead


SHORT = GapSize(beads=30, changes=40, day=500)
FULL = GapSize(beads=200, changes=600, day=10_000)


def run(here: World, chance: random.Random, *, short: bool) -> Iterator[Check]:
    size = SHORT if short else FULL
    yield purged(here, chance, size)
    for watched in (True, False):
        yield off_and_on(here, chance, size, watched=watched)
    yield away(here, size)
    for whole in (False, True):
        yield restored(here, chance, size, whole=whole)
    yield foreign_position(here, chance, size)


class Scene:
    """A feeder that starts and stops, a writer, and a sink."""

    def __init__(self, here: World, chance: random.Random, beads: int) -> None:
        here.empty()
        self.here = here
        self.sink = Sink()
        self.writer = Writer(here, chance, beads)
        self.log = here.log("feeder-gap")
        self.feeder = self.start()
        self.initial = states(here)

    def start(self, *, wait: bool = True) -> Feeder:
        self.feeder = self.here.feeder(self.sink.url, log=self.log)
        if wait:
            self.feeder.wait_until_reading()
        return self.feeder

    def write(self, changes: int) -> None:
        until = self.writer.changes + changes
        while self.writer.changes < until:
            self.writer.step()

    def last_published(self) -> dict[str, Side]:
        """Each bead as a subscriber knows it."""
        found = dict(self.initial)
        for event in self.sink.of_type(events.ISSUE_CHANGED):
            found[str(event.subject)] = history.side_of(event, "after")
        return {bead: side for bead, side in found.items() if side != history.NO_BEAD}

    def caught_up(self, seconds: float = 120) -> float:
        """Wait until a subscriber knows the beads as they are; returns the seconds. Raises TimedOut."""
        return seconds_until(lambda: self.last_published() == states(self.here), "beads published as they are", seconds)

    def recovered(self) -> list[events.Event]:
        return [event for event in list(self.sink.received) if event.extensions.get("recovered") == "true"]

    def gaps_logged(self) -> int:
        return self.log.read_text().count(_GAP_LOGGED)

    def close(self) -> None:
        self.feeder.process.stop()
        self.writer.close()
        self.sink.close()


def states(here: World) -> dict[str, Side]:
    """Each bead's assignee and status."""
    return {bead: (row["assignee"] or "", row["status"]) for bead, row in here.rows().items()}


def _require(condition: bool, otherwise: str) -> None:
    """Raises AssertionError: the promise is broken."""
    if not condition:
        raise AssertionError(otherwise)


def _scene(here: World, chance: random.Random, beads: int, name: str, play: Callable[[Scene], str]) -> Check:
    """Play a scene to its end; a check with its figures, and with what was not published."""
    scene = Scene(here, chance, beads)
    broken = []
    try:
        figures = play(scene)
    except AssertionError as exc:
        known, real = scene.last_published(), states(here)
        wrong = [bead for bead in sorted({*known, *real}) if known.get(bead) != real.get(bead)]
        here.server.kill()
        here.server.start(log_bin=True)
        figures, broken = f"{len(wrong)} beads not published as they are", [str(exc), *wrong[:3]]
    finally:
        broken += history.published(scene.sink.received).differing
        if "Traceback" in scene.log.read_text(errors="replace"):
            broken.append("a traceback in the feeder's log")
        scene.close()
    return check(name, figures, broken)


@contextlib.contextmanager
def _server_down(here: World, *, log_bin: bool | None = None) -> Iterator[pathlib.Path]:
    """Kill the server, and start it again after the block; gives its folder."""
    here.server.kill()
    try:
        yield here.folder / "dolt"
    finally:
        here.server.start(log_bin=log_bin)


def _purge(here: World) -> None:
    """As an administrator who removes the binlog's files."""
    with _server_down(here) as folder:
        for log in folder.glob("**/binlog"):
            shutil.rmtree(log)


def purged(here: World, chance: random.Random, size: GapSize) -> Check:
    """The binlog's files are gone, and the feeder is killed in the middle of the gap recovery."""

    def play(scene: Scene) -> str:
        scene.write(size.changes)
        scene.caught_up()
        scene.feeder.process.stop()
        before = states(here)
        scene.write(size.changes)
        _purge(here)
        after = states(here)
        net = {bead for bead in {*before, *after} if before.get(bead) != after.get(bead)}
        scene.sink.delay_seconds = 0.02
        scene.start(wait=False)
        wait_for(lambda: len(scene.recovered()) >= len(net) // 2, "half of the gap published", 60)
        scene.feeder.process.kill()
        scene.sink.delay_seconds = 0
        scene.start()
        took = scene.caught_up()
        found = scene.recovered()
        ids, beads = {event.id for event in found}, {event.subject for event in found}
        _require(beads == net and len(ids) == len(net), f"{len(net)} beads differ, {len(ids)} ids for {len(beads)}")
        return (
            f"{size.changes} changes of {len(net)} beads missed, all published, {len(found) - len(ids)} repeats,"
            f" {took:.1f} s after"
        )

    return _scene(here, chance, size.beads, "binlog purged, feeder killed half-way", play)


def off_and_on(here: World, chance: random.Random, size: GapSize, *, watched: bool) -> Check:
    """The binlog switched off, changes, on again, changes: its GTIDs show no gap. `watched`: a feeder runs."""

    def play(scene: Scene) -> str:
        scene.write(size.changes)
        scene.caught_up()
        if not watched:
            scene.feeder.process.stop()
        scene.write(size.changes // 4)
        if watched:
            scene.caught_up()
        with _server_down(here, log_bin=False):
            pass
        scene.write(size.changes)
        if watched:
            wait_for(lambda: "log_bin is 0" in scene.log.read_text(), "the feeder logs that the binlog is off", 60)
        with _server_down(here, log_bin=True):
            pass
        scene.write(size.changes // 4)
        if not watched:
            scene.start()
        took = scene.caught_up()
        return f"{size.changes} changes unlogged, {len(scene.recovered())} published as recovered, {took:.1f} s after"

    who = "feeder running" if watched else "feeder stopped, changes before and after"
    return _scene(here, chance, size.beads, f"binlog off for a while, {who}", play)


def away(here: World, size: GapSize) -> Check:
    """A day of changes that the binlog no longer holds: published in bounded memory."""

    def play(scene: Scene) -> str:
        scene.caught_up()
        before = _peak_mb(scene.feeder)
        scene.feeder.process.stop()
        here.add([f"day-{number:05}" for number in range(size.day)], assignee="bob")
        _purge(here)
        began = time.monotonic()
        scene.start()
        scene.caught_up(300)
        took, after, recovered = time.monotonic() - began, _peak_mb(scene.feeder), len(scene.recovered())
        _require(recovered == size.day, f"{recovered} of {size.day} published")
        return (
            f"{size.day} changes published in {took:.0f} s,"
            f" feeder's peak {before:.0f} MB before and {after:.0f} MB after"
        )

    return _scene(here, random.Random(0), 5, "stopped for a day, binlog purged", play)


def restored(here: World, chance: random.Random, size: GapSize, *, whole: bool) -> Check:
    """An older copy of the data is restored under a running feeder: the beads' database alone, or the whole server, and
    with it the feeder's state. What the latter undid cannot be known; the feed continues from now."""

    def play(scene: Scene) -> str:
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
        _require(logged <= 1 and (not whole or logged == 1), f"logged {logged} times that there is a gap")
        if whole:
            return f"continued from now, logged {logged} time(s), and published every change since"
        return f"published {len(scene.recovered())} beads as recovered {took:.1f} s after, and every change since"

    return _scene(here, chance, size.beads, f"{'the server' if whole else 'the beads'} restored from a backup", play)


def foreign_position(here: World, chance: random.Random, size: GapSize) -> Check:
    """The stored position is another server's."""

    def play(scene: Scene) -> str:
        scene.write(size.changes)
        scene.caught_up()
        scene.feeder.process.stop()
        with contextlib.closing(store.Store(here.dolt)) as beads:
            beads.feed_state.set_position(_FOREIGN_POSITION, {})
        scene.write(size.changes)
        scene.start()
        took = scene.caught_up()
        logged = scene.gaps_logged()
        _require(logged == 1, f"logged {logged} times that there is a gap")
        return (
            f"continued from now, logged once, {size.changes} changes published as {len(scene.recovered())},"
            f" {took:.1f} s after"
        )

    return _scene(here, chance, size.beads, "the stored position is another server's", play)


def _peak_mb(feeder: Feeder) -> float:
    """The most memory that a process has had so far, in MB."""
    status = pathlib.Path(f"/proc/{feeder.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found.group(1)) / 1024 if found else 0.0
