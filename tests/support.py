"""The tests' HTTP servers and waiting, which they share with the tools."""

from contextlib import closing

from tools.servers import Agent, Behaviour, Handler, Sink, accepted, answers, half_a_body, hangs_up, job
from tools.world import wait_for

__all__ = [
    "Agent",
    "Behaviour",
    "Handler",
    "Sink",
    "accepted",
    "answers",
    "closing",
    "half_a_body",
    "hangs_up",
    "job",
    "wait_for",
]
