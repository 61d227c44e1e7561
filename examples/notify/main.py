"""Tells a chat what beads-dispatch did to a bead: an issue.changed event in, a message to a webhook like Slack's out.

functions-framework --source examples/notify/main.py --target notify

A message that the webhook does not take is dropped after a second try, and said in the log; the answer is 204 all the
same. On Knative's default Broker the feeder waits for every subscriber to a fact, and tells one that failed again: a
chat that is down must not hold it up.
"""

import json
import os
import pathlib
import sys
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

import flask
import functions_framework

from beads_dispatch import events, log, notes, store

log.configure("notify")
logger = log.get("notify")

TIMEOUT_SECONDS = 5  # the feeder may be waiting; a chat answers in a fraction of one
PAUSE_SECONDS = 1
TITLE_LIMIT = 200  # characters

SAID = {
    (store.DISPATCHER, "in_progress"): "is being handed to the agent",
    (store.DISPATCHER, "open"): "was given back and waits again",
    (store.DISPATCHER, "blocked"): "was refused too often and is blocked",
    (store.REAPER, "open"): "was taken back from a dispatch that broke off, and waits again",
    (store.REAPER, "blocked"): "shows no sign of life and is blocked",
}


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """The URL is the secret: it goes where it was meant to go."""

    def redirect_request(self, *_: Any) -> None:
        return None


def webhook_url() -> str:
    """What the file that WEBHOOK_URL_FILE names holds. Never printed: who knows it may post."""
    path = os.environ.get("WEBHOOK_URL_FILE", "")
    try:
        url = pathlib.Path(path).read_text(encoding="utf-8").strip()
    except OSError as exc:
        sys.exit(f"notify cannot start: WEBHOOK_URL_FILE names {path!r}, which cannot be read ({exc.strerror}).")
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        sys.exit(f"notify cannot start: {path} holds no http:// or https:// URL.")
    return url


URL = webhook_url()
OPENER = urllib.request.build_opener(NoRedirects)


@functions_framework.http
def notify(request: flask.Request) -> flask.Response:
    """204 for every event, 400 for what is none."""
    try:
        event = events.from_request(dict(request.headers), request.get_data())
    except events.InvalidEvent as exc:
        return flask.Response(f"{exc}\n", 400, mimetype="text/plain")
    text = message(event)
    about = log.context(action="notify", event=event.id, bead=event.subject)
    if text is None:
        logger.warning("an event that is no change of a bead; look at the Trigger's filter", extra=about)
    elif why := post(text):
        logger.error(f"a message was dropped: {why}", extra=about)
    return flask.Response(status=204)


def message(event: events.Event) -> str | None:
    """What the chat is told; None for an event of another kind."""
    try:
        bead, title, actor, status = (
            str(found) for found in (event.data["id"], event.data["title"], event.data["actor"],
                                     event.data["after"]["status"])
        )  # fmt: skip
    except (KeyError, TypeError):
        return None
    said = SAID.get((actor, status)) or f"was changed to {escaped(status)} by {escaped(actor)}"
    return f"{escaped(bead)} ({escaped(title)}) {said}."


def escaped(text: str) -> str:
    """A bead's text as text: on one line, not endless, and nothing that a chat takes for a link or a mention.

    The three characters are Slack's; others that understand this form of message look for `@all` in plain text.
    """
    line = notes.one_line(text, TITLE_LIMIT)
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "@\u200b")


def post(text: str) -> str | None:
    """POST the message, twice if need be; None when it was taken, else why not, without the URL."""
    why = once(text)
    if why is None or not why.startswith(("no answer", "HTTP 5", "HTTP 429")):
        return why
    time.sleep(PAUSE_SECONDS)
    return once(text)


def once(text: str) -> str | None:
    body = json.dumps({"text": text, "mrkdwn": False}).encode()
    request = urllib.request.Request(URL, body, {"Content-Type": "application/json"})
    try:
        with OPENER.open(request, timeout=TIMEOUT_SECONDS):
            return None
    except urllib.error.HTTPError as exc:
        with exc:
            return f"HTTP {exc.code}"
    except Exception as exc:  # noqa: BLE001 - some say the URL in their text
        return f"no answer ({type(getattr(exc, 'reason', exc)).__name__})"
