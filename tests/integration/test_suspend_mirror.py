"""The mirror of the PingSources' suspension, against an API server that gives odd answers."""

import json
import pathlib
import shutil
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from beads_dispatch import store
from feeder import pingsources
from feeder.changes import RequestReason
from tests import support
from tests.certificates import Certificates
from tests.conftest import Beads
from tests.support import wait_for
from tools.servers import Handler, HttpServer, hangs_up

pytestmark = pytest.mark.parametrize("workspace", ["1.3.0"], indirect=True)


def pingsource(name: str, suspend: str) -> dict[str, Any]:
    metadata = {"name": name, "resourceVersion": "7"}
    return {"metadata": metadata, "spec": {"ceOverrides": {"extensions": {"suspend": suspend}}}}


def listed(*items: Any, **more: Any) -> bytes:
    return json.dumps({"items": items, "metadata": {"resourceVersion": "7"}, **more}).encode()


def event(kind: str, of: object) -> bytes:
    return json.dumps({"type": kind, "object": of}).encode() + b"\n"


DISPATCH = pingsource("dispatch", "true")
EXPIRED = {"kind": "Status", "status": "Failure", "message": "too old resource version", "code": 410}
ODD_LISTS = {
    "no items": b'{"metadata": {"resourceVersion": "7"}}',
    "items null": b'{"items": null, "metadata": {"resourceVersion": "7"}}',
    "items an object": b'{"items": {"a": 1}, "metadata": {"resourceVersion": "7"}}',
    "text for a PingSource": listed("dispatch"),
    "text for metadata": listed({"metadata": "dispatch"}),
    "text for spec": listed({"metadata": {"name": "dispatch"}, "spec": "x"}),
    "text for ceOverrides": listed({"metadata": {"name": "dispatch"}, "spec": {"ceOverrides": "x"}}),
    "text for extensions": listed({"metadata": {"name": "dispatch"}, "spec": {"ceOverrides": {"extensions": "x"}}}),
    "no version": b'{"items": []}',
    "text for the list's metadata": listed(metadata="x"),
    "a list": b"[]",
    "text": b'"PingSourceList"',
    "null": b"null",
    "half a line": listed()[:20],
    "no JSON": b"<html>",
    "not UTF-8": b"\xff\xfe{}",
    "nested too deep": b"[" * 100_000,
    "nothing": b"",
}
ODD_EVENTS = {
    "an event without object": b'{"type": "MODIFIED"}\n',
    "text for the object": event("MODIFIED", "dispatch"),
    "an error 410": event("ERROR", EXPIRED),
    "an error without status": event("ERROR", None),
    "an event without type": b'{"object": {}}\n',
    "an unknown type": event("RENAMED", {}),
    "a list": b"[]\n",
    "half a line": event("MODIFIED", DISPATCH)[:40],
    "an empty line": b"\n",
    "nested too deep": b"[" * 100_000 + b"\n",
}


class ApiServer(HttpServer):
    """Answers a list with `list`, and a watch with the first of `watches`, then one that ends at `release`."""

    def __init__(self) -> None:
        self.list = listed(DISPATCH)
        self.status = 200
        self.watches: deque[bytes] = deque()
        self.tokens: list[str] = []
        self.watched = 0
        self.release = threading.Event()
        super().__init__(hangs_up)

    def get(self, handler: Handler) -> None:
        self.tokens.append(handler.headers["Authorization"])
        if "watch=true" not in handler.path:
            handler.answer(self.status, self.list)
            return
        self.watched += 1
        handler.close_connection = True
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        if self.watches:
            handler.wfile.write(self.watches.popleft())
            return
        self.release.wait()

    def close(self) -> None:
        self.release.set()
        super().close()


@dataclass
class Mirror:
    """A mirror that runs in a thread, with a store of its own."""

    beads: Beads
    own: store.Store
    api: ApiServer
    account: pathlib.Path
    requests: list[RequestReason] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        mirror = pingsources.SuspendMirror(self.own, self.requests.append)
        cluster = pingsources.Cluster(f"{self.api.url}/pingsources", self.account)
        self.thread = threading.Thread(target=mirror.run, args=(cluster, self.stop), daemon=True)
        self.thread.start()

    @property
    def suspended(self) -> bool:
        """As dispatch reads it."""
        rows = self.beads.sql("SELECT suspended FROM beads_dispatch.switches WHERE name = 'dispatch' AND suspended")
        return bool(rows)


@pytest.fixture
def mirror(beads: Beads, certificates: Certificates, tmp_path: pathlib.Path) -> Iterator[Mirror]:
    beads.store.feed_state.prepare()
    shutil.copy(certificates.ca, tmp_path / "ca.crt")
    (tmp_path / "token").write_text("t0ken-1")
    with support.closing(ApiServer()) as api, support.closing(store.Store(beads.dolt)) as own:
        certificates.serve_tls(api)
        mirror = Mirror(beads, own, api, tmp_path)
        yield mirror
        mirror.stop.set()
        api.release.set()
        mirror.thread.join(support.PATIENCE_SECONDS)
        assert not mirror.thread.is_alive()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.message for record in caplog.records if record.name == "beads.feeder" and record.levelname == "WARNING"
    ]


@pytest.mark.parametrize("odd", ODD_LISTS)
def test_an_odd_list_is_logged_once_and_asked_for_again(
    mirror: Mirror, caplog: pytest.LogCaptureFixture, odd: str
) -> None:
    """What was mirrored before stays."""
    mirror.start()
    wait_for(lambda: mirror.api.watched, "the watch")
    assert mirror.suspended
    mirror.api.list = ODD_LISTS[odd]
    mirror.api.release.set()
    asked = len(mirror.api.tokens)
    wait_for(lambda: len(mirror.api.tokens) >= asked + 3, "it is asked for again")
    assert mirror.thread.is_alive() and mirror.suspended
    assert len(warnings(caplog)) == 1 and "cannot watch" in warnings(caplog)[0]
    mirror.api.release.clear()
    mirror.api.list = listed(pingsource("dispatch", "false"))
    wait_for(lambda: mirror.requests, "dispatch is resumed")
    assert not mirror.suspended


@pytest.mark.parametrize("odd", ODD_EVENTS)
def test_an_odd_event_is_logged_once_and_the_watch_begun_again(
    mirror: Mirror, caplog: pytest.LogCaptureFixture, odd: str
) -> None:
    """As often as it comes; a list that is fine before it does not count as success."""
    mirror.api.watches.extend([ODD_EVENTS[odd]] * 3)
    mirror.start()
    wait_for(lambda: mirror.api.watched == 4, "the fourth watch")
    assert mirror.thread.is_alive() and mirror.suspended
    assert len(warnings(caplog)) == 1 and "cannot watch" in warnings(caplog)[0]


def test_a_change_is_mirrored_and_other_events_are_not(mirror: Mirror) -> None:
    """BOOKMARK and DELETED change nothing."""
    mirror.api.watches.append(event("BOOKMARK", {"metadata": {}}) + event("DELETED", DISPATCH))
    mirror.api.watches.append(event("MODIFIED", pingsource("reap", "true")))
    mirror.start()
    wait_for(lambda: mirror.beads.store.control.suspension().reap, "reap is suspended")
    assert mirror.suspended and not mirror.requests


def test_a_mirror_that_was_lost_is_written_again(mirror: Mirror, caplog: pytest.LogCaptureFixture) -> None:
    """Our database may be dropped: the next list has the state, and nobody resumed anything."""
    caplog.set_level("INFO")
    mirror.start()
    wait_for(lambda: mirror.api.watched, "the watch")
    mirror.beads.sql("DELETE FROM beads_dispatch.switches")
    mirror.api.release.set()
    wait_for(lambda: mirror.suspended, "it is mirrored again")
    assert not mirror.requests
    assert len([record for record in caplog.records if "is suspended" in record.message]) == 1


@pytest.mark.parametrize("code", [401, 403, 500])
def test_a_refused_list_is_logged_once(mirror: Mirror, caplog: pytest.LogCaptureFixture, code: int) -> None:
    mirror.api.status = code
    mirror.start()
    wait_for(lambda: len(mirror.api.tokens) >= 3, "it is asked for again")
    mirror.api.status = 200
    wait_for(lambda: mirror.suspended, "it is mirrored")
    (warning,) = warnings(caplog)
    assert f"HTTP {code}" in warning


def test_token_and_ca_are_read_again_and_may_be_away(
    mirror: Mirror, caplog: pytest.LogCaptureFixture, certificates: Certificates
) -> None:
    """Kubernetes replaces the token within the hour."""
    mirror.api.watches.extend([b""] * 3)
    mirror.start()
    wait_for(lambda: mirror.api.watched, "the first watch")
    (mirror.account / "token").write_text("t0ken-2")
    wait_for(lambda: mirror.api.tokens[-1] == "Bearer t0ken-2", "the new token")
    (mirror.account / "token").unlink()
    (mirror.account / "ca.crt").unlink()
    asked = len(mirror.api.tokens)
    mirror.api.release.set()
    wait_for(lambda: len(mirror.api.tokens) > asked + 2, "it is asked for again")
    assert mirror.api.tokens[-1] == "Bearer t0ken-2" and mirror.suspended
    assert not warnings(caplog)
    assert len([record for record in caplog.records if record.name == "beads.credentials"]) == 2
    shutil.copy(certificates.other_ca, mirror.account / "ca.crt")
    wait_for(lambda: warnings(caplog), "the API server is not trusted")
    assert "CERTIFICATE_VERIFY_FAILED" in warnings(caplog)[0] and "t0ken" not in caplog.text
