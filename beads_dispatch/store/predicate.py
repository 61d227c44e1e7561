"""The predicate: the conditions that make a bead eligible, written once.

Each condition has a name. Those of `of_the_row` are SQL on a row `i` of `issues`; those of RELATIONS depend on other
beads, and relations.py reads them for a few beads at a time.
"""

from datetime import datetime
from typing import Any

from beads_dispatch import notes, settings
from beads_dispatch.bead import COUNT_DIGITS, RECORD_NUMBERS
from beads_dispatch.store.records import AHEAD, OURS
from beads_dispatch.store.schema import BdSchema
from beads_dispatch.store.session import naive

# What ECMAScript's trim() removes: BeadBoard refuses acceptance criteria that are blank after it. Spelled out,
# because \s means less in Dolt's pure-Go regular expressions than in its ICU ones.
NOT_BLANK = (
    "[^\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff]"
)

# The types that `bd ready` leaves out (bd's ReadyWorkExcludeTypes).
HIDDEN_TYPES = ("merge-request", "gate", "molecule", "rig", "agent", "role", "message")

# Of metadata only our record is read: the rest is people's, of any size and depth.
_DISPATCH = "JSON_EXTRACT(i.metadata, '$.dispatch')"
_RECORD_LIMIT = 4000  # characters; ours has a few hundred, and so short a text is not nested too deep to be read


def of_record(name: str) -> str:
    """SQL for a field of our record on a row `i`."""
    return f"JSON_UNQUOTE(JSON_EXTRACT(i.metadata, '$.dispatch.{name}'))"


# bd's hints on a bead, as columns `hint_<name>`; what is no text is none.
HINTS = ", ".join(
    f"IF(JSON_TYPE(JSON_EXTRACT(i.metadata, '$.execution_suggested_{name}')) = 'STRING',"
    f" LEFT(JSON_UNQUOTE(JSON_EXTRACT(i.metadata, '$.execution_suggested_{name}')), 100), NULL) AS hint_{name}"
    for name in settings.HINTS
)
ORDER = ("i.priority", "i.updated_at", "i.id")
# The columns for Bead.from_row.
BEAD = f"i.id, i.title, i.priority, i.status, i.assignee, i.updated_at, {_DISPATCH} AS dispatch"

BLOCKED = "blocked"  # a condition on the row where bd keeps it in a column, and on other beads where not
RELATIONS = (BLOCKED, "parent", "children")

RETRY_AT, REFUSED_AT = of_record("retry_at"), of_record("refused_at")
OUTAGES = f"COALESCE(CAST({of_record('outages')} AS SIGNED), 0)"
# How often somebody else than us and the agent changed the bead, by its audit rows.
CHANGES_BY_OTHERS = "(SELECT COUNT(*) FROM events e WHERE e.issue_id = i.id AND e.actor NOT IN %(ours)s)"
# An object that is short enough, with counts that are counts.
_USABLE = " AND ".join(
    (
        f"COALESCE(JSON_TYPE({_DISPATCH}), 'NULL') IN ('OBJECT', 'NULL')",
        f"COALESCE(CHAR_LENGTH({_DISPATCH}), 0) <= {_RECORD_LIMIT}",
        *(f"COALESCE({of_record(name)} REGEXP '^[0-9]{{1,{COUNT_DIGITS}}}$', TRUE)" for name in RECORD_NUMBERS),
    )
)
_MOMENT = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"  # as notes.timestamp writes it
# Few, because each costs a millisecond for 10,000 beads in the queue; the others are for those at its head.
_CHEAP = ("assignee", "status", BLOCKED)


def of_the_row(schema: BdSchema) -> dict[str, str]:
    """The conditions on the bead's own row, as SQL that is never NULL: those on columns first, then texts and JSON."""
    retry = f"COALESCE({RETRY_AT}, '') <= %(now_text)s"
    # A clock that is ahead wrote it. What is no moment is people's, and stays a delay that `explain` names.
    retry += f" OR ({RETRY_AT} > %(ahead)s AND {RETRY_AT} REGEXP '{_MOMENT}')"
    # Somebody changed it since it was refused, or assigned it again: it was fixed. Dolt keeps whole seconds, so a
    # change of the same second shows only in the number of their audit rows.
    retry += f" OR DATE_FORMAT(i.updated_at, '%%Y-%%m-%%dT%%H:%%i:%%sZ') > {REFUSED_AT}"
    if schema.events:
        retry += f" OR {CHANGES_BY_OTHERS} > CAST({of_record('others')} AS SIGNED)"
    found = {
        "assignee": "i.assignee = %(assignee)s",
        # No command of bd's returns a bead whose date has passed to open while a server holds the beads.
        # IN, because Dolt takes no index for the OR: half a second instead of 4 ms on 100,000 beads.
        "status": "i.status IN ('open', 'deferred')"
        " AND (i.status = 'open' OR COALESCE(i.defer_until <= %(now)s, FALSE))",
        "type": "i.issue_type NOT IN %(hidden_types)s",
        "pinned": "COALESCE(i.pinned, 0) = 0",
        "template": "COALESCE(i.is_template, 0) = 0",
        "ephemeral": "COALESCE(i.ephemeral, 0) = 0",
        "defer": "COALESCE(i.defer_until, %(now)s) <= %(now)s",
        "acceptance": "i.acceptance_criteria REGEXP %(not_blank)s",
        # A token has to be stored under metadata.dispatch; metadata that is a list or a text is a person's, and stays.
        "metadata": f"COALESCE(JSON_TYPE(i.metadata), 'NULL') IN ('OBJECT', 'NULL') AND {_USABLE}",
        "retry": f"COALESCE({retry}, FALSE)",
    }
    return {**found, BLOCKED: "i.is_blocked = 0"} if schema.is_blocked else found


def cheap(schema: BdSchema) -> tuple[str, str]:
    """SQL for the conditions that select the queue, and for the others."""
    found = of_the_row(schema)
    return (
        " AND ".join(sql for name, sql in found.items() if name in _CHEAP),
        " AND ".join(sql for name, sql in found.items() if name not in _CHEAP),
    )


def parameters(assignee: str, now: datetime) -> dict[str, Any]:
    """The values that the conditions refer to."""
    return {
        "assignee": assignee,
        "not_blank": NOT_BLANK,
        "hidden_types": HIDDEN_TYPES,
        "ours": (*OURS, assignee),
        "now": naive(now),
        "now_text": notes.timestamp(now),
        "ahead": notes.timestamp(now + AHEAD),
    }
