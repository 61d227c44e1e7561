"""python -m local up|demo: the whole system on one machine. `make up` and `make demo` call this."""

import argparse
import contextlib
import fcntl
import os
import pathlib
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from beads_dispatch import log, settings, store
from beads_dispatch.cli.timeline import Step
from local import system
from local.processes import StartError
from local.system import DEFAULT_PORT, Ports, System
from local.timeline import SystemTimeline, table
from local.workspace import EXAMPLES, BdError, Workspace
from tools import toolchain

_HELP = """\
up    start everything and show what happens, until Ctrl-C
demo  start everything, assign three beads, show what happened, stop

environment:
  LOCAL_PORT     the first of six neighbouring ports (18080)
  BEADS_DIR      a bd workspace of your own, its .beads folder: its Dolt server is used, none is started
  BEADBOARD_URL  a real BeadBoard instead of the stand-in agent service
  STAND_IN_AGENT yes: let the stand-in agent close the beads that wait in a workspace of your own
  AGENT_ASSIGNEE, MAX_IN_FLIGHT and the other settings of README.md are handed on
"""

DEMO_SECONDS = 60


@dataclass(frozen=True)
class Options:
    """What the environment says of this run."""

    folder: pathlib.Path
    ports: Ports
    assignee: str
    beads_dir: str | None
    beadboard_url: str | None
    stand_in_allowed: bool


@dataclass(frozen=True)
class Running:
    """What a command works with once everything runs."""

    workspace: Workspace
    dolt: settings.DoltSettings
    timeline: SystemTimeline
    system: System


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m local", description=_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("up", "demo"))
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path(".local"), help="data and logs (.local)")
    arguments = parser.parse_args()
    started = time.monotonic()
    log.configure("local", level="WARNING")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        options = read_options(os.environ, arguments.folder.resolve())
        with everything(options) as running:
            return up(running, options) if arguments.command == "up" else demo(running, options, started)
    except KeyboardInterrupt:
        say("stopped")
        return 0 if arguments.command == "up" else 130
    except (StartError, BdError, toolchain.ToolError, settings.SettingsError, store.StoreError) as exc:
        print(f"\n{arguments.command} failed: {exc}", file=sys.stderr)
        return 1


def read_options(env: settings.Environment, folder: pathlib.Path) -> Options:
    """Raises SettingsError."""
    text = env.get("LOCAL_PORT") or str(DEFAULT_PORT)
    if not text.isdigit() or not 1024 <= int(text) <= 65529:
        raise settings.SettingsError(f"LOCAL_PORT is {text!r}, expected a port from 1024 to 65529.")
    return Options(
        folder=folder,
        ports=Ports.counted_from(int(text)),
        assignee=env.get("AGENT_ASSIGNEE") or settings.DispatchLimits.assignee,
        beads_dir=env.get("BEADS_DIR") or None,
        beadboard_url=env.get("BEADBOARD_URL") or None,
        stand_in_allowed=env.get("STAND_IN_AGENT", "").lower() in ("yes", "true", "1"),
    )


@contextlib.contextmanager
def everything(options: Options) -> Iterator[Running]:
    """Start all parts in order; stop them in the opposite one. Raises StartError."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_only_one(options.folder))
        if options.beads_dir:
            dolt, workspace = _their_workspace(options)
        else:
            bd = toolchain.bd()
            stack.enter_context(system.own_server(toolchain.dolt(), options.folder / "dolt", options.ports.dolt, say))
            workspace = _our_workspace(bd, options)
            dolt = settings.dolt({"BEADS_DIR": str(workspace.beads_dir)})
        url = options.beadboard_url
        timeline = SystemTimeline(dolt, options.assignee, lambda line: print(line, flush=True), posts_are_told=not url)
        if not url:
            agent = system.stand_in_agent(workspace, options.ports.agent, say, timeline.posted)
            url = stack.enter_context(agent).url
        say("starting dispatch, reap, the feeder and the router")
        logs = options.folder / "log"
        running = stack.enter_context(System(dolt, url, options.ports, logs, observe=timeline.observe))
        yield Running(workspace, dolt, timeline, running)
        say("stopping")


def up(running: Running, options: Options) -> int:
    """Show the timeline until Ctrl-C."""
    print(_what_to_type(running, options), flush=True)
    while True:
        time.sleep(0.5)
        running.system.require_running()


def demo(running: Running, options: Options, started: float) -> int:
    """Assign two beads that can be worked and one that cannot; 0 when the two arrived and the one was left alone."""
    workspace = running.workspace
    good = [workspace.create(title, acceptance) for title, acceptance in EXAMPLES[:2]]
    blank = workspace.create("Has no acceptance criteria")
    say(f"assigning {', '.join((*good, blank))} to {options.assignee}; {blank} has no acceptance criteria")
    for bead in (blank, *good):
        workspace.run("assign", bead, options.assignee)
    deadline = time.monotonic() + DEMO_SECONDS
    steps: dict[str, list[Step]] = {}
    first = None
    while time.monotonic() < deadline:
        steps = {bead: running.timeline.refresh(bead) for bead in (*good, blank)}
        done = [{step.what for step in steps[bead]} for bead in good]
        if first is None and any("dispatched" in what for what in done):
            first = time.monotonic() - started
        if all({"dispatched", "closed"} <= what for what in done):
            break
        running.system.require_running()
        time.sleep(0.2)
    print(f"\n{table(steps)}\n")
    arrived = [bead for bead in good if {"dispatched", "closed"} <= {step.what for step in steps[bead]}]
    left_alone = "claimed" not in {step.what for step in steps[blank]}
    if first is not None:
        print(f"first dispatch {first:.1f} s after this command was started")
    print(f"{blank} was {'left alone, as it should be' if left_alone else 'claimed, although it is not eligible'}")
    if len(arrived) == len(good) and left_alone:
        return 0
    missing = ", ".join(bead for bead in good if bead not in arrived) or "none"
    print(
        f"not dispatched and closed within {DEMO_SECONDS} s: {missing}. Logs: {options.folder / 'log'}", file=sys.stderr
    )
    return 1


def say(message: str) -> None:
    """A line of progress."""
    print(f"==> {message}", flush=True)


def _our_workspace(bd: pathlib.Path, options: Options) -> Workspace:
    workspace = Workspace(bd, options.folder / "workspace")
    if not workspace.beads_dir.exists():
        say("making a bd workspace with a few example beads (about 10 s)")
    workspace.init(options.ports.dolt, "demo")
    if not workspace.titles():
        for title, acceptance in EXAMPLES:
            workspace.create(title, acceptance)
    return workspace


def _their_workspace(options: Options) -> tuple[settings.DoltSettings, Workspace]:
    """A workspace that somebody else cares about: their bd, and no bead closed without their word."""
    dolt = settings.dolt(os.environ)
    bd = os.environ.get("BD") or shutil.which("bd")
    if not options.beadboard_url:
        if bd is None:
            raise StartError("the stand-in agent needs bd, which is not on PATH. Install bd, or set BEADBOARD_URL.")
        _protect_waiting_beads(dolt, options)
    say(f"using Dolt at {dolt.host}:{dolt.port}, database {dolt.database}")
    return dolt, Workspace(pathlib.Path(bd or "bd"), pathlib.Path(str(options.beads_dir)).resolve().parent)


def _protect_waiting_beads(dolt: settings.DoltSettings, options: Options) -> None:
    beads = store.Store(dolt)
    with contextlib.closing(beads):
        waiting = beads.eligible.count(options.assignee, datetime.now(UTC))
    say("the stand-in agent does no work: it notes and closes each bead that is assigned to it")
    if waiting and not options.stand_in_allowed:
        raise StartError(
            f"{waiting} beads of your workspace wait for {options.assignee}, and the stand-in agent would close them."
            " Set BEADBOARD_URL to a real BeadBoard, or STAND_IN_AGENT=yes if that is what you want."
        )


def _what_to_type(running: Running, options: Options) -> str:
    workspace = running.workspace
    ports = options.ports
    lines = [
        "",
        "Everything runs. In a second terminal:",
        "",
        f"    cd {workspace.folder}",
        *([f"    export PATH={workspace.bd.parent}:$PATH"] if shutil.which("bd") != str(workspace.bd) else []),
        f"    bd assign <id> {options.assignee}",
        "",
    ]
    if not options.beads_dir:
        lines += [f"    {bead}  {title}" for bead, title in workspace.titles(status="open")[:6]]
        lines += ["    bd create '<title>' --acceptance '<when it is done>' makes another", ""]
    lines += [
        f"dispatch http://127.0.0.1:{ports.dispatch}  reap http://127.0.0.1:{ports.reap}"
        f"  feeder http://127.0.0.1:{ports.feeder}  logs {options.folder / 'log'}",
        "Ctrl-C stops everything; the beads stay.",
        "",
    ]
    return "\n".join(lines)


@contextlib.contextmanager
def _only_one(folder: pathlib.Path) -> Iterator[None]:
    """One run at a time in a folder. Raises StartError."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StartError(f"the system already runs in {folder}. Stop it first (Ctrl-C in its terminal).") from None
        yield


if __name__ == "__main__":
    sys.exit(main())
