"""From `bd assign` to the agent's POST, warm, beside the floor: python -m bench.latency [--samples N]

Each sample assigns one bead with the real bd at a random phase and stops two clocks, started when bd returns:

- floor: a bare binlog reader (this feed's library and nothing else) has the transaction
- POST: the agent service has the request

Compare the percentiles of the two columns, not sample by sample: Dolt looks at its log for each reader at a phase of
the reader's own, so that within one sample the two may differ by up to 250 ms either way.
"""

import argparse
import random
import statistics
import sys
import threading
import time

from beads import log, settings, store
from bench import report
from bench.world import InstantAgent, world
from feeder import binlog
from local.system import Ports, System


class BareReader:
    """Notes when each bead's assignment came out of the binlog."""

    def __init__(self, dolt: settings.Dolt) -> None:
        self.seen: dict[str, float] = {}
        gtid_set, _ = store.Store(dolt).head()
        self._stream = binlog.Stream(dolt, binlog.Position(gtid_set))
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stream.close()
        self._thread.join(5)

    def _read(self) -> None:
        try:
            for item in self._stream:
                now = time.time()
                for row in getattr(item, "rows", ()):
                    if row.table == "issues" and row.after and row.after["assignee"] == "agent":
                        self.seen.setdefault(row.after["id"], now)
        except binlog.StreamLost:
            pass


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200)
    samples = parser.parse_args().samples
    log.configure("bench", level="ERROR")
    agent = InstantAgent()
    with world() as (folder, workspace, dolt):
        rules = {"MAX_IN_FLIGHT": "100000", "AGENT_HEALTH_URL": f"{agent.url}/health"}
        ticks = {"dispatch": 3600.0, "reap": 3600.0}
        with System(dolt, agent.url, Ports.free(), folder / "log", environment=rules, tick_seconds=ticks):
            warm = workspace.create("warm up", "ok", "--assignee", "agent")
            agent.wait_for(warm, 30)
            reader = BareReader(dolt)
            floor, posted = [], []
            for number in range(samples):
                bead = workspace.create(f"bead {number}", "ok")
                time.sleep(random.uniform(0.3, 0.6))  # past the create's own event, and at any phase of Dolt's poll
                workspace.run("assign", bead, "agent")
                returned = time.time()
                posted.append((agent.wait_for(bead, 30) - returned) * 1000)
                while bead not in reader.seen:
                    time.sleep(0.001)
                floor.append((reader.seen[bead] - returned) * 1000)
                if (number + 1) % 25 == 0:
                    print(f"{number + 1} of {samples}: POST p50 {statistics.median(posted):.0f} ms", flush=True)
            reader.close()
    agent.close()
    rows = {"floor (binlog event)": report.summary(floor), "POST received": report.summary(posted)}
    read, post = rows.values()
    rows["above the floor"] = {name: round(post[name] - read[name], 1) for name in ("p50", "p90", "p99", "max")}
    report.table("bd assign returned to …, ms", rows)
    report.write("latency", {"unit": "ms", **rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
