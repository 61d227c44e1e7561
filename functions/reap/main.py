"""The reap function: one pass per event.

functions-framework --source functions/reap/main.py --target reap
"""

import os
import sys
import threading
from datetime import UTC, datetime

import flask
import functions_framework

from beads_dispatch import events, log, reaper, settings
from beads_dispatch.store import Store
from beads_dispatch.trace import Trace
from functions import request_handler
from functions.request_handler import PassResult

log.configure("reap")

try:
    DOLT, LIMITS = settings.dolt(os.environ), settings.limits(os.environ)
except settings.SettingsError as exc:
    sys.exit(f"reap cannot start: {exc}")

_one_pass = threading.Lock()  # connections are not thread-safe
_store = Store(DOLT)  # connects when first used: gunicorn loads this module before it forks


@functions_framework.http
def reap(request: flask.Request) -> flask.Response:
    """A CloudEvent in, 204, 4xx or 503 out; see request_handler."""
    return request_handler.answer(request, accepts=events.REAP_REQUESTED, tick="reap", run_pass=_run_pass)


def _run_pass(event: events.Event, trace: Trace) -> PassResult:
    with _one_pass:
        result = reaper.run_once(_store, LIMITS, datetime.now(UTC))
    beads = {"reopened": result.reopened, "blocked": result.blocked, "left_alone": result.left_alone}
    return PassResult(result.summary(), beads)


request_handler.log_loaded("reap")
