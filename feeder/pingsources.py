"""Watches the PingSources `dispatch` and `reap`, and mirrors `suspend=true` on them into Dolt.

`kn source ping update dispatch --ce-override suspend=true` lands in .spec.ceOverrides.extensions.suspend. Dispatch
and reap read the mirror before every claim, so that they need no access to Kubernetes.
"""

import functools
import json
import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from beads_dispatch import credentials, log, store, suspension
from beads_dispatch.log import Action
from feeder.changes import RequestReason
from feeder.emitter import Backoff

logger = log.get("feeder")

NAMES = ("dispatch", "reap")

_ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
_WATCH_SECONDS = 240  # then the API server ends the watch, and everything is listed again
_TIMEOUT = httpx.Timeout(_WATCH_SECONDS + 30, connect=10)
_PAUSE_SECONDS = 1.0  # before the next watch, in case the API server ends each at once
_token = functools.cache(credentials.token_file)
_trusting = functools.cache(credentials.ca_file)


class WatchError(Exception):
    """The API server cannot be reached, refuses, or gives an odd answer. The text gives the reason."""


@dataclass(frozen=True)
class Cluster:
    """Where the PingSources are, and the credentials for the API server."""

    url: str
    account: pathlib.Path  # a folder with `token` and `ca.crt`


@dataclass(frozen=True)
class SuspendState:
    """Whether one PingSource is suspended, in one of its versions."""

    name: str
    suspended: bool
    version: str


def cluster(env: Mapping[str, str]) -> Cluster | None:
    """The cluster that this process runs in; None outside of one, or where no token is mounted."""
    host = env.get("KUBERNETES_SERVICE_HOST")
    if not host or not (_ACCOUNT / "token").is_file():
        return None
    server = f"[{host}]" if ":" in host else host
    namespace = (_ACCOUNT / "namespace").read_text().strip()
    port = env.get("KUBERNETES_SERVICE_PORT", "443")
    return Cluster(f"https://{server}:{port}/apis/sources.knative.dev/v1/namespaces/{namespace}/pingsources", _ACCOUNT)


def state(pingsource: object) -> SuspendState | None:
    """Whether a PingSource is suspended; None for one that is not ours. Pure. Raises WatchError."""
    pingsource = _object(pingsource, "a PingSource")
    metadata = _object(pingsource.get("metadata") or {}, "a PingSource's metadata")
    if metadata.get("name") not in NAMES:
        return None
    extensions = pingsource
    for name in ("spec", "ceOverrides", "extensions"):
        extensions = _object(extensions.get(name) or {}, f"a PingSource's {name}")
    suspended = suspension.in_extension(extensions.get("suspend", ""))
    return SuspendState(metadata["name"], suspended, str(metadata.get("resourceVersion", "")))


def watch(cluster: Cluster) -> Iterator[SuspendState]:
    """Each PingSource as it is, then each change of one; ends when the API server ends the watch.

    Raises WatchError.
    """
    try:
        # Read again for each watch: Kubernetes replaces the token within the hour.
        headers = {"authorization": f"Bearer {_token(str(cluster.account / 'token')).value()}"}
        verify = _trusting(str(cluster.account / "ca.crt")).value()
        with httpx.Client(headers=headers, verify=verify, timeout=_TIMEOUT, trust_env=False) as client:
            objects = _objects(client, cluster.url)
            yield from (found for pingsource in objects if (found := state(pingsource)))
    except (httpx.HTTPError, ValueError, OSError, RecursionError) as exc:
        raise WatchError(f"{type(exc).__name__}: {exc}") from exc


def _objects(client: httpx.Client, url: str) -> Iterator[object]:
    listed = client.get(url)
    if not listed.is_success:
        raise WatchError(f"listing PingSources was answered with HTTP {listed.status_code}")
    found = _object(listed.json(), "the list of PingSources")
    items, since = found.get("items"), _object(found.get("metadata"), "the list's metadata").get("resourceVersion")
    if not isinstance(items, list) or not isinstance(since, str):
        raise WatchError("the list of PingSources has no items, or no version")
    yield from items
    following = {"watch": "true", "resourceVersion": since, "timeoutSeconds": str(_WATCH_SECONDS)}
    with client.stream("GET", url, params=following) as response:
        if not response.is_success:
            raise WatchError(f"watching PingSources was answered with HTTP {response.status_code}")
        for line in response.iter_lines():
            event = _object(json.loads(line), "an event of the watch")
            if event.get("type") in ("ADDED", "MODIFIED"):
                yield event.get("object")
            elif event.get("type") not in ("BOOKMARK", "DELETED"):
                # ERROR: the watch is over; code 410 where the version is too old to continue from.
                error = _object(event.get("object"), "an error of the watch")
                raise WatchError(f"the watch ended with {error.get('code')}: {error.get('message')}")


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise WatchError(f"{what} is not an object but {type(value).__name__}")
    return value


class SuspendMirror:
    """Mirrors the PingSources' state into Dolt, and requests a pass when dispatch is resumed."""

    def __init__(self, beads: store.Store, request: Callable[[RequestReason], None]) -> None:
        """`beads` is its own."""
        self._beads = beads
        self._request = request
        self._known: dict[str, bool] = {}

    def apply(self, state: SuspendState) -> None:
        """Mirror a state. Raises StoreError."""
        # Known or not: our database may have been dropped meanwhile. The same again is no transaction on Dolt (tried).
        self._beads.control.mirror_pingsource(state.name, state.suspended)
        known = self._known.get(state.name)
        if known == state.suspended:
            return
        logger.info(
            f"the PingSource {state.name} is {'suspended' if state.suspended else 'not suspended'}",
            extra=log.context(action=Action.PINGSOURCE, source=state.name),
        )
        if known and state.name == "dispatch":
            self._request(RequestReason("resume", f"pingsource-dispatch-{state.version}"))
        self._known[state.name] = state.suspended

    def run(self, cluster: Cluster, stop: threading.Event) -> None:
        """Watch until `stop` is set; an outage, or a series of odd answers, is logged once. For a thread of its own."""
        backoff = Backoff()
        while not stop.is_set():
            try:
                for found in watch(cluster):
                    self.apply(found)
                    if stop.is_set():
                        return
                backoff.reset()  # not before: a list may be fine, and the watch after it odd each time
                stop.wait(_PAUSE_SECONDS)
            except (WatchError, store.StoreError) as exc:
                message = f"cannot watch whether the PingSources are suspended: {exc}; trying again"
                stop.wait(backoff.failed(message, Action.PINGSOURCE))


def watcher(
    beads: store.Store, request: Callable[[RequestReason], None], stop: threading.Event
) -> Callable[[], None] | None:
    """What watches in a thread of its own; None outside a cluster, where only bd's config suspends."""
    found = cluster(os.environ)
    return functools.partial(SuspendMirror(beads, request).run, found, stop) if found else None
