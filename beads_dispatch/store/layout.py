"""The tables of `beads_dispatch`, their version, and how those of an older version are brought to it.

Tables and columns are added, so that an older version can be rolled back to. Where that is not possible, OLDEST says
which versions can still use them.
"""

from dataclasses import dataclass

from beads_dispatch.store import feeders
from beads_dispatch.store.errors import NewerLayout
from beads_dispatch.store.session import STATE_DATABASE, Session

VERSION = 2  # 1: that of 0.1.0, which had no table `layout`
OLDEST = 1  # the layout that a feeder or a function must know at least to work with this one

# `feed` is DoltSettings.feed: several databases may share a server, and several deployments a database.
_TABLES = (
    "positions (feed VARCHAR(64) PRIMARY KEY, gtid_set LONGTEXT NOT NULL)",
    "seen (feed VARCHAR(64), bead VARCHAR(255), assignee VARCHAR(255) NOT NULL, status VARCHAR(64) NOT NULL,"
    " event VARCHAR(255) NOT NULL, PRIMARY KEY (feed, bead))",
    "switches (feed VARCHAR(64), name VARCHAR(16), suspended BOOLEAN NOT NULL, PRIMARY KEY (feed, name))",
    "agent_holds (feed VARCHAR(64), agent VARCHAR(255), failures INT NOT NULL, held_until DATETIME,"
    " reason VARCHAR(255) NOT NULL, PRIMARY KEY (feed, agent))",
    feeders.TABLE,
    feeders.TICKS,
    "deaths (feed VARCHAR(64) PRIMARY KEY, gtid_set LONGTEXT NOT NULL, large VARCHAR(64) NOT NULL,"
    " number INT NOT NULL)",
    "held (feed VARCHAR(64), name VARCHAR(255), since DATETIME NOT NULL, PRIMARY KEY (feed, name))",
    "suspended (feed VARCHAR(64), name VARCHAR(16), since DATETIME NOT NULL, PRIMARY KEY (feed, name))",
    "turns (feed VARCHAR(64), agent VARCHAR(255), served VARCHAR(255) NOT NULL, PRIMARY KEY (feed, agent))",
    "layout (id INT PRIMARY KEY, version INT NOT NULL, oldest INT NOT NULL)",
)
STATE_TABLES = frozenset(table.split()[0] for table in _TABLES)

# What brings the rows of the version before to each version, with the table that it reads.
_MIGRATIONS = {
    2: (
        "holds",  # of one agent, which 0.1.0 called `agent` unless it was told otherwise
        "INSERT IGNORE INTO {state}.agent_holds (feed, agent, failures, held_until, reason)"
        " SELECT feed, 'agent', failures, held_until, reason FROM {state}.holds",
    ),
}


@dataclass(frozen=True)
class StateLayout:
    """What `beads_dispatch` says of its own tables."""

    version: int
    oldest: int

    @property
    def is_usable(self) -> bool:
        """Whether this version can work with them."""
        return self.oldest <= VERSION


def read(session: Session) -> StateLayout | None:
    """None where no version is stored: the tables of 0.1.0, or none. Raises StoreError."""
    for row in session.state_rows("SELECT version, oldest FROM {state}.layout WHERE id = 1"):
        return StateLayout(row["version"], row["oldest"])
    return None


def require(session: Session) -> None:
    """Raises NewerLayout where a newer version changed `beads_dispatch` so that this one cannot use it; StoreError."""
    found = read(session)
    if found and not found.is_usable:
        raise NewerLayout(
            f"{STATE_DATABASE} has layout {found.version}, made by a newer version of the feeder: it needs one that"
            f" knows layout {found.oldest} at least, and this one knows {VERSION}. Run the newer version again."
        )


def prepare(session: Session, found: frozenset[str]) -> None:
    """Make the tables that are missing, `found` being those that are there, and bring their rows to this version. A
    newer version's stay as they are. Raises StoreError."""
    for table in _TABLES:
        if table.split()[0] not in found:
            session.rows(f"CREATE TABLE IF NOT EXISTS {STATE_DATABASE}.{table}")
    stored = read(session)
    known = stored.version if stored else 1
    if stored and known >= VERSION:
        return
    for version, (table, statement) in _MIGRATIONS.items():
        if version > known and table in found:
            session.rows(statement.format(state=STATE_DATABASE))
    params = {"version": VERSION, "oldest": OLDEST}
    session.rows(
        f"REPLACE INTO {STATE_DATABASE}.layout (id, version, oldest) VALUES (1, %(version)s, %(oldest)s)", params
    )
