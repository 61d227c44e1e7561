"""beads-dispatch agents: the agents, and how each is."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from beads_dispatch import agents
from beads_dispatch.agents_file import ConfiguredAgent
from beads_dispatch.cli import terminal
from beads_dispatch.cli.context import Context, now
from beads_dispatch.cli.terminal import Styled
from beads_dispatch.store import Store


@dataclass(frozen=True)
class AgentStatus:
    """One agent."""

    name: str
    backend: str | None  # None where this environment does not name its address
    reachable: bool | None  # None: not asked
    problem: str  # why not; empty otherwise
    running: int | None  # jobs, as the backend counts them, others' among them; None where it does not
    busy: bool
    in_progress: int  # its beads
    max_in_flight: int
    held_until: datetime | None
    held_reason: str
    last_job: str | None
    last_job_at: str | None  # when its bead was claimed


@dataclass(frozen=True)
class AgentList:
    """All agents, in their order."""

    at: datetime
    agents: Sequence[AgentStatus]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Lists the agents of AGENTS_FILE, or the one of AGENT_ASSIGNEE: whether its backend answers, what runs there,"
        " its limit, its hold and its last job."
    )


def run(context: Context) -> int:
    """Print the list. Raises SettingsError, StoreError."""
    moment = now()
    found = AgentList(moment, [_status(agent, context.store, moment) for agent in context.agents.values()])
    context.show(found, lambda each: [line for one in each.agents for line in _lines(one, moment)])
    return 0


def _status(agent: ConfiguredAgent, beads: Store, moment: datetime) -> AgentStatus:
    hold, last = beads.control.hold(agent.name), beads.activity.last_job(agent.name)
    there, problem = load(agent)
    return AgentStatus(
        name=agent.name,
        backend=agent.backend.backend if agent.backend else None,
        reachable=None if agent.backend is None else not problem,
        problem=problem,
        running=there.running,
        busy=there.busy,
        in_progress=beads.activity.count_in_progress(agent.name),
        max_in_flight=agent.limits.max_in_flight,
        held_until=hold.until if hold.active_at(moment) else None,
        held_reason=hold.reason if hold.active_at(moment) else "",
        last_job=last.record.job if last else None,
        last_job_at=last.record.at if last else None,
    )


def load(agent: ConfiguredAgent) -> tuple[agents.Load, str]:
    """What runs there, and why that is unknown; empty when it is known."""
    if agent.backend is None:
        return agents.Load(), ""
    try:
        backend = agents.backend(agent.backend)
        found = backend.load()
        backend.probe()
    except agents.Unreachable as exc:
        return agents.Load(), str(exc)
    return found, ""


def _lines(one: AgentStatus, moment: datetime) -> Sequence[terminal.Line]:
    words, style = "not asked: BEADBOARD_URL is not set", "yellow"
    if one.problem:
        words, style = f"does not answer: {terminal.cut(one.problem, 120)}", "red"
    elif one.reachable:
        jobs = "" if one.running is None else f", {one.running} running there"
        words, style = f"{'busy' if one.busy else 'answers'}{jobs}", "green"
    return [
        (f"{one.name} ({one.backend or 'no backend'}): ", Styled(words, style)),
        f"  beads in progress: {one.in_progress}; at most {one.max_in_flight} jobs",
        *(
            [f"  held until {terminal.until(one.held_until, moment)}: {terminal.cut(one.held_reason, 200)}"]
            if one.held_until
            else []
        ),
        f"  last job: {terminal.cut(one.last_job, 80)}, claimed {one.last_job_at}" if one.last_job else "  no job yet",
    ]
