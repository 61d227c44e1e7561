"""What the person sees while programs are found and installed, and the errors."""

import sys
import time

PROGRESS_SECONDS = 30  # between two lines while something goes on


class ToolError(Exception):
    """Something is not here and cannot be installed: the text names each way, why it failed, and what to do."""


class WayFailed(Exception):
    """One way did not give the program; the text is the reason. The next way is tried."""


def report(line: str) -> None:
    """Print a line for the person; standard output is for paths alone."""
    print(line, file=sys.stderr, flush=True)


class Progress:
    """Prints a line every PROGRESS_SECONDS, so that minutes of work do not look like a program that hangs."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._started = self._printed = time.monotonic()

    def tick(self, amount: str = "") -> None:
        """Call this often; it prints when a line is due: `amount`, or the seconds so far."""
        now = time.monotonic()
        if now - self._printed >= PROGRESS_SECONDS:
            self._printed = now
            report(f"still {self._doing}, {amount or f'{now - self._started:.0f} s'} so far")
