"""Which agents' passes an event requests, and what each pass works with."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from beads_dispatch import agents, events, settings
from beads_dispatch.agents_file import ConfiguredAgent
from beads_dispatch.store import Store
from beads_dispatch.store.databases import open_store


@dataclass
class AgentPass:
    """One agent's pass: one at a time in a process, since slots are counted between beads, and connections are not
    thread-safe. Other agents' passes do not wait for it."""

    agent: ConfiguredAgent
    dolt: settings.DoltSettings
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _collaborators: tuple[Store, agents.Backend | None] | None = field(default=None, init=False)

    @contextmanager
    def collaborators(self) -> Iterator[tuple[Store, agents.Backend | None]]:
        """The agent's store and backend, for this pass alone. Made at the first event: gunicorn loads a function before
        it forks."""
        with self._lock:
            if self._collaborators is None:
                backend = agents.backend(self.agent.backend) if self.agent.backend else None
                self._collaborators = (open_store(self.dolt), backend)
            yield self._collaborators


def requested(event: events.Event, passes: Mapping[str, AgentPass]) -> list[AgentPass]:
    """The passes that an event requests: of the agent that it names, or of all; none for an agent that is not ours."""
    name = event.extensions.get("agent")
    if not name:
        return list(passes.values())
    return [passes[name]] if name in passes else []


def passes(dolt: settings.DoltSettings, found: tuple[ConfiguredAgent, ...]) -> Mapping[str, AgentPass]:
    """By the agents' names, in their order."""
    return {agent.name: AgentPass(agent, dolt) for agent in found}
