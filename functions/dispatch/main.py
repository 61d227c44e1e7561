"""The dispatch function's door: settings in, one pass per event.

functions-framework --source functions/dispatch/main.py --target dispatch
"""

import os
import sys
import threading
import time
from datetime import UTC, datetime

import flask
import functions_framework

from beads import agent, events, log, settings, store
from beads.trace import Trace
from functions import doorway
from functions.dispatch import dispatcher

log.configure("dispatch")
logger = log.get("dispatch")

try:
    DOLT, AGENT, RULES = settings.dolt(os.environ), settings.agent(os.environ), settings.rules(os.environ)
except settings.SettingsError as exc:
    sys.exit(f"dispatch cannot start: {exc}")

# One pass at a time in a process: the slots are counted between passes, and connections are not thread-safe.
_one_pass = threading.Lock()
_dispatcher: dispatcher.Dispatcher | None = None


@functions_framework.http
def dispatch(request: flask.Request) -> flask.Response:
    """A CloudEvent in, 204, 4xx or 503 out; see doorway."""
    return doorway.answer(request, accepts=events.DISPATCH_REQUESTED, tick="dispatch", act=_act)


def _act(event: events.Event, trace: Trace) -> doorway.Pass:
    with _one_pass:
        outcomes = _collaborators().run_once(trace, slot_freed=event.extensions.get("cause") == "slot")
    for outcome in outcomes[:-1]:
        if not isinstance(outcome, dispatcher.Dispatched):  # that has been said
            said = log.context(action="outcome", event=event.id, trace=trace.trace_id)
            logger.info(dispatcher.describe(outcome), extra=said)
    jobs = [outcome.job for outcome in outcomes if isinstance(outcome, dispatcher.Dispatched)]
    return doorway.Pass(dispatcher.describe(outcomes[-1]), dispatcher.beads_by_outcome(outcomes), jobs)


def _collaborators() -> dispatcher.Dispatcher:
    """Made at the first event: gunicorn loads this module before it forks."""
    global _dispatcher
    if _dispatcher is None:
        _dispatcher = dispatcher.Dispatcher(
            store.Store(DOLT), agent.AgentService(AGENT), RULES, lambda: datetime.now(UTC), time.sleep
        )
    return _dispatcher


doorway.loaded("dispatch")
