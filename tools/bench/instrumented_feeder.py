"""The feeder, which also records when it read each transaction that may request a pass.

Runs as `python -m feeder`; the moments (seconds since the epoch, a line each) go into the file that FEEDER_CLOCK names.
"""

import os
import sys
import time
from unittest import mock

from feeder import __main__ as feeder
from feeder.changes import Transaction, request_reason_in
from feeder.request_feed import RequestFeed


def main() -> int:
    look_at = RequestFeed._look_at
    with open(os.environ["FEEDER_CLOCK"], "a", buffering=1) as clock:

        def recorded(self: RequestFeed, transaction: Transaction) -> None:
            now = time.time()
            if request_reason_in(transaction, "agent"):
                clock.write(f"{now}\n")
            look_at(self, transaction)

        with mock.patch.object(RequestFeed, "_look_at", recorded):
            return feeder.main()


if __name__ == "__main__":
    sys.exit(main())
