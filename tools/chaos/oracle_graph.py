"""A set of beads that depend on each other, made with the real bd, and the commands that made it.

What bd refuses is as good as what it takes: the refusal is noted beside the command.
"""

import itertools
import random
import shlex
from datetime import UTC, datetime, timedelta

from local.workspace import BdError
from tools.database import AGENT, BeadsDatabase

ACCEPTANCE = "It works."
CUSTOM_TYPES = "agent,convoy,event,gate,merge-request,message,molecule,rig,role,slot"
CUSTOM_STATUSES = "review:active,qa:wip,icebox:frozen,shipped:done"


_MAKE_NO_BEADS = ("dep", "update", "close", "reopen", "defer", "undefer")


class Graph:
    """One set of beads, the commands that made it, and bd's answers."""

    def __init__(self, database: BeadsDatabase, name: str, chance: random.Random, *, newest: bool) -> None:
        self.name = name  # beads' ids begin with it
        self.chance = chance
        self.newest = newest  # bd 1.3.0: it has commands and flags that 1.0.2 lacks
        self.commands: list[str] = []
        self.refused = 0
        self.beads: list[str] = []
        self._database = database
        self._others = set(self._read())
        self._numbers = itertools.count(1)

    def bd(self, *arguments: str) -> None:
        """Run a command; note it, the beads that it made, and what it said where it refused."""
        line = shlex.join(("bd", *arguments))
        try:
            self._database.workspace.run(*arguments, actor=AGENT)
        except BdError as exc:
            self.refused += 1
            said = next((each for each in str(exc).splitlines() if "rror" in each), str(exc).partition("\n")[0])
            line += f"  # refused: {said[:120]}"
        made = [] if arguments[0] in _MAKE_NO_BEADS else self._made()
        self.commands.append(line + (f"  # made {', '.join(made)}" if made else ""))

    def file(self, name: str, text: str) -> str:
        """Write a file for a command to read, in the folder where bd runs; returns its name."""
        path = self._database.workspace.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        self.commands.append(f"cat >{name} <<'EOF'\n{text}\nEOF")
        return name

    def finish(self) -> None:
        """Give the agent what it lacks of these beads, so that nothing of ours keeps it from them."""
        lack = (
            "SELECT id FROM issues WHERE COALESCE(is_template, 0) = 0"  # nobody may change a template
            " AND (COALESCE(assignee, '') <> %s OR acceptance_criteria = '')"
        )
        beads = [row["id"] for row in self._database.sql(lack, AGENT) if row["id"] in self.beads]
        if beads:
            self.bd("update", *beads, "--assignee", AGENT, "--acceptance", ACCEPTANCE)

    def bead(self) -> str:
        """Any of the beads."""
        return self.chance.choice(self.beads)

    def two(self) -> tuple[str, str]:
        """Two of the beads; the same one twice where there is no other."""
        one, other = self.chance.sample(self.beads * 2 if len(self.beads) < 2 else self.beads, 2)
        return one, other

    def some(self) -> list[str]:
        """One to three of the beads."""
        return self.chance.sample(self.beads, min(len(self.beads), self.chance.randint(1, 3)))

    def new_id(self) -> str:
        return f"{self.name}{next(self._numbers):x}"

    def date(self) -> str:
        """A day ago, or in a day."""
        moment = datetime.now(UTC) + timedelta(days=self.chance.choice((-1, 1)))
        return f"{moment:%Y-%m-%dT%H:%M:%SZ}"

    def one_in(self, number: int) -> bool:
        return self.chance.randrange(number) == 0

    def _made(self) -> list[str]:
        """The beads that are there now and were not, by their titles: bd chooses ids at random."""
        there = self._read()
        made = sorted(set(there) - self._others - {*self.beads}, key=lambda bead: (there[bead], bead))
        self.beads = [bead for bead in self.beads if bead in there] + made
        return made

    def _read(self) -> dict[str, str]:
        """Ids and titles of all beads, in whichever table."""
        rows = self._database.sql("SELECT id, title FROM issues UNION ALL SELECT id, title FROM wisps")
        return {row["id"]: row["title"] for row in rows}


def prepare(database: BeadsDatabase) -> None:
    """Have a workspace take all types and some statuses of its own."""
    database.workspace.run("config", "set", "types.custom", CUSTOM_TYPES)
    database.workspace.run("config", "set", "status.custom", CUSTOM_STATUSES)
