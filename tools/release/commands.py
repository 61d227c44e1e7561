"""Running commands, and what the person sees meanwhile."""

import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence


class ReleaseError(Exception):
    """The release cannot be made; the text says why."""


def report(line: str) -> None:
    """Print a line for the person."""
    print(f"==> {line}", file=sys.stderr, flush=True)


def run(command: Sequence[str | pathlib.Path], folder: pathlib.Path, env: Mapping[str, str] | None = None) -> str:
    """The command's standard output. Raises ReleaseError with the end of what it printed."""
    words = [str(word) for word in command]
    # umask: the modes of built files are in a wheel, so they must not depend on who builds it.
    done = subprocess.run(
        words, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, umask=0o022
    )
    if done.returncode:
        printed = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise ReleaseError(f"`{' '.join(words[:4])} …` ended with {done.returncode}:\n{printed}")
    return done.stdout
