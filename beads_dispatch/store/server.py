"""The Dolt server itself, as the feeder's preflight and `beads-dispatch doctor` look at it."""

import re
from dataclasses import dataclass
from datetime import datetime

from beads_dispatch.store.errors import StoreError
from beads_dispatch.store.session import STATE_DATABASE, ReadSession

_TEXT = re.compile(r"'(?:[^'\\]|''|\\.)*'")  # in SHOW CREATE TABLE: a default, a comment
_VIRTUAL = re.compile(r"^\s*`(.+)` (?!.*\) STORED).* GENERATED ALWAYS AS \(", re.MULTILINE)
# Dolt keeps the values of a functional index in a hidden column.
_FUNCTIONAL = (
    "SELECT DISTINCT table_schema AS db, table_name AS name, index_name AS part FROM information_schema.statistics"
    " WHERE column_name LIKE '!hidden!%'"
)
_TABLES = (
    "SELECT table_schema AS db, table_name AS name FROM information_schema.tables"
    " WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ('information_schema', 'mysql')"
)
# Dolt refuses SHOW GRANTS to whom it has not granted everything; these show each user their own.
_PRIVILEGES = (
    "SELECT privilege_type AS name, '*' AS db, '*' AS part FROM information_schema.user_privileges"
    " WHERE grantee = %(grantee)s UNION SELECT privilege_type, table_schema, '*'"
    " FROM information_schema.schema_privileges WHERE grantee = %(grantee)s UNION SELECT privilege_type, table_schema,"
    " table_name FROM information_schema.table_privileges WHERE grantee = %(grantee)s"
)

_REMOTES = "SELECT name FROM dolt_remotes ORDER BY name"

Privilege = tuple[str, str, str]  # its name, the database and the table; * for all of them


@dataclass(frozen=True)
class ServerState:
    """What a preflight warns of. Of tables only those are seen that the user may read."""

    version: str
    local: datetime  # NOW(), naive
    utc: datetime  # UTC_TIMESTAMP(), naive
    file_folder: str  # secure_file_priv
    virtual_columns: tuple[str, ...]
    functional_indexes: tuple[str, ...]
    remotes: tuple[str, ...]  # the names; a URL may hold credentials


class ServerReads:
    """Queries on the server. Every method raises StoreError."""

    def __init__(self, session: ReadSession) -> None:
        self._session = session

    def variables(self) -> dict[str, str]:
        """The server's version, its binlog settings, and the branch of the database."""
        names = ("log_bin", "gtid_mode", "enforce_gtid_consistency", "binlog_row_metadata", "log_bin_branch")
        row = self._session.rows(
            # No database, no branch: of several databases each has its own.
            "SELECT dolt_version() AS dolt_version, COALESCE(active_branch(), @@global.log_bin_branch) AS branch, "
            + ", ".join(f"@@global.{name} AS {name}" for name in names)
        )[0]
        return {name: str(value) for name, value in row.items()}

    def state(self) -> ServerState:
        """A statement for each table that the user may read, some 20 ms for a workspace's."""
        row = self._session.rows(
            "SELECT dolt_version() AS version, @@global.secure_file_priv AS folder, NOW() AS here,"
            " UTC_TIMESTAMP() AS utc"
        )[0]
        return ServerState(
            version=row["version"],
            local=row["here"],
            utc=row["utc"],
            file_folder=row["folder"] or "",
            virtual_columns=tuple(self._virtual_columns()),
            functional_indexes=tuple(_full_name(one) for one in self._session.rows(_FUNCTIONAL)),
            remotes=tuple(row["name"] for row in self._session.rows(_REMOTES)) if self._session.dolt.database else (),
        )

    def privileges(self) -> tuple[str, frozenset[Privilege]]:
        """This connection's account, `beads-reap@%`, and what it may do; procedures aside."""
        account = str(self._session.rows("SELECT CURRENT_USER() AS account")[0]["account"])
        user, _, host = account.rpartition("@")
        found = self._session.rows(_PRIVILEGES, {"grantee": f"'{user}'@'{host}'"})
        return account, frozenset((row["name"], row["db"], row["part"]) for row in found)

    def may_call(self, procedure: str) -> bool:
        """Whether one of Dolt's procedures may be called. It is called with an option that it does not have."""
        try:
            self._session.rows(f"CALL {procedure}('--no-such-option')")
        except StoreError as exc:
            return exc.refused and "no-such-option" in str(exc)
        return True

    def tables(self, database: str) -> frozenset[str]:
        """The tables of a database; none where there is no such database."""
        sql = "SELECT table_name AS name FROM information_schema.tables WHERE table_schema = %(database)s"
        return frozenset(row["name"] for row in self._session.rows(sql, {"database": database}))

    def run(self, statement: str) -> None:
        """Run a statement of server_check.Finding."""
        self._session.rows(statement)

    def _virtual_columns(self) -> list[str]:
        found = []
        for table in self._session.rows(_TABLES):
            if table["db"] == STATE_DATABASE:
                continue
            # information_schema does not say which columns are generated.
            name = ".".join(f"`{part.replace('`', '``')}`" for part in (table["db"], table["name"]))
            text = self._session.rows(f"SHOW CREATE TABLE {name}")[0]["Create Table"]
            found += [_full_name({**table, "part": column}) for column in _VIRTUAL.findall(_TEXT.sub("''", text))]
        return found


def _full_name(row: dict[str, str]) -> str:
    return f"{row['db']}.{row['name']}.{row['part']}"
