"""What both functions do with a request: HTTP in, an answer in the Broker's terms out.

204 without a body: done, or nothing to do. (functions-framework's own 200 with the body `OK` is taken by the
Broker for a failed delivery, and delivered again.) 200 with a CloudEvent: done for now, and the event requests the next
pass. 4xx: sending it again cannot help. 503: it may.
"""

import logging
import os
import pathlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import flask
from werkzeug.exceptions import HTTPException

from beads_dispatch import events, log, store
from beads_dispatch.log import Action
from beads_dispatch.trace import Trace, begun, parse


@dataclass(frozen=True)
class PassResult:
    """What a pass did, for its line in the log."""

    message: str
    beads: dict[str, list[str]]  # ids by outcome
    jobs: list[str] = field(default_factory=list)
    warning: bool = False  # it stopped for a failure of the agent's side
    reply: events.Event | None = None  # what the Broker is to deliver next
    agent: str = ""  # whose pass it was

    @classmethod
    def of_all(cls, found: Sequence["PassResult"]) -> "PassResult":
        """What the passes of an event did together. Of several that are to go on, the tick brings the others."""
        if len(found) == 1:
            return found[0]
        beads: dict[str, list[str]] = {}
        for kind, ids in (item for each in found for item in each.beads.items()):
            beads[kind] = [*beads.get(kind, ()), *ids]
        return cls(
            "; ".join(f"{each.agent}: {each.message}" for each in found) or "no agent of ours is named",
            beads,
            [job for each in found for job in each.jobs],
            warning=any(each.warning for each in found),
            reply=next((each.reply for each in found if each.reply), None),
        )


def log_loaded(name: str) -> None:
    """Log that the function can be called now, and after how long: the part of a cold start that is ours."""
    age = _process_age_ms()
    log.get(name).info("loaded", extra=log.context(action=Action.START, ms=None if age is None else round(age)))


def answer(
    request: flask.Request, *, accepts: str, tick: str, run_pass: Callable[[events.Event, Trace], PassResult]
) -> flask.Response:
    """Parse the event and call `run_pass` with it and its trace, unless it is a tick with suspend=true.

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
        logger.info("the tick has suspend=true", extra=log.context(action=Action.SUSPENDED, event=event.id))
        return _empty()
    started = time.monotonic()
    trace = parse(event.extensions.get("traceparent")) or begun()
    about = {"event": event.id, "trace": trace.trace_id}
    try:
        done = run_pass(event, trace)
    except store.StoreError as exc:
        logger.error(str(exc), extra=log.context(action=Action.RETRY, **about))
        return _text(503, "Dolt cannot be used now; send the event again later")
    except Exception:
        logger.exception("the pass failed", extra=log.context(action=Action.FAILED, **about))
        return _text(500, "the pass failed; see the log")
    logger.log(
        logging.WARNING if done.warning else logging.INFO,
        done.message,
        extra=log.context(
            action=Action.PASS,
            **about,
            cause=event.extensions.get("cause") or ("tick" if event.tick else None),
            ms=round((time.monotonic() - started) * 1000),
            jobs=done.jobs or None,
            agent=done.agent or None,
            **{kind: ids for kind, ids in done.beads.items() if ids},
        ),
    )
    return _reply(done.reply) if done.reply else _empty()


def stopping() -> bool:
    """Whether this process was asked to stop (SIGTERM): gunicorn's handler of the signal belongs to its worker, which
    knows. It serves the requests in progress to their end, so a pass is to end itself."""
    worker = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return not getattr(worker, "alive", True)


def _process_age_ms() -> float | None:
    """Milliseconds since this process was started; None where there is no /proc. See proc(5): field 22, in ticks."""
    try:
        ticks = int(pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(pathlib.Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return (uptime - ticks / os.sysconf("SC_CLK_TCK")) * 1000


def _reply(event: events.Event) -> flask.Response:
    headers, body = events.to_http(event)
    return flask.Response(body, 200, headers)


def _empty() -> flask.Response:
    return flask.Response(status=204)


def _text(status: int, message: str | Iterator[str], headers: dict[str, str] | None = None) -> flask.Response:
    return flask.Response(
        f"{message}\n" if isinstance(message, str) else message, status, headers, mimetype="text/plain"
    )
