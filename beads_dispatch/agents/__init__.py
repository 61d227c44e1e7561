"""The agent's side: the three ways in which starting a job can fail, for every backend.

What matters after a POST is whether the job may be running.
"""

# 4xx that are not about the bead: about our identity, our request rate, or a busy agent (409).
_NOT_THE_BEAD = frozenset({401, 403, 407, 408, 409, 425, 429})


class AgentError(Exception):
    """Base of the three ways in which a POST does not end with a job id."""


class Unreachable(AgentError):
    """No connection: nothing was sent, so nothing runs."""


class Refused(AgentError):
    """Answered, and not with a job: nothing runs. `counts`: whether it counts against the bead."""

    def __init__(self, code: int, body: str) -> None:
        super().__init__(f"HTTP {code}")
        self.code = code
        self.body = body
        self.counts = 400 <= code < 500 and code not in _NOT_THE_BEAD


class UnknownOutcome(AgentError):
    """Sent, but the answer is missing, cut short or not understood: the job may be running."""
