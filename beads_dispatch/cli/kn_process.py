"""Runs stock kn for the plugins, and repeats why it failed."""

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

# kn may use an API version that the server calls deprecated: that is kn's business, and comes with each request.
_DEPRECATION = re.compile(r"(W\d{4} |Warning: ).*deprecated")

# From such a line on, kn's standard error is the reason of its failure.
_FAILURE = re.compile(r"Error:|panic:|E\d{4} .*Observed a panic")


class KnError(Exception):
    """kn is missing or failed; the text gives the reason."""


def run(*arguments: str) -> str:
    """Run kn; returns what it printed. Its standard error is shown, but for deprecations. Raises KnError."""
    binary = shutil.which("kn")
    if binary is None:
        raise KnError("kn is not on PATH: this plugin runs it. Install kn, or add its folder to PATH.")
    try:
        child = subprocess.Popen([binary, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except OSError as exc:
        raise KnError(f"{binary} cannot be run: {exc.strerror}") from None
    assert child.stdout is not None and child.stderr is not None
    failure: list[str] = []
    relay = threading.Thread(target=_relay, args=(child.stderr, failure), daemon=True)
    relay.start()
    printed = child.stdout.read()
    relay.join()
    if child.wait():
        raise KnError(error_in(failure))
    return printed


def _relay(stderr: Any, failure: list[str]) -> None:
    """Show each line at once (a login may ask for something); from the failure on they are kept instead."""
    for line in stderr:
        if failure or _FAILURE.match(line):
            failure.append(line.rstrip("\n"))
        elif not _DEPRECATION.match(line):
            print(line, end="", file=sys.stderr, flush=True)


def error_in(lines: Sequence[str]) -> str:
    """The reason in kn's lines, without its `Error:` and its hint at --help. Pure."""
    crash = next((line for line in lines if line.startswith("panic:")), None)
    if crash:
        return f"kn crashed: {crash}"
    reason = [line for line in lines if not re.fullmatch(r"Run '.*' for usage", line)]
    return re.sub(r"^Error:\s*", "", "\n".join(reason)).strip() or "kn failed without a reason"
