"""Counts the deaths of feeders at the same position, so that no transaction can end one feeder after the other.

What Python raises, the feed notices by itself. A kill by the kernel (out of memory, a fault in a library) only leaves
that no clean stop was stored. At fault is then a large transaction that had been begun, after two deaths. Without one
any may be, after many deaths: feeders die for other reasons too, and of what is passed over only the net change is
published.
"""

from dataclasses import replace

from beads_dispatch import store
from feeder import metrics

AT_LARGE = 2  # deaths
AT_ANY = 10  # deaths; Kubernetes takes half an hour for so many


class DeathCounter:
    """One row in Dolt: written at the start and for each large transaction, removed by a clean stop. For one thread;
    every method raises StoreError."""

    def __init__(self, beads: store.Store) -> None:
        """`beads` is its own."""
        self._beads = beads
        self._deaths: store.Deaths | None = None  # as stored

    def begin(self, position: str) -> store.Deaths | None:
        """A feeder begins to read at the stored position: returns the deaths there where they are too many.

        Only the first call counts.
        """
        if self._deaths is not None:
            return None
        found = self._beads.feed_state.deaths()
        if found is None:
            deaths = store.Deaths(position)
        elif found.gtid_set == position:
            deaths = replace(found, number=found.number + 1)
        else:
            deaths = store.Deaths(position, number=1)
        self._store(deaths)
        metrics.DEATHS.set(deaths.number)
        return deaths if deaths.number >= (AT_LARGE if deaths.large else AT_ANY) else None

    def large(self, gtid: str, position: str) -> None:
        """A large transaction is about to be read; the position before it is stored."""
        known = self._deaths or store.Deaths(position)
        number = known.number if known.gtid_set == position else 0
        if known != (deaths := store.Deaths(position, gtid, number)):
            self._store(deaths)

    def caught_up(self) -> None:
        """Everything that there was at the start has been read: it is no cause of death."""
        if self._deaths and self._deaths.number:
            self._store(replace(self._deaths, number=0, large=""))

    def stopped(self) -> None:
        """The feeder ends as it should."""
        self._beads.feed_state.forget_deaths()

    def _store(self, deaths: store.Deaths) -> None:
        self._beads.feed_state.set_deaths(deaths)
        self._deaths = deaths
