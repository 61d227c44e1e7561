"""python -m feeder: the process that always runs. Settings come from the environment; see --help."""

import argparse
import os
import signal
import sys
import threading

from beads import agent, events, log, settings, store
from feeder import changes, http, metrics, switch
from feeder.emitter import Backoff, Emitter, SinkError
from feeder.feed import Feed, Unfit
from feeder.gate import Gate, Wanted
from feeder.health import Pulse

logger = log.get("feeder")

_STOP_SECONDS = 10  # for what is under way; Kubernetes kills after 30

_HELP = """\
Tails Dolt's binlog and POSTs CloudEvents to K_SINK; answers ticks on PORT.

environment:
  K_SINK               where events go (needed)
  DOLT_HOST, DOLT_PORT, DOLT_USER, DOLT_PASSWORD or DOLT_PASSWORD_FILE, DOLT_DATABASE
                       the beads' Dolt server; or BEADS_DIR, a bd workspace's .beads folder
  PORT                 for ticks, /healthz, /readyz and /metrics (8080)
  AGENT_ASSIGNEE       the sentinel that beads are assigned to (agent)
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
        dolt, rules, feed = settings.dolt(os.environ), settings.rules(os.environ), settings.feed(os.environ)
        service = agent.AgentService(settings.agent(os.environ)) if os.environ.get("BEADBOARD_URL") else None
    except settings.SettingsError as exc:
        return _fail(str(exc))

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    pulse, wanted = Pulse(), Wanted()
    reader = Feed(dolt, rules.assignee, Emitter(feed), wanted, pulse, stop)
    try:
        scrape = metrics.Scrape(store.Store(dolt), rules.assignee, pulse)
        server = http.serve(http.Endpoint(Gate(store.Store(dolt), rules, service), pulse, scrape), feed)
    except OSError as exc:
        return _fail(f"cannot listen on {feed.host}:{feed.port} ({exc.strerror}); set PORT to a free one.")
    threading.Thread(target=server.run, name="http", daemon=True).start()
    try:
        if not reader.prepare():
            return 0
    except Unfit as exc:
        return _fail(str(exc))
    pulse.prepared()
    logger.info("reading the binlog", extra=log.context(action="start", database=dolt.database))

    switch.start(store.Store(dolt), wanted.ask, stop)
    requests = Gate(store.Store(dolt), rules, None)
    threads = [
        threading.Thread(target=reader.run, name="feed", daemon=True),
        threading.Thread(target=reader.keep_position, name="position", daemon=True),
        threading.Thread(
            target=send_requests, args=(wanted, requests, Emitter(feed), stop), name="requests", daemon=True
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
    logger.info("stopped", extra=log.context(action="stop"))
    return 1 if failed else 0


def send_requests(wanted: Wanted, gate: Gate, emitter: Emitter, stop: threading.Event) -> None:
    """Ask the gate for each cause, and the sink for a pass when there is work; one request at a time."""
    backoff = Backoff()
    while not stop.is_set():
        cause = wanted.take(timeout_seconds=1.0)
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
                logger.warning(f"work cannot be asked for: {exc}", extra=log.context(action="request"))
            wanted.ask(cause)
            stop.wait(backoff.next_seconds())


def _fail(message: str) -> int:
    print(f"feeder cannot start: {message}", file=sys.stderr)
    return os.EX_CONFIG


if __name__ == "__main__":
    sys.exit(main())
