"""The reap function's door: settings in, one pass per event.

functions-framework --source functions/reap/main.py --target reap
"""

import os
import sys
import threading
from datetime import UTC, datetime

import flask
import functions_framework

from beads import events, log, settings, store
from beads.trace import Trace
from functions import doorway
from functions.reap import reaper

log.configure("reap")

try:
    DOLT, RULES = settings.dolt(os.environ), settings.rules(os.environ)
except settings.SettingsError as exc:
    sys.exit(f"reap cannot start: {exc}")

_one_pass = threading.Lock()  # connections are not thread-safe
_store = store.Store(DOLT)  # connects when first used: gunicorn loads this module before it forks


@functions_framework.http
def reap(request: flask.Request) -> flask.Response:
    """A CloudEvent in, 204, 4xx or 503 out; see doorway."""
    return doorway.answer(request, accepts=events.REAP_REQUESTED, tick="reap", act=_act)


def _act(event: events.Event, trace: Trace) -> doorway.Pass:
    with _one_pass:
        result = reaper.run_once(_store, RULES, datetime.now(UTC))
    done = f"suspended: {result.suspended}" if result.suspended else "looked for beads that are stuck"
    beads = {"reopened": result.reopened, "blocked": result.blocked, "left_alone": result.left_alone}
    return doorway.Pass(done, beads)


doorway.loaded("reap")
