"""What both functions do at their door: an HTTP request in, an answer in the Broker's terms out.

204 without a body: done, or nothing to do. (functions-framework's own 200 with the body `OK` is taken by the
Broker for a failed delivery, and delivered again.) 4xx: sending it again cannot help. 503: it may.
"""

import os
import pathlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import flask
from werkzeug.exceptions import HTTPException

from beads import events, log, store
from beads.trace import Trace, begun, parse


@dataclass(frozen=True)
class Pass:
    """What a pass did, for its line in the log: a sentence, the beads by what became of them, the jobs it started."""

    message: str
    beads: dict[str, list[str]]
    jobs: list[str] = field(default_factory=list)


def loaded(name: str) -> None:
    """Say that the function can be called now, and after how long: the part of a cold start that is ours."""
    age = _process_age_ms()
    log.get(name).info("loaded", extra=log.context(action="start", ms=None if age is None else round(age)))


def answer(
    request: flask.Request, *, accepts: str, tick: str, act: Callable[[events.Event, Trace], Pass]
) -> flask.Response:
    """Parse the event and call `act` with it and its trace, unless it is a tick that says suspend=true.

    `accepts` is the event type of a request, `tick` the name of the PingSource whose ticks are taken too.
    Every pass ends with one line in the log. A tick has no trace, so the pass begins one.
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
    started = time.monotonic()
    trace = parse(event.extensions.get("traceparent")) or begun()
    about = {"event": event.id, "trace": trace.trace_id}
    try:
        done = act(event, trace)
    except store.StoreError as exc:
        logger.error(str(exc), extra=log.context(action="retry", **about))
        return _text(503, "Dolt cannot be used now; send the event again later")
    except Exception:
        logger.exception("the pass failed", extra=log.context(action="failed", **about))
        return _text(500, "the pass failed; see the log")
    logger.info(
        done.message,
        extra=log.context(
            action="pass",
            **about,
            cause=event.extensions.get("cause") or ("tick" if event.tick else None),
            ms=round((time.monotonic() - started) * 1000),
            jobs=done.jobs or None,
            **{kind: ids for kind, ids in done.beads.items() if ids},
        ),
    )
    return _empty()


def _process_age_ms() -> float | None:
    """Milliseconds since this process was started; None where there is no /proc. See proc(5): field 22, in ticks."""
    try:
        ticks = int(pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(pathlib.Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return (uptime - ticks / os.sysconf("SC_CLK_TCK")) * 1000


def _empty() -> flask.Response:
    return flask.Response(status=204)


def _text(status: int, message: str | Iterator[str], headers: dict[str, str] | None = None) -> flask.Response:
    return flask.Response(
        f"{message}\n" if isinstance(message, str) else message, status, headers, mimetype="text/plain"
    )
