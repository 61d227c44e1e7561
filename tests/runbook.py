"""The commands of docs/runbook.md."""

import pathlib
import re
from dataclasses import dataclass

RUNBOOK = pathlib.Path(__file__).parents[1] / "docs" / "runbook.md"
_CLUSTER = re.compile(r"\b(?:kubectl|kn|docker|STOP_AGENT)\b")


@dataclass(frozen=True)
class Block:
    """One block of commands."""

    section: str
    number: int  # in its section, from 1
    commands: str

    @property
    def needs_cluster(self) -> bool:
        """Whether a command in it speaks to a cluster, or to a registry."""
        return _CLUSTER.search(self.commands) is not None

    def __str__(self) -> str:
        return f"{self.section} {self.number}"


def sections() -> dict[str, str]:
    """The text below each heading of the second level, those of the third among it; and what is above all, as ""."""
    title, *rest = re.split(r"^## (.+)$", RUNBOOK.read_text(), flags=re.M)
    return {"": title, **dict(zip(rest[::2], rest[1::2], strict=True))}


def blocks() -> list[Block]:
    """All blocks of commands, but for those that set the variables and the smoke tests."""
    found = []
    for section, text in sections().items():
        commands = _blocks(text.partition("### Smoke test")[0]) if section else []
        found += [Block(section, number, block) for number, block in enumerate(commands, 1)]
    return found


def variables() -> str:
    """The block that sets what the others use."""
    (block,) = _blocks(sections()[""])
    return block


def block(heading: str) -> str:
    """The shell block below a heading of the third level; there must be one and no more."""
    section = re.split(r"^#+ ", RUNBOOK.read_text().partition(f"### {heading}\n")[2], maxsplit=1, flags=re.M)[0]
    (found,) = _blocks(section)
    return found


def _blocks(text: str) -> list[str]:
    found = re.findall(r"^( *)```sh\n(.*?)^ *```", text, flags=re.M | re.S)
    return [re.sub(f"^{indent}", "", commands, flags=re.M) for indent, commands in found]
