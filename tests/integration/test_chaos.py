"""The short form of `make chaos`: the promises under faults, on a server that is killed and restored."""

import importlib
import random
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tools import world
from tools.chaos import mutants, mutation_test, tested_mutants
from tools.chaos.__main__ import PARTS

SEED = 7

# A check that cannot fail shows nothing. These take some seconds each; `make mutation-test` runs all.
NOTICED = (
    "one change in eight is not published",
    "a claim is not exclusive",
    "a claim is not read back",
    "the POST is not recorded before it is sent",
    "an outage starts no hold",
    "a failing bead is always tried first",
    "recording a job reopens a closed bead",
    mutation_test.PLAIN_FUNCTION,
)


@pytest.fixture(scope="module")
def here() -> Iterator[world.World]:
    """A Dolt server and a workspace of its own."""
    with world.world() as made:
        yield made


@pytest.mark.parametrize("part", PARTS)
def test_the_promises_hold(here: world.World, part: str) -> None:
    """Every check of the part, in its short form: none is broken, and there is at least one."""
    found = list(importlib.import_module(f"tools.chaos.{part}").run(here, random.Random(SEED), short=True))
    assert found
    assert [(check.name, check.broken) for check in found if check.broken] == []


@pytest.mark.parametrize("name", NOTICED)
def test_a_broken_promise_is_noticed(here: world.World, name: str) -> None:
    """With one thing in the product broken, a check fails, and names the bead or the event."""
    assert mutation_test.noticed(here, name, random.Random(SEED))


def test_each_mutant_has_checks_that_must_notice_it() -> None:
    """By the same names; and those that are tried above are among them."""
    assert {*mutation_test.CHECKS} == {*mutants.MUTANTS, mutation_test.PLAIN_FUNCTION}
    assert {*NOTICED} <= {*mutation_test.CHECKS}


def test_each_other_mutant_has_a_test_that_exists() -> None:
    """A test that was renamed is found here, and not only by `make mutation-test`."""
    tests = [test for _, test in tested_mutants.TESTED.values()]
    command = (sys.executable, "-m", "pytest", "--collect-only", "-q", *tests)
    collected = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert collected.returncode == 0, collected.stdout
