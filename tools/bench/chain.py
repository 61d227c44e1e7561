"""The next bead after a close: python -m tools.bench.chain [--beads N]

N beads are in the queue, the concurrency limit is 1, and an agent closes each bead with the real bd as soon as it gets
it. The gap is what the system adds: from the end of `bd close` to the next POST. Polling every 2 minutes adds 60 s on
average.
"""

import sys
import threading
import time

from local.workspace import Workspace
from tools import world
from tools.bench import report
from tools.database import AGENT
from tools.servers import Agent

_PATIENCE_SECONDS = 60
_POLLING_MEAN_MS = 60_000


class ClosingAgent(Agent):
    """Has one bead in progress at a time, and closes it at once."""

    def __init__(self, workspace: Workspace) -> None:
        self.closed: list[float] = []  # when each `bd close` ended, in the order of the POSTs
        self._workspace = workspace
        super().__init__(on_post=self._take)

    def _take(self, bead: str) -> None:
        self.active = 1
        threading.Thread(target=self._close, args=(bead,), daemon=True).start()

    def _close(self, bead: str) -> None:
        self._workspace.run("close", bead, actor=AGENT)
        self.closed.append(time.time())
        self.active = 0


def measure(number: int) -> tuple[list[float], float]:
    """The gaps in ms, and the seconds from the first POST to the last."""
    with (
        world.world() as here,
        ClosingAgent(here.workspace) as agent,
        here.system(agent.url, environment={"MAX_IN_FLIGHT": "1"}),
    ):
        here.add([f"chain-{index:03}" for index in range(number + 1)])
        for done in range(1, number + 2):
            world.wait_for(lambda: len(agent.closed) >= done, f"close number {done}", _PATIENCE_SECONDS)  # noqa: B023
            if done % 10 == 0:
                print(f"{done} of {number} beads", flush=True)
    posts = [moment for moment, _ in agent.received]
    gaps = [(post - close) * 1000 for close, post in zip(agent.closed, posts[1:], strict=False)]
    return gaps, posts[-1] - posts[0]


def main() -> int:
    number = report.options(__doc__, beads=50).beads
    gaps, seconds = measure(number)
    gap, mean = report.summary(gaps), sum(gaps) / len(gaps)
    report.table("close to the next POST, ms", {"gap": gap})
    more = {
        "beads an hour": round(number / seconds * 3600),
        "times shorter than polling": round(_POLLING_MEAN_MS / mean),
    }
    report.table("with an agent that takes no time", {"chain": more})
    report.write("chain", {"unit": "ms", "gap": gap, "mean": round(mean, 1), **more})
    return 0


if __name__ == "__main__":
    sys.exit(main())
