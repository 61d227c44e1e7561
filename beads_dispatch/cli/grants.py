"""What a database user may do, beside what it needs: for the users of knative/users.sql all that the file grants them,
for all others what the commands read."""

import re
from collections.abc import Iterator, Mapping, Sequence

from beads_dispatch.store.server import Privilege, ServerReads
from beads_dispatch.store.server_check import Finding

# As in users.sql, where `beads` stands for the beads' database.
NEEDED: Mapping[str, Sequence[str]] = {
    "beads-feeder": (
        "REPLICATION SLAVE ON *.*",
        "SELECT ON `beads`.*",
        "SELECT, INSERT, UPDATE, DELETE, CREATE ON `beads_dispatch`.*",
    ),
    "beads-dispatch": (
        "SELECT ON `beads`.*",
        "UPDATE ON `beads`.`issues`",
        "INSERT ON `beads`.`events`",
        "EXECUTE ON PROCEDURE `beads`.`dolt_add`",
        "EXECUTE ON PROCEDURE `beads`.`dolt_commit`",
        "SELECT ON `beads_dispatch`.`switches`",
        "SELECT ON `beads_dispatch`.`layout`",
        "SELECT ON `beads_dispatch`.`feeders`",
        "SELECT, INSERT, UPDATE ON `beads_dispatch`.`agent_holds`",
        "SELECT, INSERT, UPDATE ON `beads_dispatch`.`turns`",
    ),
    "beads-reap": (
        "SELECT ON `beads`.*",
        "UPDATE ON `beads`.`issues`",
        "INSERT ON `beads`.`events`",
        "EXECUTE ON PROCEDURE `beads`.`dolt_add`",
        "EXECUTE ON PROCEDURE `beads`.`dolt_commit`",
        "SELECT, UPDATE ON `beads_dispatch`.`feeders`",
        "SELECT ON `beads_dispatch`.`switches`",
        "SELECT ON `beads_dispatch`.`layout`",
        "SELECT, INSERT, UPDATE ON `beads_dispatch`.`agent_holds`",
    ),
    "beads-operator": ("SELECT ON `beads`.*", "SELECT ON `beads_dispatch`.*"),
}
_READER = NEEDED["beads-operator"]
_GRANT = re.compile(r"(?P<names>.+) ON (?P<procedure>PROCEDURE )?`?(?P<db>[^`]+?)`?\.`?(?P<part>[^`]+)`?")


def check(server: ServerReads, database: str) -> Finding:
    """Whether the user of a connection may do what it has to. Raises StoreError."""
    account, held = server.privileges()
    user, _, host = account.rpartition("@")
    role = next((role for role in NEEDED if user == role or user.startswith(f"{role}-")), "")
    missing = list(_missing(server, NEEDED.get(role, _READER), held, database))
    return Finding(
        "grants",
        not missing,
        f"{account} may not: {'; '.join(missing)}" if missing else f"{account} may do what it has to",
        f"all that knative/users.sql grants to {role}" if role else "to read the beads and the state",
        "As an administrator run " + " ".join(f"GRANT {one} TO '{user}'@'{host}';" for one in missing),
    )


def _missing(server: ServerReads, needed: Sequence[str], held: frozenset[Privilege], database: str) -> Iterator[str]:
    for text in needed:
        grant = text.replace("`beads`", f"`{database}`")
        found = _GRANT.fullmatch(grant)
        assert found
        db, part = found["db"], found["part"]
        if found["procedure"]:
            holds = server.may_call(part)
        else:
            holds = all(
                any((name, *where) in held for where in (("*", "*"), (db, "*"), (db, part)))
                for name in found["names"].split(", ")
            )
        if not holds:
            yield grant
