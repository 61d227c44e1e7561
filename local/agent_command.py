"""AGENT_COMMAND: a command of the user's for each bead, in place of an agent service."""

import json
import pathlib
import sys
import time
from collections.abc import Callable

from beads_dispatch import agents_file
from beads_dispatch.agents import Unreachable
from beads_dispatch.agents.command import Command
from local.processes import StartError
from local.terminal import report, show

DEFAULT_SECONDS = 3600
_END_SECONDS = 15  # a job gets SIGTERM, and 10 s later SIGKILL


def write_agents_file(
    folder: pathlib.Path, assignee: str, command: str, workspace: pathlib.Path, seconds: str
) -> pathlib.Path:
    """An AGENTS_FILE with one agent, whose jobs run in `workspace` and print into `folder`/jobs. Raises StartError."""
    if not (seconds.isdigit() and int(seconds) > 0):
        raise StartError(f"AGENT_JOB_TIMEOUT_SECONDS is {seconds!r}, expected a whole number of at least 1.")
    values = {"backend": "command", "command": command, "folder": str(workspace), "output": str(folder / "jobs")}
    lines = [f"{key} = {_text(value)}" for key, value in values.items()]
    path = folder / "agents.toml"
    path.write_text(
        "\n".join([f"[agents.{_text(assignee)}]", *lines, f"job_timeout_seconds = {int(seconds)}", ""]),
        encoding="utf-8",
    )
    return path


def end_jobs(path: pathlib.Path, confirm: Callable[[str], bool]) -> None:
    """Ask whether the jobs that still run are to be ended, and end them."""
    backend = _backend(path)
    try:
        running = backend.running()
    except Unreachable:
        return
    if not running:
        return
    for job in running:
        show(f"a job still runs; it prints into {backend.log(job)}")
    if not confirm("End them? Otherwise they go on, and nobody waits for them."):
        return
    report(f"ending the jobs that run: {len(running)}")
    for job in running:
        backend.end(job)
    deadline = time.monotonic() + _END_SECONDS
    while backend.running() and time.monotonic() < deadline:
        time.sleep(0.1)


def confirmed(question: str, yes: bool) -> bool:
    """Ask at the terminal; `yes`: without asking. Without a terminal the answer is no."""
    if yes:
        return True
    if not sys.stdin.isatty():
        return False
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _backend(path: pathlib.Path) -> Command:
    agent = agents_file.agents({"AGENTS_FILE": str(path)})[0]
    assert agent.backend is not None
    return Command(agent.backend)


def _text(value: str) -> str:
    """A TOML string; its escapes are JSON's."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
