"""Whether a PingSource is suspended: pure. Watching it is tested on a real cluster."""

from typing import Any

import pytest

from feeder import pingsources
from feeder.pingsources import SuspendState


def pingsource(name: str = "dispatch", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": "7"}, "spec": spec}


@pytest.mark.parametrize(("overrides", "suspended"), [
    ({"extensions": {"suspend": "true"}}, True), ({"extensions": {"suspend": "TRUE "}}, True),
    ({"extensions": {"suspend": "false"}}, False), ({"extensions": {}}, False), ({"extensions": None}, False),
    ({}, False), (None, False),
])  # fmt: skip
def test_suspend_true_in_the_overrides_suspends(overrides: object, suspended: bool) -> None:
    """As `kn … --ce-override suspend=true` writes it, and as `--ce-override suspend-` leaves it."""
    assert pingsources.state(pingsource(ceOverrides=overrides)) == SuspendState("dispatch", suspended, "7")


def test_other_pingsources_are_ignored() -> None:
    """Only dispatch and reap can be suspended."""
    assert pingsources.state(pingsource("backup", ceOverrides={"extensions": {"suspend": "true"}})) is None
    assert pingsources.state({}) is None


def test_outside_a_cluster_there_is_nothing_to_watch() -> None:
    """Only bd's config suspends then."""
    assert pingsources.cluster({}) is None
