"""What the binlog does not hold is told all the same: purged, switched off for a while, restored from a backup."""

import pathlib
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from beads_dispatch import events, store
from tools.chaos import report, world, writer
from tools.chaos.report import Check
from tools.chaos.servers import Sink
from tools.chaos.world import Feeder, Side, World

PART = "gap"
_GOES_ON = "does not go on from where the feed was"


@dataclass(frozen=True)
class Size:
    beads: int
    changes: int
    day: int  # changes of a whole day, one of each bead


SHORT = Size(beads=30, changes=40, day=500)
FULL = Size(beads=200, changes=600, day=10_000)


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
    """A feeder that may come and go, a writer, and what the sink was told of which bead last."""

    def __init__(self, here: World, chance: random.Random, beads: int) -> None:
        here.empty()
        self.here = here
        self.sink = Sink()
        self.writes = writer.Writer(here, chance, beads, bd_every=0)
        self.feeder: Feeder | None = None
        self.log = here.log("feeder-gap")
        self.start()
        self.initial = states(here)

    def start(self) -> None:
        self.feeder = self.here.feeder(self.sink.url, log=self.log)
        self.feeder.wait_until_reading()

    def stop(self) -> None:
        if self.feeder is not None:
            self.feeder.process.stop()
            self.feeder = None

    def write(self, changes: int) -> None:
        until = self.writes.changes + changes
        while self.writes.changes < until:
            self.writes.step()

    def last_told(self) -> dict[str, Side]:
        """Each bead as a subscriber knows it."""
        found = dict(self.initial)
        for event in self.sink.facts():
            after = event.data["after"] or world.NOBODY
            found[str(event.subject)] = (after["assignee"] or "", after["status"] or "")
        return {bead: side for bead, side in found.items() if side != ("", "")}

    def caught_up(self, seconds: float = 120) -> float:
        return world.wait_for(lambda: self.last_told() == states(self.here), "told what the beads are", seconds)

    def recovered(self) -> list[events.Event]:
        return [event for event in self.sink.facts() if event.extensions.get("recovered") == "true"]

    def close(self) -> None:
        self.stop()
        self.writes.close()
        self.sink.close()


def states(here: World) -> dict[str, Side]:
    """Each bead as it is."""
    return {row["id"]: (row["assignee"] or "", row["status"]) for row in here.sql("SELECT * FROM issues")}


def _scene(here: World, chance: random.Random, beads: int, name: str, play: Callable[[Scene], str]) -> Check:
    """Play a scene to its end; a row with its figures, and what was not told."""
    scene = Scene(here, chance, beads)
    broken = []
    try:
        figures = play(scene)
    except world.Late as exc:
        told, real = scene.last_told(), states(here)
        wrong = [bead for bead in sorted({*told, *real}) if told.get(bead) != real.get(bead)]
        here.server.kill()
        here.server.start(log_bin=True)
        figures, broken = f"{len(wrong)} beads not told as they are", [str(exc), *wrong[:3]]
    finally:
        _, _, differ = world.told(scene.sink.facts())
        broken += [f"{event}: its repeats differ" for event in differ]
        if "Traceback" in scene.log.read_text(errors="replace"):
            broken.append("a traceback in the feeder's log")
        scene.close()
    return report.check(PART, name, figures, broken)


def _purge(here: World) -> None:
    """As an administrator who removes the binlog's files."""
    here.server.kill()
    for log in here.folder.glob("dolt/**/binlog"):
        shutil.rmtree(log)
    here.server.start()


def purged(here: World, chance: random.Random, size: Size) -> Check:
    """The binlog's files are gone; and the feeder is killed in the middle of making good for it."""

    def play(scene: Scene) -> str:
        scene.write(size.changes)
        scene.caught_up()
        scene.stop()
        before = states(here)
        scene.write(size.changes)
        _purge(here)
        after = states(here)
        net = {bead for bead in {*before, *after} if before.get(bead) != after.get(bead)}
        scene.sink.mode, scene.sink.slow_seconds = "slow", 0.02
        scene.feeder = here.feeder(scene.sink.url, log=scene.log)
        world.wait_for(lambda: len(scene.recovered()) >= len(net) // 2, "half of the gap told", 60)
        scene.feeder.process.kill()
        scene.sink.mode = "ok"
        scene.start()
        took = scene.caught_up()
        found = scene.recovered()
        ids = {event.id for event in found}
        if {event.subject for event in found} != net or len(ids) != len(net):
            raise world.Late(f"{len(net)} beads differ, {len(ids)} ids for {len({e.subject for e in found})} beads")
        return f"{size.changes} changes of {len(net)} beads missed, all told, {len(found) - len(ids)} repeats," + (
            f" {took:.1f} s after"
        )

    return _scene(here, chance, size.beads, "binlog purged, feeder killed half-way", play)


def off_and_on(here: World, chance: random.Random, size: Size, *, watched: bool) -> Check:
    """The binlog switched off, changes, on again, changes: its GTIDs show no gap."""

    def play(scene: Scene) -> str:
        scene.write(size.changes)
        scene.caught_up()
        if not watched:
            scene.stop()
        scene.write(size.changes // 4)
        if watched:
            scene.caught_up()
        here.server.kill()
        here.server.start(log_bin=False)
        scene.write(size.changes)
        if watched:
            world.wait_for(lambda: "log_bin is 0" in scene.log.read_text(), "the feeder says that the log is off", 60)
        here.server.kill()
        here.server.start(log_bin=True)
        scene.write(size.changes // 4)
        if not watched:
            scene.start()
        took = scene.caught_up()
        return f"{size.changes} changes unlogged, {len(scene.recovered())} told as recovered, {took:.1f} s after"

    who = "feeder running" if watched else "feeder away, changes before and after"
    return _scene(here, chance, size.beads, f"binlog off for a while, {who}", play)


def away(here: World, size: Size) -> Check:
    """A day of changes that the binlog no longer holds: told in bounded memory."""

    def play(scene: Scene) -> str:
        assert scene.feeder is not None
        scene.caught_up()
        before = _peak_mb(scene.feeder)
        scene.stop()
        here.add([f"day-{number:05}" for number in range(size.day)], assignee="bob")
        _purge(here)
        began = time.monotonic()
        scene.start()
        scene.caught_up(300)
        took = time.monotonic() - began
        after = _peak_mb(scene.feeder)
        recovered = len(scene.recovered())
        if recovered != size.day:
            raise world.Late(f"{recovered} of {size.day} told")
        return f"{size.day} changes told in {took:.0f} s, feeder's peak {before:.0f} MB before and {after:.0f} MB after"

    return _scene(here, random.Random(0), 5, "away for a day, binlog purged", play)


def restored(here: World, chance: random.Random, size: Size, *, whole: bool) -> Check:
    """The data are put back to an older copy under a running feeder: the beads' database alone, or the whole server,
    and with it the feed's own memory. Of the latter nobody can tell what it undid; the feed goes on from now."""

    def play(scene: Scene) -> str:
        scene.write(size.changes)
        scene.caught_up()
        data, copy = here.folder / "dolt" / "data", here.folder / "backup"
        part = data if whole else data / here.dolt.database
        time.sleep(1)  # its position is stored
        here.server.kill()
        shutil.copytree(part, copy)
        here.server.start()
        scene.write(size.changes)
        scene.caught_up()
        time.sleep(1)
        here.server.kill()
        shutil.rmtree(part)
        shutil.move(copy, part)
        here.server.start()
        if whole:
            world.wait_for(lambda: _GOES_ON in scene.log.read_text(), "the feeder says that it goes on", 60)
            scene.initial = states(here)
            scene.sink.received.clear()
        took = scene.caught_up()
        scene.write(size.changes)
        scene.caught_up()
        said = scene.log.read_text().count(_GOES_ON)
        if said > 1 or (whole and said != 1):
            raise world.Late(f"said {said} times that the binlog does not go on")
        found = len(scene.recovered())
        return (f"went on from now, said {said} time(s), and told every change since" if whole
                else f"told {found} beads as recovered {took:.1f} s after, and every change since")  # fmt: skip

    return _scene(here, chance, size.beads, f"{'the server' if whole else 'the beads'} restored from a backup", play)


def foreign_position(here: World, chance: random.Random, size: Size) -> Check:
    """The stored position is another server's."""

    def play(scene: Scene) -> str:
        scene.write(size.changes)
        scene.caught_up()
        scene.stop()
        position = "11111111-2222-3333-4444-555555555555:1-77"
        here.sql(f"UPDATE {store.STATE_DATABASE}.positions SET gtid_set = %s", position)
        scene.write(size.changes)
        scene.start()
        took = scene.caught_up()
        said = scene.log.read_text().count(_GOES_ON)
        if said != 1:
            raise world.Late(f"said {said} times that the binlog does not go on")
        return (
            f"went on from now, said once, {size.changes} changes told as {len(scene.recovered())}, {took:.1f} s after"
        )

    return _scene(here, chance, size.beads, "the stored position is another server's", play)


def _peak_mb(feeder: Feeder) -> float:
    """The most memory that a process has had so far, in MB."""
    status = pathlib.Path(f"/proc/{feeder.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found.group(1)) / 1024 if found else 0.0
