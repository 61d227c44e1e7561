"""What both functions do at their door: an HTTP request in, an answer in the Broker's terms out.

204 without a body: done, or nothing to do. (functions-framework's own 200 with the body `OK` is taken by the
Broker for a failed delivery, and delivered again.) 4xx: sending it again cannot help. 503: it may.
"""

from collections.abc import Callable, Iterator

import flask
from werkzeug.exceptions import HTTPException

from beads import events, log, store


def answer(request: flask.Request, *, accepts: str, tick: str, act: Callable[[events.Event], None]) -> flask.Response:
    """Parse the event and call `act` with it, unless it is a tick that says suspend=true.

    `accepts` is the event type of a request, `tick` the name of the PingSource whose ticks are taken too.
    """
    logger = log.get(tick)
    if request.method != "POST":
        return _text(405, "expected POST with a CloudEvent", {"Allow": "POST"})
    request.max_content_length = events.MAX_BODY_BYTES
    try:
        event = events.from_request(dict(request.headers), request.get_data())
    except HTTPException as exc:
        # Streamed, because functions-framework reads the rest of the body after every other answer.
        return _text(exc.code or 400, iter([f"the request cannot be read: {exc.name}\n"]))
    except events.InvalidEvent as exc:
        return _text(400, str(exc))
    if event.type != accepts and event.tick != tick:
        return _text(400, f"expected an event of type {accepts}, or a tick of the PingSource {tick}")
    if event.tick and event.suspended:
        logger.info("tick says suspend=true", extra=log.context(action="suspended", event=event.id))
        return _empty()
    try:
        act(event)
    except store.StoreError as exc:
        logger.error(str(exc), extra=log.context(action="retry", event=event.id))
        return _text(503, "Dolt cannot be used now; send the event again later")
    except Exception:
        logger.exception("the pass failed", extra=log.context(action="failed", event=event.id))
        return _text(500, "the pass failed; see the log")
    return _empty()


def _empty() -> flask.Response:
    return flask.Response(status=204)


def _text(status: int, message: str | Iterator[str], headers: dict[str, str] | None = None) -> flask.Response:
    return flask.Response(
        f"{message}\n" if isinstance(message, str) else message, status, headers, mimetype="text/plain"
    )
