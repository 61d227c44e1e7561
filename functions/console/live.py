"""The stream that tells an open page when to fetch itself again (server-sent events).

A page is stale when any transaction was committed on the server, by its set of GTIDs, and after half a minute anyway:
it shows how long ago things were.
"""

import hashlib
import os
import threading
import time
from collections.abc import Iterator, Mapping

import flask

from beads_dispatch.store import Store, StoreError
from functions import request_handler
from functions.console.view import PageError, Stores

PATH = "/live"

_POLL_SECONDS = 1.0
_REFRESH_SECONDS = 30.0
_STREAM_SECONDS = 240.0  # then the browser connects again: below the timeout of the Knative Service
_RETRY_MS = 2000


def token(beads: Store) -> str:
    """Changes with every transaction on the server. Raises StoreError."""
    return hashlib.sha256(beads.feed_state.executed().encode()).hexdigest()[:16]


class Streams:
    """The open streams: each keeps a thread, so only half of the threads are for them. A page whose stream is refused
    asks every few seconds instead."""

    def __init__(self, stores: Stores, env: Mapping[str, str]) -> None:
        self._stores = stores
        threads = int(env.get("THREADS") or (os.cpu_count() or 1) * 4)  # as functions-framework has it
        self._free = threading.BoundedSemaphore(max(1, threads // 2))

    def answer(self, request: flask.Request) -> flask.Response:
        """The stream, from the state that the page shows. Raises PageError where there are too many."""
        known = request.headers.get("Last-Event-ID") or request.args.get("since", "")
        if request.method == "HEAD":
            return flask.Response(mimetype="text/event-stream")
        if not self._free.acquire(blocking=False):
            raise PageError(503, "Too many pages are open.")
        response = flask.Response(self._events(known), mimetype="text/event-stream")
        response.call_on_close(self._free.release)  # also where the events were never begun
        return response

    def _events(self, known: str) -> Iterator[str]:
        yield f"retry: {_RETRY_MS}\n\n"
        end = time.monotonic() + _STREAM_SECONDS
        refresh = time.monotonic() + _REFRESH_SECONDS
        while time.monotonic() < end and not request_handler.stopping():
            found = self._token()
            if found != known or time.monotonic() > refresh:
                refresh = time.monotonic() + _REFRESH_SECONDS
                yield f"id: {found}\nevent: {'changed' if found else 'down'}\ndata: {found}\n\n"
            else:
                yield ":\n\n"  # finds out that the browser has gone
            known = found
            time.sleep(_POLL_SECONDS)

    def _token(self) -> str:
        """Empty while Dolt cannot be used."""
        try:
            with self._stores.borrowed() as beads:
                return token(beads)
        except StoreError:
            return ""
