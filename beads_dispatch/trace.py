"""W3C Trace Context: connects a change, the pass that it caused and the agent's job. Pure.

The CloudEvents extension `traceparent` carries it from the feed to the functions, the HTTP header of that name from
there to the agent. No OpenTelemetry: importing its SDK would be a good part of a cold start, and we record no
spans; systems around us that do find ours by the trace id in the log.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass, replace

# A version of later years may have more parts, which begin with a dash and are not passed on.
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 0x01


@dataclass(frozen=True)
class Trace:
    """A trace, and the current span in it."""

    trace_id: str  # 32 lower-case hexadecimal digits
    span_id: str  # 16
    sampled: bool = True  # a hint to recorders: dispatches are few, so ours are all sampled

    @property
    def traceparent(self) -> str:
        """The extension's and the header's value."""
        return f"00-{self.trace_id}-{self.span_id}-{_SAMPLED if self.sampled else 0:02x}"

    def child(self) -> "Trace":
        """The same trace in a new span: for a request to another system."""
        return replace(self, span_id=secrets.token_hex(8))


def begun() -> Trace:
    """A new trace."""
    return Trace(secrets.token_hex(16), secrets.token_hex(8))


def of_event(event_id: str, event_type: str) -> Trace:
    """The trace of an event that we send, made of its id.

    Not random, because the feed may publish an event again after a crash: a repeat has the same id, so it has the same
    trace. And a request has the id of the change that caused it, so both are in one trace.
    """
    trace_id = hashlib.sha256(event_id.encode()).hexdigest()[:32]
    return Trace(trace_id, hashlib.sha256(f"{event_type} {event_id}".encode()).hexdigest()[:16])


def parse(text: str | None) -> Trace | None:
    """The trace that a `traceparent` names; None where there is none, or none that is well-formed: who sent it is not
    known, and what is not understood is not passed on."""
    found = _TRACEPARENT.fullmatch(text or "")
    if found is None or (found[1] == "00" and found[5]):
        return None
    return Trace(found[2], found[3], bool(int(found[4], 16) & _SAMPLED))
