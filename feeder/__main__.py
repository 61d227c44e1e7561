"""python -m feeder: the process that always runs. Settings come from the environment; see --help."""

import argparse
import functools
import os
import signal
import sys
import threading

from beads_dispatch import log, settings, store
from beads_dispatch.agents import beadboard
from beads_dispatch.log import Action
from feeder import checkpoint, http, metrics, pingsources, preflight
from feeder.eligibility_check import EligibilityCheck
from feeder.emitter import Emitter
from feeder.feed import ChangeFeed
from feeder.health import HealthState
from feeder.ownership import Owner, Taken
from feeder.request_feed import RequestFeed
from feeder.requests import PendingRequest, send_requests
from feeder.supervision import Threads

logger = log.get("feeder")

_STOP_SECONDS = 10  # for what is in progress; Kubernetes kills after 30

_HELP = """\
Reads Dolt's binlog and POSTs CloudEvents to K_SINK; answers ticks on PORT.

environment:
  K_SINK               where events go (required)
  DOLT_HOST, DOLT_PORT, DOLT_USER, DOLT_PASSWORD or DOLT_PASSWORD_FILE, DOLT_DATABASE
                       the beads' Dolt server; or BEADS_DIR, a bd workspace's .beads folder
  FEED_NAME            separates two deployments on one database (the database's name)
  DOLT_TLS_CA_FILE     the CA of that server's certificate; without it nothing is verified
  PORT                 for ticks, /healthz, /readyz and /metrics (8080)
  AGENT_ASSIGNEE       the agent: the name that beads are assigned to (agent)
  BEADBOARD_URL, AGENT_HEALTH_URL
                       the agent's backend; without it a tick does not ask whether the agent is busy
  MAX_IN_FLIGHT (1), SLOT_SILENCE_MINUTES (10), CLAIM_TIMEOUT_SECONDS (120), REAP_AFTER_MINUTES (30),
  REAP_ONLY_OURS (false)
"""


def main() -> int:
    """Run until SIGTERM or SIGINT; returns the exit status."""
    argparse.ArgumentParser(
        prog="python -m feeder", description=_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    log.configure("feeder")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        return _run(os.environ, stop)
    except (settings.SettingsError, preflight.Unfit, Taken) as exc:
        print(f"feeder cannot start: {exc}", file=sys.stderr)
        return os.EX_CONFIG


def _run(env: settings.Environment, stop: threading.Event) -> int:
    """Answer health checks at once, and run the feed as soon as Dolt can be read and no other feeder owns it."""
    dolt, limits, feeder = settings.dolt(env), settings.limits(env), settings.feeder(env)
    agent = beadboard.BeadBoard(settings.agent(env)) if env.get("BEADBOARD_URL") else None
    health, beads, threads = HealthState(), store.Store(dolt), Threads(stop)
    scrape = metrics.Scrape(store.Store(dolt), limits.assignee, health)
    server = http.serve(http.Endpoint(EligibilityCheck(store.Store(dolt), limits, agent), health, scrape), feeder)
    threads.start("http", server.run)
    emitters = {name: Emitter(feeder) for name in ("feed", "requests")}
    owner = Owner(dolt, stop, lambda: all(emitter.accepts for emitter in emitters.values()))
    position = checkpoint.wait_for_position(beads, health, stop, owner)
    if position is None:
        return 1 if threads.failed else 0
    preflight.log_warnings(beads)
    health.ready = True
    logger.info("reading the binlog", extra=log.context(action=Action.START, database=dolt.database, feed=dolt.feed))
    pending, checkpointer = PendingRequest(), checkpoint.Checkpointer(beads, position, health, owner.beat)
    request_feed = RequestFeed(dolt, limits.assignee, pending, stop)
    feed = ChangeFeed(dolt, checkpointer, emitters["feed"], health, stop)
    check = EligibilityCheck(store.Store(dolt), limits, None)
    threads.start("owner", owner.run)
    threads.start("feed", feed.run)
    threads.start("request-feed", request_feed.run)
    threads.start("position", functools.partial(checkpointer.run, stop))
    threads.start("requests", functools.partial(send_requests, pending, check, emitters["requests"], stop))
    watch = pingsources.watcher(store.Store(dolt), pending.add, stop)
    if watch is not None:
        threads.start("pingsources", watch)
    stop.wait()
    feed.close()
    request_feed.close()
    threads.join(_STOP_SECONDS, "feed", "position")  # not a request that is being sent: the next tick replaces it
    logger.info("stopped", extra=log.context(action=Action.STOP))
    return 1 if threads.failed else 0


if __name__ == "__main__":
    sys.exit(main())
