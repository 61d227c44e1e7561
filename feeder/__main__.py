"""python -m feeder: the process that always runs. Settings come from the environment; see --help."""

import argparse
import os
import signal
import sys
import threading

from beads_dispatch import events, log, settings, store
from beads_dispatch.agents import beadboard
from beads_dispatch.log import Action
from feeder import changes, http, metrics, pingsources
from feeder.eligibility_check import EligibilityCheck, PendingRequest
from feeder.emitter import Backoff, Emitter, SinkError
from feeder.feed import ChangeFeed, Unfit
from feeder.health import HealthState

logger = log.get("feeder")

_STOP_SECONDS = 10  # for what is under way; Kubernetes kills after 30

_HELP = """\
Tails Dolt's binlog and POSTs CloudEvents to K_SINK; answers ticks on PORT.

environment:
  K_SINK               where events go (needed)
  DOLT_HOST, DOLT_PORT, DOLT_USER, DOLT_PASSWORD or DOLT_PASSWORD_FILE, DOLT_DATABASE
                       the beads' Dolt server; or BEADS_DIR, a bd workspace's .beads folder
  PORT                 for ticks, /healthz, /readyz and /metrics (8080)
  AGENT_ASSIGNEE       the sentinel that beads are assigned to (beadboard)
  BEADBOARD_URL, AGENT_HEALTH_URL
                       the agent service; without it a tick does not ask whether it is busy
  MAX_IN_FLIGHT (1), SLOT_SILENCE_MINUTES (10), CLAIM_TIMEOUT_SECONDS (120), REAP_AFTER_MINUTES (30)
"""


def main() -> int:
    """Run until SIGTERM or SIGINT; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m feeder", description=_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    log.configure("feeder")
    try:
        dolt, limits, feed = settings.dolt(os.environ), settings.limits(os.environ), settings.feeder(os.environ)
        service = beadboard.BeadBoard(settings.agent(os.environ)) if os.environ.get("BEADBOARD_URL") else None
    except settings.SettingsError as exc:
        return _fail(str(exc))

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    health, pending = HealthState(), PendingRequest()
    reader = ChangeFeed(dolt, limits.assignee, Emitter(feed), pending, health, stop)
    try:
        scrape = metrics.Scrape(store.Store(dolt), limits.assignee, health)
        server = http.serve(http.Endpoint(EligibilityCheck(store.Store(dolt), limits, service), health, scrape), feed)
    except OSError as exc:
        return _fail(f"cannot listen on {feed.host}:{feed.port} ({exc.strerror}); set PORT to a free one.")
    threading.Thread(target=server.run, name="http", daemon=True).start()
    try:
        if not reader.prepare():
            return 0
    except Unfit as exc:
        return _fail(str(exc))
    health.prepared()
    logger.info("reading the binlog", extra=log.context(action=Action.START, database=dolt.database))

    pingsources.start(store.Store(dolt), pending.ask, stop)
    requests = EligibilityCheck(store.Store(dolt), limits, None)
    threads = [
        threading.Thread(target=reader.run, name="feed", daemon=True),
        threading.Thread(target=reader.keep_position, name="position", daemon=True),
        threading.Thread(
            target=send_requests, args=(pending, requests, Emitter(feed), stop), name="requests", daemon=True
        ),
    ]
    for thread in threads:
        thread.start()
    while not stop.wait(1.0) and all(thread.is_alive() for thread in threads):
        pass
    failed = not stop.is_set()
    stop.set()
    reader.close()
    for thread in threads[:2]:  # a request that is under way is made good by the next tick
        thread.join(_STOP_SECONDS)
    logger.info("stopped", extra=log.context(action=Action.STOP))
    return 1 if failed else 0


def send_requests(pending: PendingRequest, gate: EligibilityCheck, emitter: Emitter, stop: threading.Event) -> None:
    """Ask the gate for each cause, and the sink for a pass when there is work; one request at a time."""
    backoff = Backoff()
    while not stop.is_set():
        cause = pending.take(timeout_seconds=1.0)
        if cause is None:
            continue
        try:
            waiting = gate.waiting()
            if waiting:
                emitter.send(changes.request(cause, waiting, events.DISPATCH_REQUESTED))
                metrics.REQUESTS.labels("dispatch", cause.cause).inc()
            backoff.reset()
        except (SinkError, store.StoreError) as exc:
            if backoff.first:
                logger.warning(f"work cannot be asked for: {exc}", extra=log.context(action=Action.REQUEST))
            pending.ask(cause)
            stop.wait(backoff.next_seconds())


def _fail(message: str) -> int:
    print(f"feeder cannot start: {message}", file=sys.stderr)
    return os.EX_CONFIG


if __name__ == "__main__":
    sys.exit(main())
