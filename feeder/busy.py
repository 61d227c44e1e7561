"""In which of several databases an agent may have beads: the look whether a pass is worth it asks those alone."""

import threading
from collections.abc import Collection


class BusyDatabases:
    """Of one agent. The request feed adds each database in which it sees a bead of the agent change: so none is
    missing, and some may be there that have none any more. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: frozenset[str] | None = None
        self._added: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str] | None:
        """None: it is not known, and all are to be asked."""
        with self._lock:
            return None if self._names is None else self._names | self._added

    def add(self, database: str) -> None:
        """A bead of the agent changed there."""
        with self._lock:
            self._added |= {database}

    def forget(self) -> None:
        """Changes may have been missed."""
        with self._lock:
            self._names = None

    def begin(self) -> None:
        """All are about to be asked: what is added from here on, the answer may not have."""
        with self._lock:
            self._added = frozenset()

    def know(self, names: Collection[str]) -> None:
        """All were asked, and these have beads of the agent."""
        with self._lock:
            self._names = frozenset(names)
