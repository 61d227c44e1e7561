"""A feeder whose delays after a failure are all the same, as after a long outage, but shorter."""

import sys
from unittest import mock

from feeder import __main__ as feeder
from feeder import emitter

DELAY_SECONDS = 2.0

_next_seconds = emitter.Backoff.next_seconds


def _steady(self: emitter.Backoff) -> float:
    _next_seconds(self)
    return DELAY_SECONDS


if __name__ == "__main__":
    with mock.patch.object(emitter.Backoff, "next_seconds", _steady):
        sys.exit(feeder.main())
