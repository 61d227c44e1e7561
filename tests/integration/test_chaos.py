"""The short form of `make chaos`: the promises under faults, on a server that is killed and restored."""

import importlib
import random
from collections.abc import Iterator

import pytest

from chaos import world
from chaos.__main__ import PARTS

SEED = 7


@pytest.fixture(scope="module")
def here() -> Iterator[world.World]:
    """A Dolt server and a workspace of its own."""
    with world.world() as made:
        yield made


@pytest.mark.parametrize("part", PARTS)
def test_the_promises_hold(here: world.World, part: str) -> None:
    """Every check of the part, in its short form: none is broken, and there is at least one."""
    rows = list(importlib.import_module(f"chaos.{part}").run(here, random.Random(SEED), short=True))
    assert rows
    assert [(row.check, row.broken) for row in rows if row.broken] == []
