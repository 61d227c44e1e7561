"""A job of the backend `command`: runs the command, ends it after its time, and writes how it ended.

A script with nothing but the standard library: it is started by its path, in another folder, for each job.

    python -I command_job.py STATE PATH SECONDS COMMAND
"""

import os
import pathlib
import select
import signal
import subprocess
import sys
from typing import Any, NoReturn

_GRACE_SECONDS = 10  # from SIGTERM to SIGKILL


class _Asked(Exception):
    """SIGTERM."""


def run(state: int, path: pathlib.Path, seconds: float, command: str) -> None:
    """Run a command in our process group. `path`: the file of a running job, which is open, and locked, as `state`; the
    command has it open too, so that it is known to run even when this process is killed."""
    signal.signal(signal.SIGTERM, _asked)
    over = ""
    gone, open_while_alive = os.pipe()
    process = subprocess.Popen(["/bin/sh", "-c", command], pass_fds=[state, open_while_alive])
    os.close(open_while_alive)
    try:
        code = process.wait(seconds)
        how = f"exit status {code}" if code >= 0 else f"ended by signal {-code}"
    except subprocess.TimeoutExpired:
        how = over = f"ended after {seconds:g} s"
    except _Asked:
        how = over = "ended on request"
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if over:
        os.killpg(0, signal.SIGTERM)
        select.select([gone], [], [], _GRACE_SECONDS)  # the shell may end before what it runs
    ended = path.with_suffix(".ended")
    unnamed = ended.with_name(f".{ended.name}")
    unnamed.write_text(how)
    unnamed.rename(ended)
    path.unlink(missing_ok=True)
    if over:
        os.killpg(0, signal.SIGKILL)  # whatever is left of the group, this process included


def _asked(*_: Any) -> NoReturn:
    raise _Asked


if __name__ == "__main__":
    run(int(sys.argv[1]), pathlib.Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
