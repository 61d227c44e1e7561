"""The reap function: one pass per event, of the agent that it names, or of all.

functions-framework --source functions/reap/main.py --target reap
"""

import os
import sys
from datetime import UTC, datetime

import flask
import functions_framework

from beads_dispatch import agents_file, events, log, reaper, settings
from beads_dispatch.trace import Trace
from functions import agent_passes, request_handler
from functions.request_handler import PassResult

log.configure("reap")

try:
    PASSES = agent_passes.passes(settings.server(os.environ), agents_file.agents(os.environ))
except settings.SettingsError as exc:
    sys.exit(f"reap cannot start: {exc}")


@functions_framework.http
def reap(request: flask.Request) -> flask.Response:
    """A CloudEvent in, 204, 4xx or 503 out; see request_handler."""
    return request_handler.answer(request, accepts=events.REAP_REQUESTED, tick="reap", run_pass=_run_passes)


def _run_passes(event: events.Event, trace: Trace) -> PassResult:
    return PassResult.of_all([_run_pass(each) for each in agent_passes.requested(event, PASSES)])


def _run_pass(one: agent_passes.AgentPass) -> PassResult:
    with one.collaborators() as (store, backend):
        result = reaper.run_once(store, one.agent.limits, datetime.now(UTC), backend)
    beads = {
        "reopened": result.reopened,
        "blocked": result.blocked,
        "found": result.found,
        "left_alone": result.left_alone,
    }
    return PassResult(result.summary(), beads, agent=one.agent.name)


request_handler.log_loaded("reap")
