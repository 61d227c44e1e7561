"""The local server: it stops, and closes what it opened."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from wsgiref.types import StartResponse, WSGIEnvironment

import httpx

from local import wsgi_server
from tests import support


def answers_at_once(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    return wsgi_server.text(start_response, 200, "here")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_stopped_server_leaves_nothing_open() -> None:
    """Started and stopped many times in one process, it leaks neither sockets nor pipes, kept-alive ones included."""
    before = open_files()
    for _ in range(20):
        with wsgi_server.Server(answers_at_once, threads=2) as server, httpx.Client() as client:
            assert client.get(server.url, timeout=support.PATIENCE_SECONDS).text == "here\n"

    # A stop does not wait longer than a second for the server's own thread, which closes the files.
    support.wait_for(lambda: open_files() <= before, "everything is closed")


def test_a_request_in_progress_is_answered_before_the_end() -> None:
    """A stop waits for the answer in progress, and accepts no more requests."""
    begun, let_go = threading.Event(), threading.Event()

    def waits(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        begun.set()
        let_go.wait(support.PATIENCE_SECONDS)
        return wsgi_server.text(start_response, 200, "done")

    server = wsgi_server.Server(waits, threads=1)
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(support.get, server.url)
        assert begun.wait(support.PATIENCE_SECONDS)
        stopped = pool.submit(server.stop, support.PATIENCE_SECONDS)
        support.wait_for(lambda: server._server.task_dispatcher.stop_count > 0, "the stop has begun")
        let_go.set()
        assert asked.result(support.PATIENCE_SECONDS).text == "done\n"
        stopped.result(support.PATIENCE_SECONDS)


def test_a_request_that_does_not_end_delays_no_stop() -> None:
    """After its timeout the stop continues; the request that is still in progress does no harm when it ends."""
    begun, let_go = threading.Event(), threading.Event()

    def hangs(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        begun.set()
        let_go.wait(support.PATIENCE_SECONDS)
        return wsgi_server.text(start_response, 200, "late")

    server = wsgi_server.Server(hangs, threads=1)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(support.get, server.url)
        assert begun.wait(support.PATIENCE_SECONDS)
        server.stop(timeout_seconds=0.1)
        server.stop()
        assert isinstance(asked.exception(support.PATIENCE_SECONDS / 2), httpx.HTTPError)  # before it is let go
        let_go.set()
        support.wait_for(lambda: not server._thread.is_alive(), "what it held is closed")
