"""The dispatch function: one pass per event.

functions-framework --source functions/dispatch/main.py --target dispatch
"""

import functools
import os
import sys
import threading
import time
import uuid
from datetime import UTC, datetime

import flask
import functions_framework

from beads_dispatch import agents, events, log, outcomes, settings
from beads_dispatch.dispatcher import Dispatcher
from beads_dispatch.log import Action
from beads_dispatch.outcomes import Dispatched, PassEnded
from beads_dispatch.store import Store
from beads_dispatch.trace import Trace
from functions import request_handler
from functions.request_handler import PassResult

log.configure("dispatch")
logger = log.get("dispatch")

try:
    DOLT, AGENT, LIMITS = settings.dolt(os.environ), settings.agent(os.environ), settings.limits(os.environ)
except settings.SettingsError as exc:
    sys.exit(f"dispatch cannot start: {exc}")

# One pass at a time in a process: the slots are counted between passes, and connections are not thread-safe.
_one_pass = threading.Lock()
_dispatcher: Dispatcher | None = None


@functions_framework.http
def dispatch(request: flask.Request) -> flask.Response:
    """A CloudEvent in, 204, 4xx or 503 out; see request_handler."""
    return request_handler.answer(request, accepts=events.DISPATCH_REQUESTED, tick="dispatch", run_pass=_run_pass)


def _run_pass(event: events.Event, trace: Trace) -> PassResult:
    with _one_pass:
        found = _collaborators().run_once(trace, slot_freed=event.extensions.get("cause") == "slot")
    about = log.context(action=Action.OUTCOME, event=event.id, trace=trace.trace_id)
    for outcome in found[:-1]:
        if not isinstance(outcome, Dispatched):  # which has been logged
            (logger.warning if outcomes.is_warning(outcome) else logger.info)(outcomes.describe(outcome), extra=about)
    jobs = [outcome.job for outcome in found if isinstance(outcome, Dispatched)]
    warning = outcomes.is_warning(found[-1])
    reply = _request_of_another() if isinstance(found[-1], PassEnded) else None
    return PassResult(outcomes.summary(found), outcomes.beads_by_outcome(found), jobs, warning=warning, reply=reply)


def _request_of_another() -> events.Event:
    """For a pass that ended before it knew that the queue is empty."""
    request = f"continue-{uuid.uuid4()}"
    return events.request("resume", request, 1, events.DISPATCH_REQUESTED, source=events.DISPATCH_SOURCE)


def _collaborators() -> Dispatcher:
    """Made at the first event: gunicorn loads this module before it forks."""
    global _dispatcher
    if _dispatcher is None:
        clock = functools.partial(datetime.now, UTC)
        backend, stopping = agents.backend(AGENT), request_handler.stopping
        _dispatcher = Dispatcher(Store(DOLT), backend, LIMITS, clock, time.sleep, stopping)
    return _dispatcher


request_handler.log_loaded("dispatch")
