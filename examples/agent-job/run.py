"""A bead's job: reads the event of JobSink, runs a command for the bead, and ends the bead as the command ended.

Environment: AGENT_COMMAND, what is run; BEADS_DIR, the workspace; K_EVENT_PATH, from JobSink. A command that succeeds
and leaves its bead in progress has the bead closed; one that fails leaves it to reap, which opens it again.
"""

import json
import os
import pathlib
import subprocess
import sys
import threading

_HEARTBEAT_SECONDS = 60
_NOTE_LIMIT = 1000  # characters of the output's end that go into a note

_PROMPT = """\
Work on the bead {bead}. Read it with `bd show {bead}`: its acceptance criteria say when it is done.
Note what you do with `bd note {bead} TEXT`. When you cannot go on: note why, then `bd update {bead} --status blocked`.
"""


def main() -> int:
    """The exit status of the command, which is the Job's."""
    event = json.loads(_event().read_text(encoding="utf-8"))
    bead, actor = event["data"]["bead"], event["data"]["actor"]
    # bd lets only the assignee write on a bead in progress.
    os.environ.update({"BEAD_ID": bead, "BEADS_ACTOR": actor, "BD_NON_INTERACTIVE": "1", "BD_DISABLE_METRICS": "1"})
    _bd("note", bead, f"claimed by {actor} in {os.environ.get('HOSTNAME', 'a Job')}")
    done = threading.Event()
    threading.Thread(target=_beat, args=(bead, done), daemon=True).start()
    ended = subprocess.run(
        ["/bin/sh", "-c", os.environ["AGENT_COMMAND"]], input=_PROMPT.format(bead=bead), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    done.set()
    print(ended.stdout, flush=True)
    if ended.returncode:
        _bd("note", bead, f"the command ended with {ended.returncode}: {ended.stdout[-_NOTE_LIMIT:]}")
    elif _status(bead) == "in_progress":
        _bd("close", bead, "--reason", "the command succeeded")
    return ended.returncode


def _event() -> pathlib.Path:
    """JobSink mounts the event as the only file below K_EVENT_PATH."""
    folder = pathlib.Path(os.environ.get("K_EVENT_PATH", "/etc/jobsink-event"))
    return next(path for path in sorted(folder.iterdir()) if path.is_file())


def _beat(bead: str, done: threading.Event) -> None:
    """A heartbeat, so that a long silent step is known to go on. bd 1.0.2 has no such command."""
    while not done.wait(_HEARTBEAT_SECONDS):
        _bd("heartbeat", bead)


def _status(bead: str) -> str:
    shown = json.loads(_bd("show", "--json", "--", bead) or "[]")
    return str((shown[0] if isinstance(shown, list) else shown)["status"]) if shown else ""


def _bd(*words: str) -> str:
    """Run bd; what it says on failure goes into the Job's log, and the command goes on."""
    done = subprocess.run(["bd", *words], capture_output=True, text=True)
    if done.returncode:
        print(f"bd {words[0]} failed: {done.stderr.strip()}", file=sys.stderr, flush=True)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
