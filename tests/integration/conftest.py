"""A dispatcher on the real store and a real HTTP agent, with a clock that tests can move."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from beads_dispatch import settings
from beads_dispatch.agents import beadboard
from beads_dispatch.dispatcher import Dispatcher
from tests import support
from tests.conftest import Beads


@dataclass
class Clock:
    """The present, plus what a test has let pass."""

    passed: timedelta = timedelta()
    stopped_at: datetime | None = None

    def __call__(self) -> datetime:
        return (self.stopped_at or datetime.now(UTC)) + self.passed

    def stop(self) -> None:
        """From now on only the test lets time pass: for one that counts seconds, which a busy machine adds to."""
        self.stopped_at = datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        self.passed += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


DispatcherFactory = Callable[..., Dispatcher]


@pytest.fixture
def make_dispatcher(beads: Beads, agent: support.Agent, clock: Clock) -> DispatcherFactory:
    """Builds a dispatcher; `url` and `timeout_seconds` replace the agent's, the rest are rules."""

    def make(*, url: str = "", health: bool = False, timeout_seconds: float = 60, **rules: object) -> Dispatcher:
        service = beadboard.BeadBoard(
            settings.AgentSettings(url or agent.url, f"{agent.url}/health" if health else None, timeout_seconds)
        )
        return Dispatcher(beads.store, service, settings.DispatchLimits(**rules), clock, clock.sleep)  # type: ignore[arg-type]

    return make
