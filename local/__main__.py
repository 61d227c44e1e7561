"""python -m local up|demo: the whole system on one machine. `make up` and `make demo` call this."""

import argparse
import contextlib
import fcntl
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NoReturn

from beads_dispatch import agents, settings, store
from beads_dispatch.agents.beadboard import BeadBoard
from local import agent_command, interrupts, processes, unit, users_workspace
from local.demo import demo
from local.dolt import DoltServer
from local.manifests import ManifestError
from local.processes import Process, StartError
from local.stand_in_agent import StandInAgent
from local.system import DEFAULT_PORT, Ports, System
from local.terminal import clock, configure_log, report, report_failure, show
from local.timeline import HoldWatch, SystemTimeline
from local.workspace import EXAMPLES, BdError, Workspace
from local.wsgi_server import CannotListen

_HELP = """\
up    start everything and show what happens, until Ctrl-C
demo  start everything, assign three beads, show what happened, stop
unit  print a systemd user unit that runs `up` for the workspace in BEADS_DIR

environment:
  LOCAL_PORT     the first of seven neighbouring ports (18080)
  DOLT, BD       the programs, where they are not on PATH
  BEADS_DIR      a bd workspace of your own, its .beads folder: its Dolt server is used; an embedded workspace is
                 served while this runs
  AGENT_COMMAND  a shell command that is run for each bead, in the workspace, instead of the stand-in agent: BEAD_ID and
                 BEADS_ACTOR in its environment, what to do on its standard input
  AGENT_JOB_TIMEOUT_SECONDS
                 after which a job is ended (3600)
  BEADBOARD_URL  a real BeadBoard instead of the stand-in agent
  YES            1: agree to every change that is asked for
  STAND_IN_AGENT yes: let the stand-in agent close the beads that are in the queue of a workspace of your own
  AGENT_ASSIGNEE, MAX_IN_FLIGHT and the other settings of docs/configuration.md are passed on
"""

_FAILURES = (StartError, BdError, CannotListen, ManifestError, settings.SettingsError, store.StoreError)
_CHECK_SECONDS = 1.0  # between two checks of the processes, of the hold and of the last beads


@dataclass(frozen=True)
class Options:
    """What the environment and the command line ask for."""

    folder: pathlib.Path
    ports: Ports
    assignee: str
    beads_dir: pathlib.Path | None
    beadboard_url: str | None
    stand_in_allowed: bool
    agent_command: str | None
    job_seconds: str
    yes: bool

    def confirm(self, question: str) -> bool:
        return agent_command.confirmed(question, self.yes)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m local", description=_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("up", "demo", "unit"))
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path(".local"), help="data and logs (.local)")
    arguments = parser.parse_args()
    started = time.monotonic()
    configure_log("local", "WARNING")
    interrupts.interrupt_once("\n==> stopping\n")
    try:
        options = read_options(os.environ, arguments.folder.resolve())
        if arguments.command == "unit":
            return _print_unit(options)
        with everything(options) as (system, dolt, workspace, timeline):
            if arguments.command == "up":
                up(system, dolt, workspace, options, timeline)
            succeeded = demo(workspace, timeline, options.assignee, started, system.require_running)
            report("stopping")
        return 0 if succeeded else 1
    except KeyboardInterrupt:
        report("stopped")
        return 0 if arguments.command == "up" else 130
    except _FAILURES as exc:
        report_failure(f"{arguments.command} failed: {exc}")
        return 1
    finally:
        Process.kill_all()


def read_options(env: settings.Environment, folder: pathlib.Path) -> Options:
    """Raises SettingsError."""
    text = env.get("LOCAL_PORT") or str(DEFAULT_PORT)
    if not text.isdigit() or not 1024 <= int(text) <= 65529:
        raise settings.SettingsError(f"LOCAL_PORT is {text!r}, expected a port from 1024 to 65529.")
    beads_dir = env.get("BEADS_DIR")
    return Options(
        folder=folder,
        ports=Ports.counted_from(int(text)),
        assignee=env.get("AGENT_ASSIGNEE") or settings.DispatchLimits.assignee,
        beads_dir=pathlib.Path(beads_dir).expanduser().resolve() if beads_dir else None,
        beadboard_url=env.get("BEADBOARD_URL") or None,
        stand_in_allowed=env.get("STAND_IN_AGENT", "").lower() in ("yes", "true", "1"),
        agent_command=env.get("AGENT_COMMAND") or None,
        job_seconds=env.get("AGENT_JOB_TIMEOUT_SECONDS") or str(agent_command.DEFAULT_SECONDS),
        yes=env.get("YES", "").lower() in ("yes", "true", "1"),
    )


def _print_unit(options: Options) -> int:
    """Raises StartError."""
    if options.beads_dir is None:
        raise StartError("BEADS_DIR is not set. Set it to the .beads folder of the workspace that the unit is for.")
    show(*unit.unit(os.environ, options.beads_dir, options.folder).splitlines())
    return 0


@contextlib.contextmanager
def everything(options: Options) -> Iterator[tuple[System, settings.DoltSettings, Workspace, SystemTimeline]]:
    """Start all parts in order; stop them in the opposite one. Raises StartError."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_only_one(options.folder))
            dolt, workspace = _users_workspace(options, stack) if options.beads_dir else _own_workspace(options, stack)
            url, environment = options.beadboard_url, {}
            stand_in = not url and not options.agent_command
            timeline = SystemTimeline(dolt, options.assignee, show, agent_reports_posts=stand_in)
            if options.agent_command:
                environment = _run_command(options, workspace, stack)
            elif stand_in:
                port = options.ports.agent
                processes.require_free(port, "the stand-in agent")
                report(f"starting a stand-in agent on 127.0.0.1:{port}")
                agent = StandInAgent(workspace.folder, workspace.bd, port=port, on_post=timeline.posted)
                url = stack.enter_context(agent).url
            report("starting dispatch, reap, the feeder and the router")
            logs = options.folder / "log"
            system = System(dolt, url or "", options.ports, logs, environment=environment, observe=timeline.observe)
            yield stack.enter_context(system), dolt, workspace, timeline
        finally:
            interrupts.ignore()


def up(
    system: System, dolt: settings.DoltSettings, workspace: Workspace, options: Options, timeline: SystemTimeline
) -> NoReturn:
    """Serve the console, show the timeline and what holds dispatch up, until Ctrl-C."""
    system.start_console()
    show(*_next_steps(workspace, options))
    if options.beadboard_url:
        _report_unreachable(options.beadboard_url)
    hold = HoldWatch(dolt, show)
    while True:
        hold.check()
        timeline.check()
        time.sleep(_CHECK_SECONDS)
        system.require_running()


def _run_command(options: Options, workspace: Workspace, stack: contextlib.ExitStack) -> dict[str, str]:
    """The environment of processes whose agent is the user's command. Raises StartError."""
    assert options.agent_command
    path = agent_command.write_agents_file(
        options.folder, options.assignee, options.agent_command, workspace.folder, options.job_seconds
    )
    report(f"each bead of {options.assignee} starts your command, its output goes into {options.folder / 'jobs'}")
    stack.callback(agent_command.end_jobs, path, options.confirm)
    folders = [str(workspace.bd.parent)] if workspace.bd.is_absolute() else []
    return {
        "AGENTS_FILE": str(path),
        "BEADS_DIR": str(workspace.beads_dir),
        "PATH": os.pathsep.join([*folders, os.environ.get("PATH", os.defpath)]),
    }


def _own_workspace(options: Options, stack: contextlib.ExitStack) -> tuple[settings.DoltSettings, Workspace]:
    port, data = options.ports.dolt, options.folder / "dolt"
    workspace = Workspace(processes.program("bd"), options.folder / "workspace")
    server = DoltServer(processes.program("dolt"), data, port)
    first = not data.exists() and not workspace.folder.exists()
    undo = stack.enter_context(contextlib.ExitStack())
    if first:  # bd refuses a workspace that it made half
        undo.callback(shutil.rmtree, workspace.folder, ignore_errors=True)
        undo.callback(shutil.rmtree, data, ignore_errors=True)
    report(f"starting Dolt on 127.0.0.1:{port}, data in {os.path.relpath(data)}")
    stack.callback(server.stop)
    server.start()
    if first:
        report("making a bd workspace with a few example beads (about 10 s)")
    workspace.init(port, "demo")
    if not workspace.titles():
        for title, acceptance in EXAMPLES:
            workspace.create(title, acceptance)
    undo.pop_all()  # from now on the data stays
    return settings.dolt({"BEADS_DIR": str(workspace.beads_dir)}), workspace


def _users_workspace(options: Options, stack: contextlib.ExitStack) -> tuple[settings.DoltSettings, Workspace]:
    """A workspace whose beads matter: its owner's bd, and no bead is closed unless the owner allows it."""
    assert options.beads_dir
    dolt = stack.enter_context(
        users_workspace.served(options.beads_dir, options.folder / "dolt", options.ports.dolt, options.confirm)
    )
    found = shutil.which(os.environ.get("BD") or "bd")
    if not options.beadboard_url and not options.agent_command:
        if found is None:
            raise StartError("the stand-in agent needs bd, which is not on PATH. Install bd, or set BEADBOARD_URL.")
        _protect_queue(dolt, options)
    report(f"using Dolt at {dolt.host}:{dolt.port}, database {dolt.database}")
    return dolt, Workspace(pathlib.Path(found or "bd"), options.beads_dir.parent)


def _protect_queue(dolt: settings.DoltSettings, options: Options) -> None:
    """Raises StartError when the stand-in agent would close beads of the user's without permission."""
    with contextlib.closing(store.Store(dolt)) as beads:
        eligible = beads.eligible.count(options.assignee, datetime.now(UTC))
    report("the stand-in agent does no work: it notes and closes each bead that is assigned to it")
    if eligible and not options.stand_in_allowed:
        raise StartError(
            f"{eligible} beads of your workspace are in the queue of {options.assignee}, and the stand-in agent would"
            " close them. Set BEADBOARD_URL to a real BeadBoard, or STAND_IN_AGENT=yes if that is what you want."
        )


def _report_unreachable(url: str) -> None:
    """Show at once when there is no agent; later the hold shows it, when a bead is in the queue."""
    try:
        BeadBoard(settings.agent({"BEADBOARD_URL": url})).load()
    except agents.Unreachable as exc:
        show(f"{clock(datetime.now(UTC))}  the agent cannot be reached, beads stay in the queue: {exc}")


def _next_steps(workspace: Workspace, options: Options) -> list[str]:
    """What to type in a second terminal, and where everything is."""
    beads = [] if options.beads_dir else workspace.titles(status="open")[:6]
    bead = beads[0][0] if beads else "<id>"
    folders = [str(workspace.bd.parent)] if workspace.bd.is_absolute() else []
    folders.append(str(pathlib.Path(sys.executable).parent))  # beads-dispatch
    ports = options.ports
    return [
        "",
        "Everything runs. In a second terminal:",
        "",
        f"    export PATH={':'.join(folders)}:$PATH",
        "    export BD_DISABLE_METRICS=1",
        f"    cd {workspace.folder}",
        f"    bd assign {bead} {options.assignee}",
        f"    beads-dispatch explain {bead}",
        "",
        *(f"    {bead}  {title}" for bead, title in beads),
        "    bd create '<title>' --acceptance '<when it is done>' makes another",
        "",
        f"console http://127.0.0.1:{ports.console}  in a browser: what runs, what waits and why, what happened",
        f"dispatch http://127.0.0.1:{ports.dispatch}  reap http://127.0.0.1:{ports.reap}"
        f"  feeder http://127.0.0.1:{ports.feeder}  logs {options.folder / 'log'}",
        "Ctrl-C stops everything; the beads stay.",
        "",
    ]


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
