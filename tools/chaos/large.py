"""Large transactions, and events that the sink does not take: no request waits for them, memory stays bounded, and each
change is published."""

import contextlib
import functools
import random
import re
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from beads_dispatch import events
from tools.bench import resource_usage
from tools.chaos import checks
from tools.chaos.checks import Check
from tools.chaos.feeders import dispatch
from tools.database import insert_rows
from tools.servers import Agent, Behaviour, Sink, accepted, answers, hangs_up
from tools.world import Feeder, TimedOut, World, meanwhile, wait_for

check = functools.partial(checks.check, "large")

PEAK_MIB = 128
SOON_SECONDS = 2.0  # from an assignment to the POST, whatever else is published
_TEXT = "0123456789" * 300  # 3 KB
_BUSY_SECONDS = 10.0  # in place of SOON_SECONDS in the short form, which runs beside other tests
_HUGE_SECONDS = 5.0  # in place of it right after a huge transaction, which Dolt is still writing to its log
DEADLY = "deadly"  # the beads at which tools.chaos.dying_feeder is killed


@dataclass(frozen=True)
class LargeSize:
    beads: int  # of a transaction
    too_many: int  # beads of a transaction that is passed over; one in ten changes its assignee
    hang_seconds: float
    soon_seconds: float


SHORT = LargeSize(beads=2000, too_many=0, hang_seconds=5, soon_seconds=_BUSY_SECONDS)
FULL = LargeSize(beads=40_000, too_many=110_000, hang_seconds=300, soon_seconds=SOON_SECONDS)


def run(here: World, _: random.Random, *, short: bool) -> Iterator[Check]:
    size = SHORT if short else FULL
    yield one_transaction(here, size)
    yield subscriber_hangs(here, size)
    yield deadly(here)
    if not short:
        yield refused(here, size)
        yield too_many(here, size)


class LargeScene:
    """A feeder, a sink, and a dispatcher that runs a pass for each request."""

    def __init__(self, here: World, sink: Sink, agent: Agent, feeder: Feeder) -> None:
        self.here = here
        self.sink = sink
        self.agent = agent
        self.feeder = feeder
        self._assigned = 0

    def assign(self, seconds: float) -> float:
        """Assign a bead to the agent; returns the seconds until it is POSTed, or those in which it was not."""
        self._assigned += 1
        bead = f"assigned-{self._assigned}"
        self.here.insert([bead])
        began = time.time()
        try:
            return self.agent.wait_for(bead, seconds) - began
        except TimedOut:
            return seconds

    def published(self, prefix: str) -> list[str]:
        """The beads whose change events arrived, with repeats."""
        found = [str(event.subject) for event in self.sink.of_type(events.ISSUE_CHANGED)]
        return [bead for bead in found if bead.startswith(prefix)]

    def peak(self) -> float:
        """The most memory that the feeder held, MiB."""
        return resource_usage.rss_mib(self.feeder.pid, "VmHWM")


@contextlib.contextmanager
def scene(here: World, before: Callable[[], object] = lambda: None) -> Iterator[LargeScene]:
    """`before`: called before the feeder starts."""
    here.empty()
    before()
    with Sink() as sink, Agent() as agent, here.feeder(sink.url) as feeder:
        feeder.wait_until_reading()
        with meanwhile(functools.partial(dispatch, here, sink, agent)):
            yield LargeScene(here, sink, agent, feeder)


def in_one_transaction(here: World, prefix: str, number: int, text: str = "", assignee: str = "bob") -> None:
    """Insert so many beads in one transaction."""
    columns = ("id", "title", "description", "design", "acceptance_criteria", "notes", "assignee")
    rows = [(f"{prefix}-{index:06}", "a bead", text, "", "It works.", "", assignee) for index in range(number)]
    with here.cursor(init_command="SET foreign_key_checks = 0") as cursor:
        cursor.execute("BEGIN")
        insert_rows(cursor, "issues", columns, rows)
        cursor.execute("COMMIT")


def one_transaction(here: World, size: LargeSize) -> Check:
    """An import with long texts, and then a change of a tenth of its beads."""
    broken: list[str] = []
    with scene(here) as played:
        before = played.peak()
        in_one_transaction(here, "import", size.beads, _TEXT)
        began = time.monotonic()
        soon = [played.assign(60)]  # while Dolt still writes the transaction to its log
        wait_for(lambda: played.published("import"), "the first change is published", 300)
        while len(played.published("import")) < size.beads:
            soon.append(played.assign(60))
            time.sleep(0.2)
        again = size.beads // 10
        here.sql("UPDATE issues SET assignee = 'carol' WHERE id LIKE 'import-%%' AND id < %s", f"import-{again:06}")
        soon.append(played.assign(60))
        wait_for(lambda: len(played.published("import")) >= size.beads + again, "each change is published", 1200)
        took, peak = time.monotonic() - began, played.peak()
        twice = [bead for bead in played.published("import") if bead < f"import-{again:06}"]
        once = [bead for bead in played.published("import") if bead >= f"import-{again:06}"]
        broken += _other_than(2, again, twice) + _other_than(1, size.beads - again, once)
        broken += _too_late(soon[:1], _after_commit(size)) + _too_late(soon[1:], size)
        broken += [] if peak < PEAK_MIB else [f"the feeder's peak is {peak:.0f} MiB, wanted below {PEAK_MIB}"]
        broken += [f"{event.id} is no change of the log's" for event in played.sink.received if is_recovered(event)]
    figures = (
        f"{size.beads} beads with 3 KB, and a change of {again}: published once each in {took:.0f} s; feeder's peak"
        f" {before:.0f} MiB before, {peak:.0f} MiB after; an assignment right after the commit POSTed after"
        f" {soon[0]:.1f} s, {len(soon)} until the end after {_delays(soon)}"
    )
    return check("one large transaction", figures, broken)


def subscriber_hangs(here: World, size: LargeSize) -> Check:
    """No change event is answered for a while."""
    released = threading.Event()

    def hangs(handler: object) -> None:
        released.wait()
        hangs_up(handler)  # type: ignore[arg-type]

    soon = []
    with scene(here) as played:
        played.sink.choose = _for_changes(lambda event: hangs)
        until = time.monotonic() + size.hang_seconds
        while time.monotonic() < until:
            soon.append(played.assign(60))
            time.sleep(min(5, size.hang_seconds / 5))
        released.set()
        played.sink.choose = lambda event: accepted
        # Each was created assigned, became in progress by its claim, and both are changes.
        wait_for(lambda: len(set(played.published("assigned"))) == len(soon), "the changes are published", 120)
    figures = f"{len(soon)} assignments in {size.hang_seconds:g} s, POSTed after {_delays(soon)}"
    return check("a subscriber of change events hangs", figures, _too_late(soon, size))


def refused(here: World, size: LargeSize) -> Check:
    """The sink answers 400 to one event for good."""
    with scene(here) as played:
        played.assign(60)  # what the first one after a start takes is another matter
        played.sink.choose = _for_changes(lambda event: answers(400) if event.subject == "refused" else accepted)
        here.insert(["refused"], assignee="bob")
        here.insert(["after"], assignee="bob")
        began = time.monotonic()
        soon = []
        while not played.published("after") and time.monotonic() < began + 240:
            soon.append(played.assign(60))
            time.sleep(2)
        took = time.monotonic() - began
        log = played.feeder.printed()
        broken = _too_late(soon, size)
        broken += [] if played.published("after") else ["the change after the refused one is not published"]
        broken += [] if "is passed over: the sink answered HTTP 400, 10 times in a row" in log else ["not logged"]
    figures = f"passed over after {took:.0f} s, {len(soon)} assignments meanwhile POSTed after {_delays(soon)}"
    return check("the sink refuses one event", figures, broken)


def deadly(here: World) -> Check:
    """A feeder that the kernel kills at a large transaction, whenever it reads that."""
    here.empty()
    log, deaths = here.log("feeder-dying"), 0
    command = ("-m", "tools.chaos.dying_feeder", *here.feeder_command[2:])
    with Sink() as sink:
        with here.feeder(sink.url, log=log, command=command) as feeder:
            feeder.wait_until_reading()
            in_one_transaction(here, DEADLY, 400, _TEXT)
            wait_for(lambda: not feeder.running, "the feeder is killed", 60)
        while deaths < 4 and not _events_about(sink, DEADLY):
            deaths += 1
            with here.feeder(sink.url, log=log, command=command) as feeder:
                wait_for(lambda: not feeder.running or _events_about(sink, DEADLY), "killed, or published", 120)
                if feeder.running:
                    wait_for(lambda: len(_events_about(sink, DEADLY)) == 400, "the net change is published", 120)
        printed = log.read_text(errors="replace")
        broken = [] if deaths == 2 else [f"{deaths} deaths"]
        server = here.sql("SELECT @@server_uuid AS id")[0]["id"]
        if not re.search(rf"the transaction {server}:\d+ is passed over: 2 feeders died while they read it", printed):
            broken.append(f"the jump is not logged with its GTID, but {printed[-2000:]}")
        found = _events_about(sink, DEADLY)
        broken += [] if all(event.extensions.get("recovered") for event in found) else ["not marked as recovered"]
    return check(
        "killed at a large transaction", f"passed over at the third start, {len(found)} changes published", broken
    )


def is_recovered(event: events.Event) -> bool:
    """Whether it was found by comparing: the feed has passed over the transaction itself."""
    return event.extensions.get("recovered") == "true"


def too_many(here: World, size: LargeSize) -> Check:
    """A transaction with more rows than are kept."""
    with scene(here, lambda: in_one_transaction(here, "many", size.too_many)) as played:
        here.sql(
            "UPDATE issues SET priority = 3, assignee = IF(id LIKE '%%0', 'carol', assignee) WHERE id LIKE 'many-%%'"
        )
        began, changed = time.monotonic(), size.too_many // 10
        soon = [played.assign(60)]
        wait_for(lambda: len(played.published("many")) >= changed, "the net change is published", 1200)
        took, peak = time.monotonic() - began, played.peak()
        broken = _other_than(1, changed, played.published("many"))
        broken += _too_late(soon, _after_commit(size))
        broken += [] if peak < PEAK_MIB else [f"the feeder's peak is {peak:.0f} MiB, wanted below {PEAK_MIB}"]
    figures = (
        f"{size.too_many} beads, the net change of {changed} published in {took:.0f} s, feeder's peak {peak:.0f} MiB;"
    )
    figures += f" an assignment right after it POSTed after {soon[0]:.1f} s"
    return check("a transaction with too many rows", figures, broken)


def _for_changes(choose: Callable[[events.Event], Behaviour]) -> Callable[[events.Event], Behaviour]:
    """How change events are answered; requests are accepted."""
    return lambda event: choose(event) if event.type == events.ISSUE_CHANGED else accepted


def _events_about(sink: Sink, prefix: str) -> list[events.Event]:
    return [event for event in sink.of_type(events.ISSUE_CHANGED) if str(event.subject).startswith(prefix)]


def _other_than(times: int, beads: int, published: list[str]) -> list[str]:
    """What is wrong where not each of so many beads was published so many times."""
    counts = Counter(published)
    broken = [f"{bead} has {count} events, expected {times}" for bead, count in counts.items() if count != times]
    return broken + ([] if len(counts) == beads else [f"{len(counts)} of {beads} beads have events"])


def _delays(soon: list[float]) -> str:
    return f"{statistics.median(soon):.1f} s in the middle, {max(soon):.1f} s at most"


def _after_commit(size: LargeSize) -> LargeSize:
    return replace(size, soon_seconds=max(size.soon_seconds, _HUGE_SECONDS))


def _too_late(soon: list[float], size: LargeSize) -> list[str]:
    return [f"an assignment was POSTed after {seconds:.1f} s" for seconds in soon if seconds > size.soon_seconds]
