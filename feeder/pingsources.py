"""Watches the PingSources `dispatch` and `reap`, and mirrors `suspend=true` on them into Dolt.

`kn source ping update dispatch --ce-override suspend=true` lands in .spec.ceOverrides.extensions.suspend. Dispatch
and reap read the mirror before every claim, so that they need no access to Kubernetes.
"""

import json
import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from beads_dispatch import log, store
from beads_dispatch.log import Action
from feeder.changes import RequestReason
from feeder.emitter import Backoff

logger = log.get("feeder")

NAMES = ("dispatch", "reap")

_ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
_WATCH_SECONDS = 240  # then the API server ends the watch, and we look at everything anew
_SILENCE_SECONDS = _WATCH_SECONDS + 30


class WatchError(Exception):
    """The API server cannot be reached or refuses; the text says how."""


@dataclass(frozen=True)
class Cluster:
    """Where the API server is, and who we are to it."""

    url: str
    namespace: str
    token_file: pathlib.Path
    ca_file: pathlib.Path | None


@dataclass(frozen=True)
class SuspendState:
    """The state of one PingSource's switch."""

    name: str
    suspended: bool
    version: str


def cluster(env: Mapping[str, str]) -> Cluster | None:
    """The cluster that this process runs in; None outside of one, or where no token is mounted."""
    host = env.get("KUBERNETES_SERVICE_HOST")
    if not host or not (_ACCOUNT / "token").is_file():
        return None
    address = f"[{host}]" if ":" in host else host
    return Cluster(
        url=f"https://{address}:{env.get('KUBERNETES_SERVICE_PORT', '443')}",
        namespace=(_ACCOUNT / "namespace").read_text().strip(),
        token_file=_ACCOUNT / "token",
        ca_file=_ACCOUNT / "ca.crt",
    )


def state(pingsource: Mapping[str, Any]) -> SuspendState | None:
    """What a PingSource says of the switch; None for one that is not ours. Pure."""
    metadata = pingsource.get("metadata") or {}
    if metadata.get("name") not in NAMES:
        return None
    extensions = ((pingsource.get("spec") or {}).get("ceOverrides") or {}).get("extensions") or {}
    suspended = str(extensions.get("suspend", "")).strip().lower() == "true"
    return SuspendState(metadata["name"], suspended, str(metadata.get("resourceVersion", "")))


def watch(cluster: Cluster) -> Iterator[SuspendState]:
    """Each PingSource as it is, then each change of one; ends when the API server ends the watch.

    Raises WatchError.
    """
    url = f"{cluster.url}/apis/sources.knative.dev/v1/namespaces/{cluster.namespace}/pingsources"
    # Read anew for each watch: Kubernetes replaces the token within the hour.
    headers = {"authorization": f"Bearer {cluster.token_file.read_text().strip()}"}
    verify = str(cluster.ca_file) if cluster.ca_file else False
    try:
        with httpx.Client(headers=headers, verify=verify, timeout=_SILENCE_SECONDS, trust_env=False) as client:
            listed = client.get(url)
            if not listed.is_success:
                raise WatchError(f"listing PingSources was answered with HTTP {listed.status_code}")
            found = listed.json()
            yield from (switched for item in found["items"] if (switched := state(item)))
            following = {
                "watch": "true",
                "resourceVersion": found["metadata"]["resourceVersion"],
                "timeoutSeconds": str(_WATCH_SECONDS),
            }
            with client.stream("GET", url, params=following) as response:
                if not response.is_success:
                    raise WatchError(f"watching PingSources was answered with HTTP {response.status_code}")
                for line in response.iter_lines():
                    event = json.loads(line)
                    if event["type"] in ("ADDED", "MODIFIED") and (switched := state(event["object"])):
                        yield switched
    except (httpx.HTTPError, ValueError, KeyError, OSError) as exc:
        raise WatchError(f"{type(exc).__name__}: {exc}") from exc


class SuspendMirror:
    """Keeps the mirror in Dolt in step with the PingSources, and asks for work when dispatch is resumed."""

    def __init__(self, beads: store.Store, ask: Callable[[RequestReason], None]) -> None:
        self._beads = beads
        self._ask = ask
        self._known: dict[str, bool] = {}

    def take(self, switched: SuspendState) -> None:
        """SuspendMirror a state, if it is news. Raises StoreError."""
        if self._known.get(switched.name) == switched.suspended:
            return
        self._beads.control.mirror_pingsource(switched.name, switched.suspended)
        said = "suspended" if switched.suspended else "not suspended"
        logger.info(f"{switched.name} is {said}", extra=log.context(action=Action.PINGSOURCE, source=switched.name))
        if self._known.get(switched.name) and switched.name == "dispatch":
            self._ask(RequestReason("resume", f"pingsource-dispatch-{switched.version}"))
        self._known[switched.name] = switched.suspended

    def run(self, cluster: Cluster, stop: threading.Event) -> None:
        """Watch until told to stop; an outage is said once. For a thread of its own."""
        backoff = Backoff()
        while not stop.is_set():
            try:
                for switched in watch(cluster):
                    self.take(switched)
                    backoff.reset()
                    if stop.is_set():
                        return
            except (WatchError, store.StoreError) as exc:
                if backoff.first:
                    logger.warning(
                        f"the switch on the PingSources cannot be followed: {exc}; trying again",
                        extra=log.context(action=Action.PINGSOURCE),
                    )
                stop.wait(backoff.next_seconds())


def start(beads: store.Store, ask: Callable[[RequestReason], None], stop: threading.Event) -> bool:
    """Follow the switch in a thread of its own; False outside a cluster, where bd's config is the only switch."""
    found = cluster(os.environ)
    if found is None:
        return False
    threading.Thread(target=SuspendMirror(beads, ask).run, args=(found, stop), name="switch", daemon=True).start()
    return True
