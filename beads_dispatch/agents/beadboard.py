"""The backend `beadboard`: BeadBoard's two routes, and claude-agent-service's /health.

By http.client, where connecting is a call of its own: a failure in it means that nothing was sent, a later one that
something may have been. It is loaded anyway; httpx would be an eighth of dispatch's cold start.
"""

import base64
import contextlib
import http.client
import json
import ssl
import time
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from beads_dispatch import deadline, settings
from beads_dispatch.agents import Refused, UnknownOutcome, Unreachable

_ANSWER_LIMIT = 64 * 1024  # bytes of an answer that are read; a job id needs a hundred
_PLAIN_IN_URL = "/?%:@!$&'()*+,;="  # what may stand in a path and a query as it is


class BeadBoard:
    """Opens a connection for each request. On a kept one that the other side has closed, an error leaves open whether
    the request arrived, and that doubt would be noted on a bead.
    """

    def __init__(self, agent: settings.AgentSettings) -> None:
        self._agent = agent
        secure = agent.beadboard_url.startswith("https") or (agent.health_url or "").startswith("https")
        # Certificates are loaded (some 20 ms) only where they are used.
        self._tls = ssl.create_default_context() if secure else None

    def start(self, bead_id: str, traceparent: str = "") -> str:
        """POST the bead, in that span; returns the job id. Raises Unreachable, Refused or UnknownOutcome."""
        url = f"{self._agent.beadboard_url}/api/agent-dispatch"
        code, body = self._request("POST", url, json.dumps({"taskId": bead_id}).encode(), traceparent)
        if not 200 <= code < 300:
            raise Refused(code, body.decode("utf-8", "replace"))
        job = _field(body, "job_id")
        if not isinstance(job, str) or not job.strip():
            raise UnknownOutcome(f"HTTP {code} without a job_id")
        return job.strip()

    def count_running(self) -> int | None:
        """Jobs active and queued, by AGENT_HEALTH_URL; None when that is not set.

        Raises Unreachable when the agent gives no such answer.
        """
        if self._agent.health_url is None:
            return None
        code, body = self._status(self._agent.health_url)
        active, queued = _field(body, "active"), _field(body, "queued")
        if code != 200 or not isinstance(active, int) or not isinstance(queued, int):
            raise Unreachable(f"/health answered HTTP {code} without the numbers active and queued")
        return active + queued

    def probe(self) -> None:
        """Ask BeadBoard for its status where nobody else does. Raises Unreachable when it gives no such answer.

        With AGENT_HEALTH_URL it is not asked for a free slot, so only a POST would show that it is away.
        """
        if self._agent.health_url is not None:
            self.is_busy()

    def is_busy(self) -> bool:
        """Whether BeadBoard calls the agent busy. Raises Unreachable when it gives no such answer."""
        code, body = self._status(f"{self._agent.beadboard_url}/api/agent-status")
        busy = _field(body, "busy")
        if code != 200 or not isinstance(busy, bool):
            raise Unreachable(f"/api/agent-status answered HTTP {code} without busy")
        return busy

    def _status(self, url: str) -> tuple[int, bytes]:
        try:
            return self._request("GET", url)
        except UnknownOutcome as exc:
            raise Unreachable(str(exc)) from exc

    def _request(self, method: str, url: str, body: bytes | None = None, traceparent: str = "") -> tuple[int, bytes]:
        """Status and body, the body cut at a limit; redirects are not followed.

        An answer of 2xx must be whole to be one; of any other, the status is enough.
        """
        ends = time.monotonic() + self._agent.timeout_seconds
        connection, target, headers = self._prepared(url)
        if traceparent:
            headers["traceparent"] = traceparent
        with (
            contextlib.closing(connection),
            deadline.ended_after(self._agent.timeout_seconds, lambda: connection.sock),
        ):
            try:
                connection.connect()
            except (OSError, UnicodeError) as exc:  # the second: a host name that cannot be one
                raise Unreachable(
                    _without_url("ConnectTimeout" if isinstance(exc, TimeoutError) else "ConnectError", exc)
                ) from exc
            if time.monotonic() > ends:  # one address after the other, each with its own timeout
                raise Unreachable("ConnectTimeout")
            code, answer = 0, b""
            try:
                connection.request(method, target, body, headers)
                response = connection.getresponse()
                if response.status < 200:
                    raise UnknownOutcome(f"HTTP {response.status}, which announces an answer and is none")
                code, whole = response.status, response.length
                while (whole is None or len(answer) < whole) and (chunk := response.read1(_ANSWER_LIMIT)):
                    answer += chunk
                    if len(answer) > _ANSWER_LIMIT:
                        break
                if 200 <= code < 300:
                    _require_whole(answer, whole, code, late=time.monotonic() > ends)
            except (OSError, http.client.HTTPException) as exc:
                if not code or 200 <= code < 300:
                    late = isinstance(exc, TimeoutError) or time.monotonic() > ends
                    raise UnknownOutcome(_without_url("ReadTimeout" if late else type(exc).__name__, exc)) from exc
        return code, answer

    def _prepared(self, url: str) -> tuple[http.client.HTTPConnection, str, dict[str, str]]:
        """A connection that is not open yet, what to ask it for, and the headers."""
        parts = urlsplit(url)
        host, timeout = parts.hostname or "", self._agent.timeout_seconds
        connection = (
            http.client.HTTPSConnection(host, parts.port, timeout=timeout, context=self._tls)
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, parts.port, timeout=timeout)
        )
        headers = {
            "Accept": "application/json",
            "Connection": "close",
            "Content-Type": "application/json",
            "User-Agent": "beads-dispatch",
        }
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
        target = quote(parts.path or "/", safe=_PLAIN_IN_URL) + (
            "?" + quote(parts.query, safe=_PLAIN_IN_URL) if parts.query else ""
        )
        return connection, target, headers


def _require_whole(answer: bytes, length: int | None, code: int, *, late: bool) -> None:
    """Raises UnknownOutcome unless all of an answer was read; one without a length is whole where it ended in time."""
    if len(answer) > _ANSWER_LIMIT or (late and len(answer) != length):
        raise UnknownOutcome(f"HTTP {code} whose body is too long or too slow")
    if length is not None and len(answer) < length:
        raise UnknownOutcome(f"HTTP {code} whose body was cut short")


def _field(body: bytes, name: str) -> Any:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found.get(name) if isinstance(found, dict) else None


def _without_url(name: str, exc: Exception) -> str:
    """The error without the URL, which may hold credentials."""
    return f"{name}: {exc}" if str(exc) else name
