"""A thread of the feeder that dies ends the process: real processes, with a fault put into one function of a thread."""

import pathlib

import pytest

from local import processes
from local.processes import Process
from local.system import environment_of
from tests import support
from tests.conftest import Beads
from tests.support import wait_for

# Each thread, and a function that it calls.
FAULTS = {
    "http": "waitress.server.BaseWSGIServer.run",
    "owner": "beads_dispatch.store.FeedLock.is_quiet",
    "feed": "feeder.health.HealthState.touch",
    "position": "feeder.checkpoint.Checkpointer.run",
    "request-feed": "feeder.request_feed.RequestFeed.run",
    "requests agent": "feeder.requests.DueMoment.look",
    "jobs agent": "feeder.job_watch.JobWatch.run",
    "pingsources": "feeder.pingsources.state",
}

# Runs the feeder; the function fails once its thread calls it. The list of PingSources comes from the API server of the
# test, the sink.
FEEDER = """
import pathlib, pkgutil, runpy, sys, threading
from feeder import pingsources
name, function, api = sys.argv[1:]
owner, _, attribute = function.rpartition(".")
method = getattr(pkgutil.resolve_name(owner), attribute)
def fail(*args, **more):
    if threading.current_thread().name == name:
        raise ZeroDivisionError("a fault")
    return method(*args, **more)
setattr(pkgutil.resolve_name(owner), attribute, fail)
if name == "pingsources":
    pingsources.cluster = lambda env: pingsources.Cluster(api, pathlib.Path("."))
pingsources.watch = lambda cluster: (pingsources.state({}) for _ in range(1))
sys.argv[1:] = []
runpy.run_module("feeder", run_name="__main__")
"""


@pytest.mark.parametrize("workspace", ["1.3.0"], indirect=True)
@pytest.mark.parametrize("thread", FAULTS)
def test_a_thread_that_dies_ends_the_process(
    beads: Beads, sink: support.Sink, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, thread: str
) -> None:
    """Status 1, and a line that names the thread and what it died of."""
    monkeypatch.chdir(tmp_path)
    root, agents = str(pathlib.Path(__file__).parents[2]), tmp_path / "agents.toml"
    agents.write_text(f'[agents.agent]\nbackend = "claude-agent-service"\nurl = "{sink.url}"\n')
    environment = {
        **environment_of(beads.dolt), "K_SINK": sink.url, "PORT": str(processes.free_port()), "PYTHONPATH": root,
        "AGENTS_FILE": str(agents),
    }  # fmt: skip
    command = processes.python("-c", FEEDER, thread, FAULTS[thread], sink.url)
    with Process("feeder", command, tmp_path / "log", environment) as feeder:
        beads.sql("REPLACE INTO config (`key`, value) VALUES ('test.write', UUID())")
        wait_for(lambda: not feeder.running, "the process ends")
        assert feeder.kill() == 1
    (line,) = [line for line in support.json_lines(feeder.log) if line.get("action") == "thread"]
    assert line["thread"] == thread and line["level"] == "error"
    assert f"the thread {thread} died (ZeroDivisionError: a fault)" in line["message"]
