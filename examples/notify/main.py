"""Posts a message to a chat for each change that beads-dispatch made to a bead: an issue.changed event in, a request
to a webhook like Slack's out.

functions-framework --source examples/notify/main.py --target notify

A message that the webhook does not accept is dropped after a second attempt, which is logged; the answer to the Broker
is 204 all the same. On Knative's default Broker the feeder waits for every subscriber to a change event, and publishes
the event again when one fails: a chat that is down must not delay it.
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
from beads_dispatch.log import Action

log.configure("notify")
logger = log.get("notify")

TIMEOUT_SECONDS = 5  # the feeder may be waiting; a chat answers in a fraction of a second
PAUSE_SECONDS = 1
TITLE_LIMIT = 200  # characters

MESSAGES = {
    (store.DISPATCHER, "in_progress"): "is being dispatched to the agent",
    (store.DISPATCHER, "open"): "was released and is open again",
    (store.DISPATCHER, "blocked"): "was refused too often and is blocked",
    (store.REAPER, "open"): "had an orphaned claim, which was released: it is open again",
    (store.REAPER, "blocked"): "was inactive for too long and is blocked",
}


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """The URL is a secret, so the message goes to no other address."""

    def redirect_request(self, *_: Any) -> None:
        return None


def webhook_url() -> str:
    """The content of the file that WEBHOOK_URL_FILE names. It is never printed: everybody who has it may post."""
    path = os.environ.get("WEBHOOK_URL_FILE", "")
    try:
        url = pathlib.Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as exc:
        why = getattr(exc, "strerror", "it is not UTF-8 text")
        sys.exit(f"notify cannot start: WEBHOOK_URL_FILE names {path!r}, which cannot be read ({why}).")
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        sys.exit(f"notify cannot start: {path} holds no http:// or https:// URL.")
    return url


URL = webhook_url()
OPENER = urllib.request.build_opener(NoRedirects)


@functions_framework.http
def notify(request: flask.Request) -> flask.Response:
    """204 for every event, 400 for a request that is not an event."""
    try:
        event = events.from_request(dict(request.headers), request.get_data())
    except events.InvalidEvent as exc:
        return flask.Response(f"{exc}\n", 400, mimetype="text/plain")
    text = message(event)
    about = log.context(action=Action.NOTIFY, event=event.id, bead=event.subject)
    if text is None:
        logger.warning("the event is not a change of a bead; check the Trigger's filter", extra=about)
    elif failure := post(text):
        logger.error(f"a message was dropped: {failure}", extra=about)
    return flask.Response(status=204)


def message(event: events.Event) -> str | None:
    """The text for the chat; None for an event of another kind."""
    try:
        bead, title, actor, status = (
            str(found) for found in (event.data["id"], event.data["title"], event.data["actor"],
                                     event.data["after"]["status"])
        )  # fmt: skip
    except (KeyError, TypeError):
        return None
    change = MESSAGES.get((actor, status)) or f"was changed to {escaped(status)} by {escaped(actor)}"
    return f"{escaped(bead)} ({escaped(title)}) {change}."


def escaped(text: str) -> str:
    """A bead's text as plain text: one line, limited in length, without links and mentions.

    Slack needs the first three replacements; other chats that accept this form of message read `@all` in plain text.
    """
    line = notes.one_line(text, TITLE_LIMIT)
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "@\u200b")


def post(text: str) -> str | None:
    """POST the message, with a second attempt where that can help. None on success, else the reason without the URL."""
    failure = post_once(text)
    if failure is None or not failure.startswith(("no answer", "HTTP 5", "HTTP 429")):
        return failure
    time.sleep(PAUSE_SECONDS)
    return post_once(text)


def post_once(text: str) -> str | None:
    body = json.dumps({"text": text, "mrkdwn": False}).encode()
    request = urllib.request.Request(URL, body, {"Content-Type": "application/json"})
    try:
        with OPENER.open(request, timeout=TIMEOUT_SECONDS):
            return None
    except urllib.error.HTTPError as exc:
        with exc:
            return f"HTTP {exc.code}"
    except Exception as exc:  # noqa: BLE001 - the text of some of them contains the URL
        return f"no answer ({type(getattr(exc, 'reason', exc)).__name__})"
