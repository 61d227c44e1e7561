"""The agent service: BeadBoard's two routes, and claude-agent-service's /health.

The one seam between httpx's errors and ours. What matters after a POST is whether the job may be running:

- `Unreachable`: nothing was sent. It does not run.
- `Refused`: an answer that says no. It does not run.
- `NoAnswer`: sent, and no usable answer came. It may run.
"""

import json
import time
from typing import Any

import httpx

from beads import settings

_ANSWER_LIMIT = 64 * 1024  # bytes of an answer that are read; a job id needs a hundred

# 4xx that say nothing about the bead: who we are, how often we ask, or that the service is busy (409).
_NOT_THE_BEAD = frozenset({401, 403, 407, 408, 409, 425, 429})


class AgentError(Exception):
    """Base of the three ways in which a POST does not end with a job id."""


class Unreachable(AgentError):
    """No connection: nothing was sent, so nothing runs."""


class Refused(AgentError):
    """Answered, and not with a job. `counts` says whether it counts against the bead."""

    def __init__(self, code: int, body: str) -> None:
        super().__init__(f"HTTP {code}")
        self.code = code
        self.body = body
        self.counts = 400 <= code < 500 and code not in _NOT_THE_BEAD


class NoAnswer(AgentError):
    """Sent, but the answer is missing, cut short or not understood: the job may be running."""


class AgentService:
    """A client that lives as long as its process; safe to use for one call at a time."""

    def __init__(self, agent: settings.Agent) -> None:
        self._agent = agent
        # No kept-alive connections: one that the other side has closed cannot be told from a request
        # that was lost on the way, and that doubt would be noted on a bead.
        # Certificates are loaded (some 20 ms) only where they are used.
        self._client = httpx.Client(
            timeout=agent.timeout_seconds,
            limits=httpx.Limits(max_keepalive_connections=0),
            verify=agent.beadboard_url.startswith("https") or (agent.health_url or "").startswith("https"),
            headers={"accept-encoding": "identity", "user-agent": "beads-dispatch"},
        )

    def close(self) -> None:
        self._client.close()

    def dispatch(self, bead_id: str) -> str:
        """POST the bead; returns the job id. Raises Unreachable, Refused or NoAnswer."""
        url = f"{self._agent.beadboard_url}/api/agent-dispatch"
        code, body = self._ask("POST", url, json={"taskId": bead_id})
        if not 200 <= code < 300:
            raise Refused(code, body.decode("utf-8", "replace"))
        job = _field(body, "job_id")
        if not isinstance(job, str) or not job.strip():
            raise NoAnswer(f"HTTP {code} without a job_id")
        return job.strip()

    def number_at_work(self) -> int | None:
        """Jobs active and queued, by AGENT_HEALTH_URL; None when that is not set.

        Raises Unreachable when the service does not say.
        """
        if self._agent.health_url is None:
            return None
        code, body = self._status(self._agent.health_url)
        active, queued = _field(body, "active"), _field(body, "queued")
        if code != 200 or not isinstance(active, int) or not isinstance(queued, int):
            raise Unreachable(f"/health answered HTTP {code} without the numbers active and queued")
        return active + queued

    def busy(self) -> bool:
        """BeadBoard's word for it. Raises Unreachable when it does not say."""
        code, body = self._status(f"{self._agent.beadboard_url}/api/agent-status")
        busy = _field(body, "busy")
        if code != 200 or not isinstance(busy, bool):
            raise Unreachable(f"/api/agent-status answered HTTP {code} without busy")
        return busy

    def _status(self, url: str) -> tuple[int, bytes]:
        try:
            return self._ask("GET", url)
        except NoAnswer as exc:
            raise Unreachable(str(exc)) from exc

    def _ask(self, method: str, url: str, **more: Any) -> tuple[int, bytes]:
        """Status and body, the body cut at a limit; redirects are not followed.

        An answer of 2xx must be whole to be one; of any other, the status is enough.
        """
        deadline = time.monotonic() + self._agent.timeout_seconds
        code, body = 0, b""
        try:
            with self._client.stream(method, url, **more) as response:
                code = response.status_code
                for chunk in response.iter_raw():
                    body += chunk
                    if len(body) > _ANSWER_LIMIT or time.monotonic() > deadline:
                        if 200 <= code < 300:
                            raise NoAnswer(f"HTTP {code} whose body is too long or too slow")
                        break
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol) as exc:
            raise Unreachable(_words(exc)) from exc
        except httpx.HTTPError as exc:
            if not code or 200 <= code < 300:
                raise NoAnswer(_words(exc)) from exc
        return code, body


def _field(body: bytes, name: str) -> Any:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found.get(name) if isinstance(found, dict) else None


def _words(exc: Exception) -> str:
    """The error without the URL, which may hold credentials."""
    return f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
