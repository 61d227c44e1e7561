"""The next bead after a close: python -m tools.bench.chain [--beads N]

So many beads wait, one may be at work at a time, and an agent closes each with the real bd the moment it has it. The
gap is what the system adds: from the end of `bd close` to the next POST. Polling every 2 minutes takes 60 s on average.
"""

import argparse
import queue
import sys
import threading
import time

from beads_dispatch import log, settings, store
from local.system import Ports, System
from local.workspace import Workspace
from tools.bench import report
from tools.bench.world import InstantAgent, world

_PATIENCE_SECONDS = 60
_POLLING_MEAN_MS = 60_000


class ClosingAgent:
    """Has one bead at work at a time, and closes it at once."""

    def __init__(self, workspace: Workspace) -> None:
        self.closed: list[float] = []  # when each `bd close` ended, in the order of the POSTs
        self._workspace = workspace
        self._work: queue.Queue[str] = queue.Queue()
        self.service = InstantAgent(on_post=self._take)
        threading.Thread(target=self._run, daemon=True).start()

    def _take(self, bead: str) -> None:
        self.service.active = 1
        self._work.put(bead)

    def _run(self) -> None:
        while True:
            bead = self._work.get()
            self._workspace.run("close", bead, actor="agent")
            self.closed.append(time.time())
            self.service.active = 0


def measure(number: int) -> tuple[list[float], float]:
    """The gaps in ms, and the seconds from the first POST to the last."""
    with world() as (folder, workspace, dolt):
        agent = ClosingAgent(workspace)
        url = agent.service.url
        with System(
            dolt,
            url,
            Ports.free(),
            folder / "log",
            environment={"MAX_IN_FLIGHT": "1", "AGENT_HEALTH_URL": f"{url}/health"},
            tick_seconds={"dispatch": 3600.0, "reap": 3600.0},
        ):
            _assign(dolt, number + 1)
            deadline = time.monotonic() + _PATIENCE_SECONDS
            done = 0
            while len(agent.closed) <= number:
                if len(agent.closed) > done:
                    done, deadline = len(agent.closed), time.monotonic() + _PATIENCE_SECONDS
                    if done % 10 == 0:
                        print(f"{done} of {number} beads", flush=True)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no bead was closed for {_PATIENCE_SECONDS} s after {done}")
                time.sleep(0.01)
        posts = [moment for moment, _ in agent.service.posts]
        agent.service.close()
    gaps = [(post - close) * 1000 for close, post in zip(agent.closed, posts[1:], strict=False)]
    return gaps, posts[-1] - posts[0]


def _assign(dolt: settings.DoltSettings, number: int) -> None:
    """So many waiting beads, in one transaction."""
    with store.connect(dolt) as connection, connection.cursor() as cursor:
        connection.begin()
        cursor.executemany(
            "INSERT INTO issues (id, title, description, design, acceptance_criteria, notes, assignee)"
            " VALUES (%s, 'chain', '', '', 'ok', '', 'agent')",
            [f"chain-{index:03}" for index in range(number)],
        )
        connection.commit()
        cursor.execute("CALL DOLT_COMMIT('-Am', 'beads')")
        connection.commit()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beads", type=int, default=50)
    number = parser.parse_args().beads
    log.configure("bench", level="ERROR")
    gaps, seconds = measure(number)
    gap = report.summary(gaps)
    report.table("close to the next POST, ms", {"gap": gap})
    mean = sum(gaps) / len(gaps)
    more = {
        "beads an hour": round(number / seconds * 3600),
        "times shorter than polling": round(_POLLING_MEAN_MS / mean),
    }
    report.table("with an agent that takes no time", {"chain": more})
    report.write("chain", {"unit": "ms", "gap": gap, "mean": round(mean, 1), **more})
    return 0


if __name__ == "__main__":
    sys.exit(main())
