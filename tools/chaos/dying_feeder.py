"""A feeder that is killed, as by the kernel, when it reads one of the deadly beads: see tools.chaos.large. Its argument
names a mutant."""

import os
import signal
import sys
from unittest import mock

from feeder import __main__ as feeder
from feeder import rows
from feeder.packet import EventPacket
from tools.chaos import mutants
from tools.chaos.large import DEADLY

_read = rows.Layout.read


def _killed_on_one(self: rows.Layout, packet: EventPacket) -> rows.Image:
    image = _read(self, packet)
    if str(image.get("id")) == f"{DEADLY}-000300":
        os.kill(os.getpid(), signal.SIGKILL)
    return image


def main() -> int:
    mutant = "".join(sys.argv[1:])
    sys.argv = ["feeder"]
    with mutants.mutated(mutant), mock.patch.object(rows.Layout, "read", _killed_on_one):
        return feeder.main()


if __name__ == "__main__":
    sys.exit(main())
