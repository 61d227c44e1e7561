"""A feeder that is killed, as by the kernel, when it reads one of the deadly beads: see tools.chaos.large."""

import os
import signal
import sys
from unittest import mock

from feeder import __main__ as feeder
from feeder import rows
from feeder.packet import EventPacket
from tools.chaos.large import DEADLY

_read = rows.Layout.read


def _killed_on_one(self: rows.Layout, packet: EventPacket) -> rows.Image:
    image = _read(self, packet)
    if str(image.get("id")) == f"{DEADLY}-000300":
        os.kill(os.getpid(), signal.SIGKILL)
    return image


if __name__ == "__main__":
    with mock.patch.object(rows.Layout, "read", _killed_on_one):
        sys.exit(feeder.main())
