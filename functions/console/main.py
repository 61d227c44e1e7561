"""The console: an HTTP request in, a page out. It reads Dolt and asks nobody else.

functions-framework --source functions/console/main.py --target console
"""

import os
import sys

import flask
import functions_framework

from beads_dispatch import agents_file, log, settings
from functions import request_handler
from functions.console.site import Site

log.configure("console")

try:
    SITE = Site(settings.console(os.environ), agents_file.agents(os.environ), os.environ)
except settings.SettingsError as exc:
    sys.exit(f"console cannot start: {exc}")


@functions_framework.http
def console(request: flask.Request) -> flask.Response:
    """GET or HEAD of a page, of a file that it uses, or of the stream of its changes; see site."""
    return SITE.answer(request)


request_handler.log_loaded("console")
