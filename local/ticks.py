"""The PingSources without Knative: the ticks of knative/base, sent on their schedule."""

import json
import pathlib
import re
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from beads_dispatch import events, log
from beads_dispatch.log import Action
from local import manifests
from local.manifests import ManifestError

logger = log.get("ticks")

SOURCES = "sources.knative.dev"
NAMESPACE = "local"

_TIMEOUT_SECONDS = 120  # the Broker answers when the subscribers are done; above a cold start and its retries
_EVERY = re.compile(r"\*/([1-9][0-9]?) \* \* \* \*")


@dataclass(frozen=True)
class TickSource:
    """A PingSource, as its manifest describes its ticks."""

    name: str
    every_minutes: int
    data: Any = None
    extensions: Mapping[str, str] = field(default_factory=dict)

    def tick(self) -> events.Event:
        """The next event: a random id, the time set when it is sent."""
        source = f"/apis/v1/namespaces/{NAMESPACE}/pingsources/{self.name}"
        return events.Event(str(uuid.uuid4()), source, events.TICK, extensions=self.extensions, data=self.data)

    def seconds_until_next(self, now: datetime) -> float:
        """Cron's `*/N`: at every full minute that N divides, starting again with each hour."""
        minute = now.replace(second=0, microsecond=0)
        minutes = min(self.every_minutes - now.minute % self.every_minutes, 60 - now.minute)
        return (minute + timedelta(minutes=minutes) - now).total_seconds()


def load_sources(folder: pathlib.Path) -> tuple[TickSource, ...]:
    """The PingSources in the folder's manifests. Raises ManifestError, which names the file and the PingSource."""
    return manifests.load(folder, SOURCES, "PingSource", _source)


class Ticks:
    """Sends every source's ticks to the sink, each source in a thread of its own: an answer may take long."""

    def __init__(
        self, sources: tuple[TickSource, ...], sink: str, period_seconds: Mapping[str, float] | None = None
    ) -> None:
        """`period_seconds`: between ticks, by the source's name, in place of its schedule."""
        self._sources = sources
        self._sink = sink
        self._periods = dict(period_seconds or {})
        unknown = self._periods.keys() - {source.name for source in sources}
        if unknown:
            raise ValueError(f"a period is given for {', '.join(sorted(unknown))}, but no PingSource has that name")

    def run(self, stop: threading.Event) -> None:
        """Tick until `stop` is set; returns when the last answer has come."""
        threads = [
            threading.Thread(target=self._run_one, args=(source, stop), name=f"tick-{source.name}", daemon=True)
            for source in self._sources
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _run_one(self, source: TickSource, stop: threading.Event) -> None:
        period, accepted = self._periods.get(source.name), True
        with httpx.Client(timeout=_TIMEOUT_SECONDS, trust_env=False) as client:
            while not stop.wait(source.seconds_until_next(datetime.now(UTC)) if period is None else period):
                problem = self._send(client, source)
                if stop.is_set():
                    return
                if problem and accepted:
                    extra = log.context(action=Action.SINK_DOWN, source=source.name)
                    logger.warning(f"a tick was not accepted: {problem}", extra=extra)
                if not problem and not accepted:
                    extra = log.context(action=Action.SINK_UP, source=source.name)
                    logger.warning("ticks are accepted again", extra=extra)
                accepted = not problem

    def _send(self, client: httpx.Client, source: TickSource) -> str | None:
        """POST one tick; returns what failed, or None. A lost tick is not sent again: the next one does its work."""
        headers, body = events.to_http(source.tick())
        try:
            response = client.post(self._sink, headers=headers, content=body)
        except httpx.HTTPError as exc:
            return f"no answer ({type(exc).__name__}: {exc})"
        return None if response.is_success else f"HTTP {response.status_code}"


def _source(name: str, spec: manifests.Manifest) -> TickSource:
    manifests.table(spec, "spec", ("schedule", "contentType", "data", "sink", "ceOverrides"))
    schedule = _EVERY.fullmatch(str(spec.get("schedule")))
    if not schedule or int(schedule[1]) > 59:
        raise ManifestError(f"spec.schedule is {spec.get('schedule')!r}, expected */N * * * * with N from 1 to 59")
    if spec.get("contentType") != "application/json":
        raise ManifestError(f"spec.contentType is {spec.get('contentType')!r}, expected application/json")
    overrides = manifests.table(spec.get("ceOverrides"), "spec.ceOverrides", ("extensions",))
    where = "spec.ceOverrides.extensions"
    extensions = manifests.table(overrides.get("extensions"), where)
    for attribute, value in extensions.items():
        manifests.require_text(value, f"{where}.{attribute}")
    return TickSource(name, int(schedule[1]), _json(spec.get("data")), extensions)


def _json(text: Any) -> Any:
    try:
        return json.loads(text) if text else None
    except (TypeError, ValueError):
        raise ManifestError(f"spec.data is {text!r}, expected JSON in quotes") from None
