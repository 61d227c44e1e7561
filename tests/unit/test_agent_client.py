"""What BeadBoard's client makes of answers, over real sockets. Dispatch on top: test_dispatch.py."""

import base64
import json
import pathlib
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any

import pytest

from beads_dispatch import agents, settings
from beads_dispatch.agents import Load, beadboard, http
from local import processes
from tests import support
from tests.certificates import Certificates
from tools.servers import Handler, stalls, trickles


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
            client(url).start("x-1", "c-1")


def test_a_server_that_does_not_speak_tls_got_nothing(server: support.Agent) -> None:
    """The TLS handshake is part of connecting: nothing was sent."""
    with pytest.raises(agents.Unreachable):
        client(server.url.replace("http:", "https:")).start("x-1", "c-1")
    assert server.posts == []


@pytest.mark.parametrize("code", [102, 103])
def test_an_announcement_is_not_a_refusal(server: support.Agent, code: int) -> None:
    """1xx announces an answer: the job may run."""
    server.behaviour = support.answers(code)
    with pytest.raises(agents.UnknownOutcome):
        client(server.url).start("x-1", "c-1")


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
    assert client(server.url).start("x-1", "c-1") == "j-1"
    server.behaviour = lambda handler: chunked(handler, whole=False)
    with pytest.raises(agents.UnknownOutcome):
        client(server.url).start("x-1", "c-1")


def test_the_url_may_hold_a_path_and_credentials(server: support.Agent) -> None:
    """A prefix, odd characters in it and user:password are used; an error names none of them."""
    seen = []

    def keeps(handler: Handler) -> None:
        seen.append((handler.path, handler.headers["Authorization"]))
        handler.answer(200, b'{"job_id": "j"}')

    server.behaviour = keeps
    where = server.url.removeprefix("http://")
    assert client(f"http://me:p%40ss@{where}/a b/%2F").start("x-1", "c-1") == "j"
    assert seen == [("/a%20b/%2F/api/agent-dispatch", "Basic " + base64.b64encode(b"me:p@ss").decode())]
    with pytest.raises(agents.Unreachable) as caught:
        client(f"http://me:p%40ss@127.0.0.1:{processes.free_port()}").start("x-1", "c-1")
    assert "ss" not in str(caught.value)


def test_the_health_url_is_asked_as_it_is(server: support.Agent) -> None:
    """The number of running jobs is active + queued."""
    server.active = 3
    assert client(server.url, health_url=f"{server.url}/health").load() == Load(running=3)
    assert client(server.url).load() == Load(busy=True)


def test_certificates_are_loaded_only_where_they_are_used(server: support.Agent) -> None:
    """They cost some 20 ms of a cold start."""
    plain, secure = client(server.url), client("https://127.0.0.1:1")
    assert plain.start("x-1", "c-1") and plain._http._tls is None
    with pytest.raises(agents.Unreachable):
        secure.start("x-1", "c-1")
    assert isinstance(secure._http._tls, ssl.SSLContext)


def test_the_bead_is_posted_as_json(server: support.Agent) -> None:
    """Whatever is in an id, it arrives as it is."""
    seen = []

    def keeps(handler: Handler) -> None:
        seen.append(handler.headers["Content-Type"])
        handler.answer(200, json.dumps({"job_id": " j "}).encode())

    server.behaviour = keeps
    assert client(server.url).start('x-"ü"', "c-1") == "j"
    assert server.posts == ['x-"ü"'] and seen == ["application/json"]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_answer_that_trickles_in_ends_with_the_time(
    server: support.Agent, scheme: str, certificates: Certificates
) -> None:
    """The limit is for the whole exchange, in TLS as well: each byte alone comes within the socket's timeout."""
    server.behaviour = trickles
    if scheme == "https":
        certificates.serve_tls(server)
    with pytest.raises(agents.UnknownOutcome, match="ReadTimeout"):
        http.AgentHttp(0.5, ca_file=str(certificates.ca)).request("POST", server.url, {"taskId": "x-1"})
    assert server.posts == ["x-1"]


def test_a_body_without_a_length_that_never_ends_is_no_answer(server: support.Agent) -> None:
    """It ends where the connection does; ended by us, it is not whole."""

    def endless(handler: Handler) -> None:
        handler.wfile.write(b'HTTP/1.1 200 OK\r\n\r\n{"job_id": "j"}')
        stalls(handler)

    server.behaviour = endless
    stalled, server.behaviour = server.behaviour, stalls  # `stalls` lasts as long as it is the behaviour
    server.choose = lambda bead: stalled
    with pytest.raises(agents.UnknownOutcome, match="too slow"):
        http.AgentHttp(3).request("POST", server.url, {"taskId": "x-1"})


def test_a_connection_that_took_all_the_time_sends_nothing(
    server: support.Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One address after the other may be tried, each with the socket's timeout."""
    connect = socket.create_connection

    def slowly(*arguments: Any, **more: Any) -> socket.socket:
        time.sleep(0.3)
        return connect(*arguments, **more)

    monkeypatch.setattr(socket, "create_connection", slowly)
    with pytest.raises(agents.Unreachable, match="ConnectTimeout"):
        http.AgentHttp(0.2).request("POST", server.url, {"taskId": "x-1"})
    assert server.posts == []


def test_no_connection_is_used_twice(server: support.Agent) -> None:
    """The other side may close a kept one at the moment of the next request; then nobody knows whether it arrived."""
    ports = []

    def keeps(handler: Handler) -> None:
        ports.append(handler.client_address[1])
        handler.answer(200, b'{"job_id": "j"}')
        handler.close_connection = False  # although it was asked to

    server.behaviour = keeps
    kept = client(server.url)
    for bead in ("x-1", "x-2", "x-3"):
        kept.start(bead, "c-1")
    assert len(set(ports)) == 3


@pytest.mark.parametrize("code", [200, 404])
def test_an_answer_is_cut_at_64_kib(server: support.Agent, code: int) -> None:
    """Of an error the beginning will do; a job id does not need so much."""
    server.behaviour = support.answers(code, b"x" * 10_000_000)
    if code == 200:
        with pytest.raises(agents.UnknownOutcome, match="too long"):
            client(server.url).start("x-1", "c-1")
    else:
        with pytest.raises(agents.Refused) as refused:
            client(server.url).start("x-1", "c-1")
        assert len(refused.value.body) == 65536


def test_the_environments_proxies_and_redirects_and_cookies_are_ignored(
    server: support.Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job is POSTed where the settings say, or nowhere."""
    for name in ("ALL_PROXY", "HTTP_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:1")
    cookies = []

    def redirects(handler: Handler) -> None:
        cookies.append(handler.headers["Cookie"])
        handler.answer(307, Location=f"{server.url}/elsewhere", Set_Cookie="a=b; Path=/")

    server.behaviour = redirects
    for bead in ("x-1", "x-2"):
        with pytest.raises(agents.Refused, match="307"):
            client(server.url).start(bead, "c-1")
    assert server.posts == ["x-1", "x-2"] and cookies == [None, None]


def test_an_agents_certificate_is_verified_by_the_ca_file(server: support.Agent, certificates: Certificates) -> None:
    """Another CA, another host name, or no CA file: nothing is sent."""
    certificates.serve_tls(server)
    assert client(server.url, ca_file=str(certificates.ca)).start("x-1", "c-1")
    for url, ca in (
        (server.url, str(certificates.other_ca)),
        (server.url, None),
        (server.url.replace("127.0.0.1", "localhost"), str(certificates.ca)),
    ):
        with pytest.raises(agents.Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
            client(url, ca_file=ca).start("x-2", "c-1")
    assert server.posts == ["x-1"]


def test_token_and_ca_files_are_read_again_when_they_change(
    server: support.Agent, certificates: Certificates, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a restart; one that is away or half written for a moment leaves what was there, and is logged once."""
    certificates.serve_tls(server)
    token, ca = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text("t0ken-1\n")
    shutil.copy(certificates.other_ca, ca)
    seen = []

    def keeps(handler: Handler) -> None:
        seen.append(handler.headers["Authorization"])
        handler.answer(200, b'{"job_id": "j"}')

    server.behaviour = keeps
    where = server.url.replace("https://", "https://me:pass@")
    kept = client(where, token_file=str(token), ca_file=str(ca))
    with pytest.raises(agents.Unreachable):
        kept.start("x-1", "c-1")
    shutil.copy(certificates.ca, ca)
    kept.start("x-1", "c-1")
    token.write_text("t0ken-2")
    kept.start("x-1", "c-1")
    for content in (b"", b"two\nlines", b"\xff\xfe", None):
        ca.write_bytes(content or b"")
        token.write_bytes(content or b"") if content is not None else token.unlink()
        kept.start("x-1", "c-1")
    assert seen == ["Bearer t0ken-1", *["Bearer t0ken-2"] * 5]
    assert [record.args for record in caplog.records] == [()] * 2
    assert "t0ken" not in caplog.text and "lines" not in caplog.text
    token.write_text("t0ken-3")
    kept.start("x-1", "c-1")
    assert seen[-1] == "Bearer t0ken-3"


def test_a_token_file_that_never_held_a_token_sends_nothing(server: support.Agent, tmp_path: pathlib.Path) -> None:
    """The error names the file and not its content."""
    (tmp_path / "token").write_text("secret one\nsecret two")
    with pytest.raises(agents.Unreachable, match="token") as caught:
        client(server.url, token_file=str(tmp_path / "token")).start("x-1", "c-1")
    assert "secret" not in str(caught.value) and server.posts == []
