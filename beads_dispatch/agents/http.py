"""The HTTP client of all backends, on httpx: what became of a request, as one of the errors of beads_dispatch.agents.

By httpx's transport alone, so that there are no redirects, no cookies and no proxies of the environment.
"""

import contextlib
import ssl
from collections.abc import Mapping
from json import loads
from typing import Any, NamedTuple

import httpx

from beads_dispatch import credentials, deadline
from beads_dispatch.agents import UnknownOutcome, Unreachable

_ANSWER_BYTES = 64 * 1024  # of an answer that are read; a job id needs a hundred
_HEADERS = {"Accept": "application/json", "Connection": "close", "User-Agent": "beads-dispatch"}
# No connection is used twice. On a kept one that the other side has closed, an error leaves open whether the request
# arrived, and that doubt would be noted on a bead.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=0)


class AgentAnswer(NamedTuple):
    """An answer, its body cut at a limit; the headers' names in lower case."""

    code: int
    body: bytes
    headers: Mapping[str, str]


class AgentHttp:
    """A client that a process keeps, for any number of threads."""

    def __init__(
        self,
        timeout_seconds: float,
        token_file: str | None = None,
        ca_file: str | None = None,
        answer_bytes: int = _ANSWER_BYTES,
    ) -> None:
        """`timeout_seconds`: for connecting, and for a whole exchange. `ca_file`: trusted instead of the system's CAs.
        Both files are read again when they change."""
        self._timeout = timeout_seconds
        self._answer_bytes = answer_bytes
        self._token = credentials.token_file(token_file) if token_file else None
        self._ca = credentials.ca_file(ca_file) if ca_file else None
        self._plain: httpx.HTTPTransport | None = None
        self._secure: httpx.HTTPTransport | None = None
        self._tls: ssl.SSLContext | None = None  # what `_secure` verifies with

    def request(
        self, method: str, url: str, json: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and body of the answer to `exchange`."""
        return self.exchange(method, url, json, headers)[:2]

    def exchange(
        self, method: str, url: str, json: Any = None, headers: Mapping[str, str] | None = None
    ) -> AgentAnswer:
        """One request and its answer.

        An answer of 2xx must be whole to be one; of any other, the status is enough. Raises Unreachable when nothing
        was sent, UnknownOutcome when there is no usable answer.
        """
        code, answer, answered = 0, bytearray(), {}
        with deadline.Exchange(self._timeout) as exchange:
            try:
                request = self._request(method, url, json, headers)
                request.extensions["trace"] = exchange.trace
                with contextlib.closing(self._transport(request.url).handle_request(request)) as response:
                    if response.status_code < 200:
                        raise UnknownOutcome(f"HTTP {response.status_code}, which announces an answer and is none")
                    code, answered = response.status_code, dict(response.headers)
                    for part in response.iter_raw():
                        answer += part
                        if len(answer) > self._answer_bytes:
                            break
                    cut_by_us = exchange.late and "content-length" not in response.headers
                if 200 <= code < 300 and (cut_by_us or len(answer) > self._answer_bytes):
                    raise UnknownOutcome(f"HTTP {code} whose body is too long or too slow")
            except (httpx.HTTPError, httpx.InvalidURL, deadline.TooLate, OSError, ValueError) as exc:
                if not exchange.sent or isinstance(exc, httpx.LocalProtocolError):
                    raise Unreachable(_not_sent(exc)) from exc
                if not code or 200 <= code < 300:
                    late = exchange.late or isinstance(exc, httpx.TimeoutException)
                    raise UnknownOutcome(_described("ReadTimeout" if late else type(exc).__name__, exc)) from exc
        return AgentAnswer(code, bytes(answer[: self._answer_bytes]), answered)

    def status(self, url: str) -> tuple[int, bytes]:
        """GET what starts nothing. Raises Unreachable where there is no usable answer."""
        try:
            return self.request("GET", url)
        except UnknownOutcome as exc:
            raise Unreachable(str(exc)) from exc

    def _request(self, method: str, url: str, json: Any, headers: Mapping[str, str] | None) -> httpx.Request:
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), self._timeout)
        request = httpx.Request(
            method, url, json=json, headers={**_HEADERS, **(headers or {})}, extensions={"timeout": timeouts}
        )
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token.value()}"
        elif request.url.userinfo:
            login = httpx.BasicAuth(request.url.username, request.url.password)
            request = next(login.sync_auth_flow(request))
        return request

    def _transport(self, url: httpx.URL) -> httpx.HTTPTransport:
        """Certificates are loaded (some 20 ms) only where they are used."""
        if url.scheme != "https":
            self._plain = self._plain or _transport(credentials.trusting_nobody())
            return self._plain
        tls = self._ca.value() if self._ca is not None else self._tls or ssl.create_default_context()
        if self._secure is None or tls is not self._tls:
            self._secure, self._tls = _transport(tls), tls
        return self._secure


def field(body: bytes, name: str) -> Any:
    """A field of an answer; None where the answer is not a JSON object."""
    try:
        found = loads(body)
    except (ValueError, RecursionError):
        return None
    return found.get(name) if isinstance(found, dict) else None


def _transport(tls: ssl.SSLContext) -> httpx.HTTPTransport:
    return httpx.HTTPTransport(verify=tls, trust_env=False, limits=_LIMITS)


def _not_sent(exc: Exception) -> str:
    if isinstance(exc, httpx.TimeoutException | deadline.TooLate):
        return _described("ConnectTimeout", exc)
    if isinstance(exc, httpx.InvalidURL | httpx.LocalProtocolError):
        return type(exc).__name__  # its text may quote a URL or a header, and with it credentials
    return _described("ConnectError", exc)


def _described(name: str, exc: Exception) -> str:
    return f"{name}: {exc}" if str(exc) else name
