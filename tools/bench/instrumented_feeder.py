"""The feeder, which writes down when it had each transaction that asks for work: python -m tools.bench.instrumented_feeder

As `python -m feeder`; the moments (seconds since the epoch, a line each) go into the file that FEEDER_CLOCK names.
"""

import os
import sys
import time
from unittest import mock

from feeder import __main__ as feeder
from feeder import changes


def main() -> int:
    tell = Feed._tell
    with open(os.environ["FEEDER_CLOCK"], "a", buffering=1) as clock:

        def clocked(self: Feed, transaction: changes.Transaction) -> bool:
            now = time.time()
            if changes.request_reason_in(transaction, self._assignee):
                clock.write(f"{now}\n")
            return tell(self, transaction)

        with mock.patch.object(Feed, "_tell", clocked):
            return feeder.main()


if __name__ == "__main__":
    sys.exit(main())
