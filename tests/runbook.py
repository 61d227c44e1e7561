"""The commands of docs/runbook.md."""

import pathlib
import re

RUNBOOK = pathlib.Path(__file__).parents[1] / "docs" / "runbook.md"


def block(heading: str) -> str:
    """The shell block below a heading of the third level; there must be one and no more."""
    section = re.split(r"^#+ ", RUNBOOK.read_text().partition(f"### {heading}\n")[2], maxsplit=1, flags=re.M)[0]
    found = re.findall(r"^```sh\n(.*?)^```", section, flags=re.M | re.S)
    assert len(found) == 1, f"{RUNBOOK} has {len(found)} blocks of commands below {heading}"
    return str(found[0])
