"""What an agent that takes a text is asked to do. A bead's text is never part of it: its id is, and the agent reads the
bead with bd."""

import re
import shlex

from beads_dispatch.agents import Refused
from beads_dispatch.settings import AgentSettings

_DEFAULT = """\
Work on the bead {bead}. Run bd with BEADS_ACTOR={agent} in its environment, or bd refuses what you write.
Read the bead with `bd show {bead}`: its acceptance criteria say when it is done.
Note what you do with `bd note {bead} TEXT`. When it is done: `bd close {bead}`.
When you cannot go on: note why, then `bd update {bead} --status blocked`. Nobody answers questions meanwhile.
"""
_ID = re.compile(r"\w[\w.:-]{0,254}")  # people may give ids of their own; one with spaces could be a text


def for_bead(agent: AgentSettings, bead: str) -> str:
    """The agent's option `prompt`, or ours, about that bead. Raises Refused where the id is no single word."""
    if not _ID.fullmatch(bead):
        raise Refused(0, "the bead's id is not a single word, and becomes part of no prompt", counts=True)
    text: str = agent.options.get("prompt", _DEFAULT)
    return text.replace("{bead}", bead).replace("{agent}", shlex.quote(agent.name))
