"""Invalid input to the functions and to the feeder's endpoint: no 5xx, no change, no header in an answer or a log."""

import collections
import contextlib
import functools
import json
import random
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import hypothesis
from hypothesis import strategies as some

from beads_dispatch import events, settings
from feeder import http as endpoint
from feeder.health import HealthState
from local import processes
from tools import servers
from tools.chaos import checks
from tools.chaos.checks import Check
from tools.servers import Agent
from tools.world import World

check = functools.partial(checks.check, "fuzz")

SECRET = "s3cret-token"
_LIMIT = 4 * events.MAX_BODY_BYTES  # of an oversize body that may be sent before it is refused, buffers included

_text = some.text(max_size=40)
_line = some.text(some.characters(min_codepoint=32, max_codepoint=255), max_size=60)
_types = some.sampled_from([events.DISPATCH_REQUESTED, events.REAP_REQUESTED, events.TICK])
_sources = some.sampled_from(["/x/pingsources/dispatch", "/x/pingsources/reap", "/s"])
_known = {
    "ce-specversion": some.sampled_from(["1.0", "0.3"]) | _line,
    "ce-type": _types | some.just(events.ISSUE_CHANGED) | _line,
    "ce-source": _sources | _line,
    "ce-id": some.sampled_from(["", "1"]) | _line,
    "ce-time": some.sampled_from(["2026-07-15T09:30:00Z", "yesterday"]) | _line,
    "ce-subject": _line,
    "ce-cause": some.sampled_from(["change", "slot", "tick"]) | _line,
    "ce-suspend": some.sampled_from(["true", "false"]) | _line,
    "ce-datacontenttype": _line,
}
_content_types = _line | some.sampled_from([
    "application/json", "application/cloudevents+json", "application/cloudevents-batch+json", "text/plain",
    "application/x-www-form-urlencoded", "multipart/form-data", "application/cloudevents+avro", "",
])  # fmt: skip
_json = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | _text,
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(_text, inner, max_size=4),
    max_leaves=8,
)
_structured = some.fixed_dictionaries(
    {}, optional={name.removeprefix("ce-"): value | _json for name, value in _known.items()}
)
_bodies = some.one_of(
    some.binary(max_size=200),
    (_json | _structured).map(lambda value: json.dumps(value).encode()),
    some.integers(1, 300).map(lambda depth: b"[" * depth),
)
_needed = {
    "ce-specversion": some.just("1.0"), "ce-type": _types, "ce-source": _sources, "ce-id": some.just("1"),
}  # fmt: skip
_odd = {name: how for name, how in _known.items() if name not in _needed}
_requests = some.one_of(
    some.tuples(some.fixed_dictionaries({}, optional=_known), _content_types, _bodies),
    some.tuples(some.fixed_dictionaries(_needed, optional=_odd), some.just("application/json"), _bodies),
    some.tuples(some.fixed_dictionaries(_needed), some.just("text/plain"), some.binary(max_size=50)),
)

_EVENT = "application/cloudevents+json"
# Content types and bodies that functions-framework or the Broker handle badly; their documentation mentions none.
KNOWN_BAD = (
    ("application/cloudevents-batch+json", b"[]"),
    ("application/json", b'{"context": {"eventId": "1"}, "data": {}}'),  # a background event
    (_EVENT, b'"event"'),
    (_EVENT, b"[1]"),
    (_EVENT, b"[" * 60_000),
    (_EVENT, b"9" * 60_000),
    (_EVENT, b'{"id": NaN}'),
    (_EVENT, b'{"id": "\\ud83d"}'),  # half an emoji
    (_EVENT, b"\xff\xfe{"),
    (_EVENT, b" " * 60_000),
)


def run(here: World, chance: random.Random, *, short: bool) -> Iterator[Check]:
    number = 200 if short else 10_000
    here.empty()
    here.add(["safe-1", "safe-2"], acceptance_criteria="")
    with Agent() as agent, here.system(agent.url) as system:
        before = here.rows()
        for name in ("dispatch", "reap", "feeder"):
            port = getattr(system.ports, name)
            yield generated(name, port, number // 3 + 1, chance.randrange(2**32))
            yield _oversize(name, port)
        broken = [] if here.rows() == before and not agent.posts else ["a bead was changed"]
        logs = "".join(process.log.read_text(errors="replace") for process in system.processes.values())
        broken += ["a traceback in a log"] if "Traceback" in logs else []
        broken += ["the token in a log"] if SECRET in logs else []
        broken += [f"{name} died" for name, process in system.processes.items() if not process.running]
        yield check("afterwards", "no bead changed, no traceback, no token in a log, all alive", broken)
        if not short:
            yield _slow_senders(system.ports.feeder, 60, 90)
    if short:
        yield _slow_senders_in_short()


def generated(name: str, port: int, number: int, seed: int) -> Check:
    """Generated events, and those known to be bad."""
    statuses: collections.Counter[int] = collections.Counter()
    wrong: list[str] = []

    def send(headers: Mapping[str, str], body: bytes) -> None:
        status, answer = request(port, headers, body)
        statuses[status] += 1
        if status == 0 or status >= 500 or SECRET.encode() in answer or b"Traceback" in answer:
            wrong.append(f"{status} for {dict(headers)} {body[:80]!r}: {answer[:120]!r}")

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=number, deadline=None, database=None, phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(_requests)
    def every(what: tuple[dict[str, str], str, bytes]) -> None:
        headers, content_type, body = what
        send({**headers, "content-type": content_type}, body)

    every()
    for content_type, body in KNOWN_BAD:
        send({"content-type": content_type}, body)
    figures = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
    return check(f"{name}: generated and known bad events", figures, wrong)


def request(port: int, headers: Mapping[str, str], body: bytes, seconds: float = 20) -> tuple[int, bytes]:
    """POST bytes as they are; the status (0: none came) and the whole answer."""
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if "\r" not in value and "\n" not in value)
    message = (
        f"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {SECRET}\r\n"
        f"Content-Length: {len(body)}\r\n{head}\r\n"
    ).encode("latin-1", "replace") + body
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        with contextlib.suppress(ConnectionError, BrokenPipeError):
            connection.sendall(message)
        with contextlib.suppress(ConnectionError, TimeoutError):
            while chunk := connection.recv(65536):
                answer += chunk
    return _status(answer), answer


def _status(answer: bytes) -> int:
    parts = answer.split(b" ", 2)
    return int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0


def _oversize(name: str, port: int) -> Check:
    """A body that is announced as 10 GB, and one that never ends: refused before it is read."""
    wrong = []
    began = time.monotonic()
    status, taken = _flood(port, "Content-Length: 10000000000\r\n", chunked=False)
    if not 400 <= status < 500:
        wrong.append(f"10 GB announced: {status}")
    endless, more = _flood(port, "Transfer-Encoding: chunked\r\n", chunked=True)
    if endless >= 500 or (endless == 0 and more > 100 * _LIMIT):
        wrong.append(f"an endless body: {endless} after {more} bytes")
    figures = (
        f"10 GB announced: {status} after {taken // 1024} KB; endless: {endless or 'closed'} after {more // 1024} KB;"
        f" {time.monotonic() - began:.1f} s"
    )
    return check(f"{name}: oversize bodies", figures, wrong)


def _flood(port: int, header: str, *, chunked: bool) -> tuple[int, int]:
    """Send a body until the server answers or hangs up; its status, and the bytes that were sent."""
    piece = b"x" * 16384
    chunk = b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece
    sent, answer = 0, b""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/cloudevents+json\r\n{header}\r\n"
        connection.sendall(head.encode())
        connection.settimeout(0.05)
        until = time.monotonic() + 20
        while time.monotonic() < until and sent < 200 * _LIMIT:
            with contextlib.suppress(TimeoutError):
                try:
                    connection.sendall(chunk)
                    sent += len(chunk)
                    answer += connection.recv(65536)
                except (ConnectionError, BrokenPipeError):
                    break
            if answer:
                break
        connection.settimeout(2)
        with contextlib.suppress(OSError):
            answer += connection.recv(65536)
    return _status(answer), sent


def _slow_senders(port: int, number: int, seconds: float) -> Check:
    """Connections that send a request byte by byte: others are served again when the time limit has ended them."""
    stop = threading.Event()

    def trickle(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            while not stop.wait(0.5):
                connection.sendall(b".")

    for _ in range(number):
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        threading.Thread(target=trickle, args=(connection,), daemon=True).start()
    began = time.monotonic()
    served = False
    while not served and time.monotonic() - began < seconds:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as probe:
            probe.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            probe.settimeout(seconds)
            served = b" 200 " in probe.recv(100)
    took = time.monotonic() - began
    stop.set()
    figures = f"{number} of them, /healthz answered after {took:.1f} s"
    return check("feeder: requests sent byte by byte", figures, [] if served else ["never served"])


def _slow_senders_in_short() -> Check:
    """The same on an endpoint in this process with much lower limits."""
    feeder = settings.FeederSettings("http://127.0.0.1:9/", {}, port=processes.free_port(), host="127.0.0.1")
    unused: Any = None
    with mock.patch.multiple(endpoint, _IDLE_SECONDS=1, _CLEANUP_SECONDS=1, _CONNECTIONS=10):
        server = endpoint.serve(endpoint.Endpoint({}, HealthState(), unused), feeder)
    threading.Thread(target=servers.run_until_closed, args=(server,), daemon=True).start()
    try:
        return _slow_senders(feeder.port, 15, 15)
    finally:
        server.close()
