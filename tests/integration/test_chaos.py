"""The short form of `make chaos`: the promises under faults, on a server that is killed and restored."""

import importlib
import random
from collections.abc import Iterator

import pytest

from tools.chaos import mutants, mutation_test, world
from tools.chaos.__main__ import PARTS

SEED = 7

# A check that cannot fail shows nothing. These take some seconds each; `make sabotage` runs all.
NOTICED = (
    "one change in eight is not told",
    "a claim excludes nobody",
    "a claim is not read back",
    "no mark before the POST",
    "an outage holds nothing up",
    "a poison bead is tried first for ever",
    "recording a job opens a bead that was closed",
    mutation_test.PLAIN_DOOR,
)


@pytest.fixture(scope="module")
def here() -> Iterator[world.World]:
    """A Dolt server and a workspace of its own."""
    with world.world() as made:
        yield made


@pytest.mark.parametrize("part", PARTS)
def test_the_promises_hold(here: world.World, part: str) -> None:
    """Every check of the part, in its short form: none is broken, and there is at least one."""
    rows = list(importlib.import_module(f"tools.chaos.{part}").run(here, random.Random(SEED), short=True))
    assert rows
    assert [(row.check, row.broken) for row in rows if row.broken] == []


@pytest.mark.parametrize("name", NOTICED)
def test_a_broken_promise_is_noticed(here: world.World, name: str) -> None:
    """With the product wrong in one place, a check is broken, and says of which bead or event."""
    assert mutation_test.noticed(here, name, random.Random(SEED))


def test_each_flaw_has_checks_that_must_notice_it() -> None:
    """By the same names; and those that are tried above are among them."""
    assert {*mutation_test.CHECKS} == {*mutants.FLAWS, mutation_test.PLAIN_DOOR}
    assert {*NOTICED} <= {*mutation_test.CHECKS}
