"""What BeadBoard's client makes of answers, over real sockets. Dispatch on top: test_dispatch.py."""

import base64
import json
import ssl
from collections.abc import Iterator

import pytest

from beads_dispatch import agents, settings
from beads_dispatch.agents import beadboard
from local import processes
from tests import support
from tools.servers import Handler


@pytest.fixture
def server() -> Iterator[support.Agent]:
    with support.closing(support.Agent()) as service:
        yield service


def client(url: str, **more: object) -> beadboard.BeadBoard:
    return beadboard.BeadBoard(settings.AgentSettings(url, timeout_seconds=60, **more))  # type: ignore[arg-type]


def test_nothing_was_sent_without_a_connection() -> None:
    """Nobody listens, or the name is not one: Unreachable, so that the bead is released."""
    for url in (f"http://127.0.0.1:{processes.free_port()}", f"http://{'x' * 64}.invalid"):
        with pytest.raises(agents.Unreachable, match="ConnectError"):
            client(url).start("x-1")


def test_a_server_that_does_not_speak_tls_got_nothing(server: support.Agent) -> None:
    """The TLS handshake is part of connecting: nothing was sent."""
    with pytest.raises(agents.Unreachable):
        client(server.url.replace("http:", "https:")).start("x-1")
    assert server.posts == []


@pytest.mark.parametrize("code", [102, 103])
def test_an_announcement_is_not_a_refusal(server: support.Agent, code: int) -> None:
    """1xx announces an answer: the job may run."""
    server.behaviour = support.answers(code)
    with pytest.raises(agents.UnknownOutcome):
        client(server.url).start("x-1")


def test_a_chunked_answer_is_read_whole_and_one_cut_short_is_none(server: support.Agent) -> None:
    """Without a Content-Length the last chunk ends the answer."""

    def chunked(handler: Handler, *, whole: bool) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for part in ('{"job_id":', ' "j-1"}'):
            handler.wfile.write(f"{len(part):x}\r\n{part}\r\n".encode())
        handler.wfile.write(b"0\r\n\r\n" if whole else b"")
        handler.hang_up()

    server.behaviour = lambda handler: chunked(handler, whole=True)
    assert client(server.url).start("x-1") == "j-1"
    server.behaviour = lambda handler: chunked(handler, whole=False)
    with pytest.raises(agents.UnknownOutcome):
        client(server.url).start("x-1")


def test_the_url_may_hold_a_path_and_credentials(server: support.Agent) -> None:
    """A prefix, odd characters in it and user:password are used; an error names none of them."""
    seen = []

    def keeps(handler: Handler) -> None:
        seen.append((handler.path, handler.headers["Authorization"]))
        handler.answer(200, b'{"job_id": "j"}')

    server.behaviour = keeps
    where = server.url.removeprefix("http://")
    assert client(f"http://me:p%40ss@{where}/a b/%2F").start("x-1") == "j"
    assert seen == [("/a%20b/%2F/api/agent-dispatch", "Basic " + base64.b64encode(b"me:p@ss").decode())]
    with pytest.raises(agents.Unreachable) as caught:
        client(f"http://me:p%40ss@127.0.0.1:{processes.free_port()}").start("x-1")
    assert "ss" not in str(caught.value)


def test_the_health_url_is_asked_as_it_is(server: support.Agent) -> None:
    """The number of running jobs is active + queued."""
    server.active = 3
    assert client(server.url, health_url=f"{server.url}/health").count_running() == 3
    assert client(server.url).count_running() is None


def test_certificates_are_loaded_only_where_they_are_used(server: support.Agent) -> None:
    assert client(server.url)._tls is None
    assert isinstance(client("https://127.0.0.1:1")._tls, ssl.SSLContext)


def test_the_bead_is_posted_as_json(server: support.Agent) -> None:
    """Whatever is in an id, it arrives as it is."""
    seen = []

    def keeps(handler: Handler) -> None:
        seen.append(handler.headers["Content-Type"])
        handler.answer(200, json.dumps({"job_id": " j "}).encode())

    server.behaviour = keeps
    assert client(server.url).start('x-"ü"') == "j"
    assert server.posts == ['x-"ü"'] and seen == ["application/json"]
