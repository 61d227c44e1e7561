"""The feed's position: found at the start, and stored as it advances, with how each bead was published last."""

import threading
import time
import uuid
from collections.abc import Callable

from beads_dispatch import log, store
from beads_dispatch.log import Action
from feeder import ownership, preflight
from feeder.binlog import Position
from feeder.emitter import Backoff
from feeder.health import HealthState

logger = log.get("feeder")

BUSY_SECONDS = 0.5  # after an event was published: a crash repeats at most what was published in this time
QUIET_SECONDS = 60.0  # after transactions without an event: a restart reads at most this much again
_POLL_SECONDS = 0.25
_LOGGED = 100_000  # beads between two lines about the progress of a first start


def wait_for_position(
    beads: store.Store, health: HealthState, stop: threading.Event, owner: ownership.Owner | None = None
) -> str | None:
    """Wait for Dolt, check its settings, make `owner` the feed's only feeder, return the stored position (a GTID set);
    None when `stop` is set first.

    Raises preflight.Unfit, store.NewerLayout, ownership.Taken.
    """
    backoff = Backoff()
    while not stop.is_set():
        health.touch()
        try:
            position = _position(beads, health, owner)
        except store.NewerLayout:
            raise
        except store.StoreError as exc:
            stop.wait(backoff.failed(f"{exc}; waiting for it", Action.FEED_DOWN, refused=exc.refused))
        else:
            if backoff.reset():
                logger.warning("Dolt is back", extra=log.context(action=Action.DOLT_UP))
            return position
    return None


def _position(beads: store.Store, health: HealthState, owner: ownership.Owner | None) -> str | None:
    preflight.require(beads.server.variables())
    beads.require_layout()
    if owner and not owner.take():
        return None
    stored = beads.feed_state.position()
    if restore(beads, stored, health):
        logger.info("no stored position, starting from now", extra=log.context(action=Action.POSITION))
    if owner:
        owner.report()
    return beads.feed_state.position()


def restore(beads: store.Store, gtid_set: str | None, health: HealthState) -> bool:
    """Make our database and the feed's state in it where they are missing; whether the state was.

    The feed then goes on from `gtid_set`, or from now, and every bead counts as published as it is now. So do those of
    a database that the feed begins to serve. Raises StoreError.
    """
    whole = beads.feed_state.prepare()
    lost = not whole or beads.feed_state.position() is None
    beads.each(lambda one: begin(one, gtid_set, health.touch, anew=not whole))
    if lost:
        beads.feed_state.start_position(gtid_set or beads.feed_state.executed())
    return lost


def begin(beads: store.Store, start: str | None, touch: Callable[[], None], *, anew: bool = False) -> None:
    """Every bead of a database counts as published as it is now, unless it has begun: a database may have been served
    before, by a feeder of its own. `touch` is called meanwhile. Raises StoreError."""
    if not anew and beads.feed_state.has_begun():
        return
    logged = 0

    def progress(number: int) -> None:
        nonlocal logged
        touch()
        if number >= logged + _LOGGED:
            logged = number
            text = f"{number} beads count as published as they are now"
            logger.info(text, extra=log.context(action=Action.POSITION))

    beads.feed_state.begin(start or beads.feed_state.executed(), f"start-{uuid.uuid4()}", progress)


class Checkpointer:
    """Stores the newest position, no more often than needed, so that the feed is not delayed.

    `run` needs a thread of its own; the other methods may be called from any.
    """

    def __init__(
        self, beads: store.Store, gtid_set: str, health: HealthState, beat: Callable[[], store.Beat] | None = None
    ) -> None:
        """`beads` is its own; `gtid_set` is the stored position; `beat`: what the feeder reports with it."""
        self._beads = beads
        self._health = health
        self._beat = beat
        self._beat_at = time.monotonic() + store.BEAT_SECONDS if beat else float("inf")  # when one is due alone
        self._lock = threading.Lock()
        self._saving = threading.Lock()  # one connection, and the order of what is stored
        self.gtid_set = self._stored = gtid_set  # published so far; stored so far
        self._states: dict[tuple[str, str], store.PublishedState | None] = {}  # not stored yet
        self._was_reset = False
        self._due = float("inf")
        self._unstored_since: float | None = None  # by time.monotonic; None when everything is stored

    def advance(self, gtid_set: str, states: store.Published, *, published: bool) -> None:
        """Everything in `gtid_set` is published, and `states` is how beads were published in it.

        Only call this at the end of a transaction. `published`: whether an event was sent for it.
        """
        with self._lock:
            self.gtid_set = gtid_set
            self._states.update(states)
            self._unstored_since = self._unstored_since or time.monotonic()
            self._due = min(self._due, time.monotonic() + (BUSY_SECONDS if published else QUIET_SECONDS))

    def pass_over(self, gtid_set: str) -> None:
        """As advance, for what only a transaction of our own adds to it: that is stored with the next beat."""
        with self._lock:
            self.gtid_set = gtid_set

    def reset(self, gtid_set: str) -> None:
        """Begin again from a position that may be before the stored one, after a gap."""
        with self._lock:
            self.gtid_set, self._was_reset, self._due = gtid_set, True, 0.0

    def run(self, stop: threading.Event) -> None:
        """Store the position as it advances, until `stop` is set; then once more."""
        while not stop.wait(_POLL_SECONDS):
            if time.monotonic() >= min(self._due, self._beat_at):
                self.try_save()
            self._health.unstored_since = self._unstored_since
        self.try_save()

    def try_save(self) -> None:
        """As save; when Dolt is away, which the feed logs, the changes are published again after a restart."""
        try:
            self.save()
        except store.StoreError as exc:
            logger.debug(str(exc), extra=log.context(action=Action.POSITION))

    def save(self) -> None:
        """Store what is not stored yet. Raises StoreError; `run` then tries again."""
        with self._saving:
            with self._lock:
                gtid_set, states, was_reset, since = self.gtid_set, self._states, self._was_reset, self._unstored_since
                self._states, self._was_reset, self._due, self._unstored_since = {}, False, float("inf"), None
            if gtid_set == self._stored and not states and time.monotonic() < self._beat_at:
                return
            try:
                self._store(gtid_set, states, was_reset=was_reset)
            except BaseException:  # whatever it was: a position without these states would publish the changes again
                with self._lock:
                    self._states = {**states, **self._states}
                    self._was_reset = self._was_reset or was_reset
                    self._unstored_since = since
                    self._due = min(self._due, time.monotonic() + BUSY_SECONDS)
                    self._beat_at = max(self._beat_at, self._due)
                raise
            self._stored = gtid_set
            if self._beat:
                self._beat_at = time.monotonic() + store.BEAT_SECONDS

    def _store(self, gtid_set: str, states: store.Published, *, was_reset: bool) -> None:
        position = Position(gtid_set)
        self._beads.refresh()  # a connection that died in an outage would make a second one of it
        self._beads.feed_state.set_position(
            gtid_set,
            states,
            lambda stored: was_reset or position.covers(stored),
            self._beat() if self._beat else None,
        )
