"""The backend `command`: a shell command for each bead, on this machine. It outlives the process that started it, and
any process of the user can ask for it.

A job is a process group led by command_job.py. What there is to know of it is in the folder `output`: what it prints in
<job>.log, and its state in <job>.running and then <job>.ended. The file <job>.running is locked for as long as a
process of the job lives: that is how others know, for a process id alone may belong to another process by now.
"""

import contextlib
import fcntl
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from urllib.parse import quote

from beads_dispatch.agents import JobState, Load, Phase, Unreachable, prompt
from beads_dispatch.settings import AgentSettings

_JOB_SECONDS = 3600  # job_timeout_seconds, where the settings give none
_SUCCESS = "exit status 0"  # as command_job writes it
_SCRIPT = str(pathlib.Path(__file__).with_name("command_job.py"))


class Command:
    """The command of one agent. A job's id is its claim."""

    tells_jobs = True

    def __init__(self, agent: AgentSettings) -> None:
        self._agent = agent
        self._folder = pathlib.Path(agent.options["folder"]).expanduser()
        self._output = output_folder(agent)

    def start(self, bead: str, claim: str, traceparent: str = "", hints: Mapping[str, str] | None = None) -> str:
        """Run the command: BEAD_ID and BEADS_ACTOR in its environment, each hint as BEAD_<NAME>, the prompt as its
        standard input. Raises Unreachable where it cannot be run, Refused for an id that stands in no prompt."""
        text = prompt.for_bead(self._agent, bead)
        suggested = {f"BEAD_{name.upper()}": value for name, value in self._agent.allowed_hints(hints).items()}
        variables = {"BEAD_ID": bead, "BEADS_ACTOR": self._agent.name, **suggested}
        variables |= {"TRACEPARENT": traceparent} if traceparent else {}
        if not self._folder.is_dir():
            raise Unreachable(f"{self._folder} is not a folder")
        with self._usable_output():
            self._output.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with tempfile.TemporaryFile() as stdin, _locked(self._file(claim, "running")) as state:
                stdin.write(text.encode())
                stdin.seek(0)
                process = self._run(claim, state, stdin.fileno(), {**os.environ, **variables})
        except FileExistsError:
            return claim  # the same claim again
        except OSError as exc:
            raise Unreachable(f"the command cannot be run: {exc.strerror}") from exc
        # Its end is waited for, or it would stay a zombie until ours.
        threading.Thread(target=process.wait, daemon=True).start()
        return claim

    def state(self, job: str) -> JobState:
        """How far a job is, by its files, and where its output is. Raises Unreachable where they cannot be read."""
        output = f"its output is in {self.log(job)}"
        with self._usable_output():
            if _is_locked(self._file(job, "running")):
                return JobState(Phase.RUNNING, output)
            ended = self._file(job, "ended")
            how = ended.read_text() if ended.exists() else "its process was killed, or the machine was restarted"
        if how == _SUCCESS:
            return JobState(Phase.SUCCEEDED, output)
        return JobState(Phase.FAILED, f"{how}; {output}")

    def find(self, claim: str, bead: str, hints: Mapping[str, str] | None = None) -> str | None:
        """The job of a claim, where one was started. Raises Unreachable."""
        with self._usable_output():
            return claim if any(self._file(claim, kind).exists() for kind in ("running", "ended")) else None

    def load(self) -> Load:
        """How many jobs run. Raises Unreachable."""
        return Load(running=len(self.running()))

    def probe(self) -> None:
        """Whether the folder is there. Raises Unreachable."""
        if not self._folder.is_dir():
            raise Unreachable(f"{self._folder} is not a folder")

    def running(self) -> list[str]:
        """The jobs that run. Raises Unreachable where that cannot be read."""
        with self._usable_output():
            return [path.stem for path in self._output.glob("*.running") if _is_locked(path)]

    def end(self, job: str) -> None:
        """End a job that runs, and all processes of its group, within some seconds."""
        path = self._file(job, "running")
        with contextlib.suppress(OSError, ValueError):
            if _is_locked(path):
                os.killpg(int(path.read_text()), signal.SIGTERM)

    def log(self, job: str) -> pathlib.Path:
        """The file with what a job prints."""
        return self._file(job, "log")

    def _file(self, job: str, kind: str) -> pathlib.Path:
        return self._output / f"{quote(job, safe='')}.{kind}"

    def _run(self, job: str, state: int, stdin: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start the job, in a session of its own: no signal to ours reaches it."""
        options = self._agent.options
        seconds = options.get("job_timeout_seconds", _JOB_SECONDS)
        # Isolated (-I): no module of that folder, and no PYTHONPATH, changes what it does.
        arguments = [sys.executable, "-I", _SCRIPT, str(state), str(self._file(job, "running")), str(seconds)]
        with self.log(job).open("ab") as log:
            process = subprocess.Popen(
                [*arguments, options["command"]],
                stdin=stdin, stdout=log, stderr=log, cwd=self._folder, env=environment, pass_fds=[state],
                start_new_session=True,
            )  # fmt: skip
        try:
            os.write(state, str(process.pid).encode())
        except OSError:
            os.killpg(process.pid, signal.SIGKILL)  # on a full disk: a job that runs would not be known to
            process.wait()
            raise
        return process

    @contextlib.contextmanager
    def _usable_output(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise Unreachable(f"{self._output} cannot be used: {exc.strerror}") from exc


def output_folder(agent: AgentSettings) -> pathlib.Path:
    """The option `output`; without it a folder for each agent below $XDG_STATE_HOME."""
    if "output" in agent.options:
        return pathlib.Path(agent.options["output"]).expanduser()
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return pathlib.Path(home).expanduser() / "beads-dispatch" / quote(agent.name, safe="")


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[int]:
    """A new file, locked before it has its name, and its descriptor: the lock lasts while any process has it open. The
    file is removed where the block fails. Raises FileExistsError, also where the job has ended."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".") as unnamed:
        fcntl.flock(unnamed, fcntl.LOCK_EX)
        if path.with_suffix(".ended").exists():
            raise FileExistsError(path)
        os.link(unnamed.name, path)
        try:
            yield unnamed.fileno()
        except BaseException:
            path.unlink()
            raise


def _is_locked(path: pathlib.Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
