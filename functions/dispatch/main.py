"""The dispatch function: one pass per event, of the agent that it names, or of all.

functions-framework --source functions/dispatch/main.py --target dispatch
"""

import functools
import os
import sys
import time
import uuid
from datetime import UTC, datetime

import flask
import functions_framework

from beads_dispatch import agents_file, events, log, outcomes, settings
from beads_dispatch.dispatcher import Dispatcher
from beads_dispatch.log import Action
from beads_dispatch.outcomes import Dispatched, Outcome, PassEnded
from beads_dispatch.trace import Trace
from functions import agent_passes, request_handler
from functions.request_handler import PassResult

log.configure("dispatch")
logger = log.get("dispatch")

try:
    PASSES = agent_passes.passes(settings.server(os.environ), agents_file.agents(os.environ, required=True))
except settings.SettingsError as exc:
    sys.exit(f"dispatch cannot start: {exc}")


@functions_framework.http
def dispatch(request: flask.Request) -> flask.Response:
    """A CloudEvent in, 204, 200 with the request of another pass, 4xx or 503 out; see request_handler."""
    return request_handler.answer(request, accepts=events.DISPATCH_REQUESTED, tick="dispatch", run_pass=_run_passes)


def _run_passes(event: events.Event, trace: Trace) -> PassResult:
    return PassResult.of_all([_run_pass(each, event, trace) for each in agent_passes.requested(event, PASSES)])


def _run_pass(one: agent_passes.AgentPass, event: events.Event, trace: Trace) -> PassResult:
    clock = functools.partial(datetime.now, UTC)
    with one.collaborators() as (store, backend):
        assert backend is not None  # required above
        dispatcher = Dispatcher(store, backend, one.agent.limits, clock, time.sleep, request_handler.stopping)
        found = dispatcher.run_once(trace, slot_freed=event.extensions.get("cause") == "slot")
    _log(found[:-1], log.context(action=Action.OUTCOME, event=event.id, trace=trace.trace_id, agent=one.agent.name))
    return PassResult(
        outcomes.summary(found),
        outcomes.beads_by_outcome(found),
        [outcome.job for outcome in found if isinstance(outcome, Dispatched)],
        warning=outcomes.is_warning(found[-1]),
        reply=_request_of_another(one.agent.name) if isinstance(found[-1], PassEnded) else None,
        agent=one.agent.name,
    )


def _log(found: list[Outcome], about: dict[str, object]) -> None:
    for outcome in found:
        if not isinstance(outcome, Dispatched):  # which has been logged
            (logger.warning if outcomes.is_warning(outcome) else logger.info)(outcomes.describe(outcome), extra=about)


def _request_of_another(agent: str) -> events.Event:
    """For a pass that ended before it knew that the queue is empty."""
    name, source = f"continue-{uuid.uuid4()}", events.DISPATCH_SOURCE
    return events.request("resume", name, 1, events.DISPATCH_REQUESTED, agent, source)


request_handler.log_loaded("dispatch")
