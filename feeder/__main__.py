"""python -m feeder: the process that always runs. Settings come from the environment; see --help."""

import argparse
import functools
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence

from beads_dispatch import agents, agents_file, log, settings, store
from beads_dispatch.agents_file import ConfiguredAgent
from beads_dispatch.log import Action
from beads_dispatch.store.databases import open_store
from feeder import checkpoint, http, metrics, outcome_metrics, pingsources, preflight
from feeder.changes import RequestReason
from feeder.eligibility_check import EligibilityCheck
from feeder.emitter import Emitter
from feeder.feed import ChangeFeed
from feeder.health import HealthState
from feeder.job_watch import JobWatch
from feeder.ownership import Owner, Taken
from feeder.request_feed import RequestFeed
from feeder.requests import AgentRequests, PendingRequest
from feeder.supervision import Threads

logger = log.get("feeder")

_STOP_SECONDS = 10  # for what is in progress; Kubernetes kills after 30

_HELP = """\
Reads Dolt's binlog and POSTs CloudEvents to K_SINK; answers ticks on PORT.

environment:
  K_SINK               where events go (required)
  DOLT_HOST, DOLT_PORT, DOLT_USER, DOLT_PASSWORD or DOLT_PASSWORD_FILE, DOLT_DATABASE
                       the beads' Dolt server; or BEADS_DIR, a bd workspace's .beads folder. DOLT_DATABASE may name
                       several databases (a,b), or all of the server that have bd's tables (*)
  FEED_NAME            separates two deployments on one database (the database's name)
  DOLT_TLS_CA_FILE     the CA of that server's certificate; without it nothing is verified
  PORT                 for ticks, /healthz, /readyz and /metrics (8080)
  AGENTS_FILE          several agents, with their backends and limits (docs/agents.md); without it one:
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
    except (settings.SettingsError, preflight.Unfit, store.NewerLayout, Taken) as exc:
        print(f"feeder cannot start: {exc}", file=sys.stderr)
        return os.EX_CONFIG


def _run(env: settings.Environment, stop: threading.Event) -> int:
    """Answer health checks at once, and run the feed as soon as Dolt can be read and no other feeder owns it."""
    dolt, feeder, found = settings.server(env), settings.feeder(env), agents_file.agents(env)
    health, beads, threads = HealthState(), open_store(dolt), Threads(stop)
    requests = {agent.name: _requests(agent, dolt, feeder, alone=len(found) == 1) for agent in found}
    pending = {name: each.pending for name, each in requests.items()}
    watches = _job_watches(found, dolt, feeder)
    scrape = metrics.Scrape(open_store(dolt), [agent.limits for agent in found], health, lambda: _running(watches))
    server = http.serve(http.Endpoint(_checks(found, open_store(dolt)), health, scrape, pending), feeder)
    threads.start("http", server.run)
    emitter = Emitter(feeder)
    emitters = (emitter, *(each.emitter for each in requests.values()))
    owner = Owner(dolt, stop, lambda: all(each.accepts for each in emitters), ticks=health.ticks)
    position = checkpoint.wait_for_position(beads, health, stop, owner)
    if position is None:
        return 1 if threads.failed else 0
    preflight.log_warnings(beads)
    health.ready = True
    served = {"database": ", ".join(beads.databases()), "feed": dolt.feed}
    logger.info("reading the binlog", extra=log.context(action=Action.START, **served))
    checkpointer = checkpoint.Checkpointer(beads, position, health, owner.beat)
    outcomes, timing = outcome_metrics.OutcomeCounter(requests).look, outcome_metrics.AssignToPost(requests).look
    request_feed = RequestFeed(dolt, pending, stop, {name: watch.begun for name, watch in watches.items()}, timing)
    feed = ChangeFeed(dolt, checkpointer, emitter, health, stop, on_published=outcomes)
    threads.start("owner", owner.run)
    threads.start("feed", feed.run)
    threads.start("request-feed", request_feed.run)
    threads.start("position", functools.partial(checkpointer.run, stop))
    for name, each in requests.items():
        threads.start(f"requests {name}", functools.partial(each.run, stop))
    for name, watch in watches.items():
        threads.start(f"jobs {name}", functools.partial(watch.run, stop))
    pings = pingsources.watcher(open_store(dolt), functools.partial(_request_all, pending), stop)
    if pings is not None:
        threads.start("pingsources", pings)
    while not stop.wait(1.0):
        pass  # a signal that another thread took is handled here only when this one wakes up
    feed.close()
    request_feed.close()
    threads.join(_STOP_SECONDS, "feed", "position")  # not a request that is being sent: the next tick replaces it
    logger.info("stopped", extra=log.context(action=Action.STOP))
    return 1 if threads.failed else 0


def _requests(
    agent: ConfiguredAgent, dolt: settings.DoltSettings, feeder: settings.FeederSettings, *, alone: bool
) -> AgentRequests:
    check = EligibilityCheck(open_store(dolt), agent.limits, _backend(agent))
    return AgentRequests(agent.name, check, Emitter(feeder), alone=alone)


def _checks(found: Sequence[ConfiguredAgent], beads: store.Store) -> dict[str, EligibilityCheck]:
    """For the endpoint, which answers one tick at a time: they share a connection."""
    return {agent.name: EligibilityCheck(beads, agent.limits, _backend(agent)) for agent in found}


def _job_watches(
    found: Sequence[ConfiguredAgent], dolt: settings.DoltSettings, feeder: settings.FeederSettings
) -> dict[str, JobWatch]:
    """Of the agents whose backend can tell of its jobs."""
    backends = {agent.name: (agent.limits, _backend(agent)) for agent in found}
    return {
        name: JobWatch(open_store(dolt), limits, backend, Emitter(feeder))
        for name, (limits, backend) in backends.items()
        if backend is not None and backend.tells_jobs
    }


def _running(watches: Mapping[str, JobWatch]) -> frozenset[tuple[str, str]]:
    """The keys of the beads whose job is known to run."""
    return frozenset[tuple[str, str]]().union(*(watch.running for watch in watches.values()))


def _request_all(pending: Mapping[str, PendingRequest], reason: RequestReason) -> None:
    for each in pending.values():
        each.add(reason)


def _backend(agent: ConfiguredAgent) -> agents.Backend | None:
    return agents.backend(agent.backend) if agent.backend else None


if __name__ == "__main__":
    sys.exit(main())
