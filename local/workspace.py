"""A bd workspace on a Dolt server, and the bd program in it."""

import json
import os
import pathlib
import subprocess
from typing import Any

from local.processes import GUARD, StartError

EXAMPLES = (
    ("Write a haiku about queues", "The haiku has three lines of 5, 7 and 5 syllables."),
    ("Add a --version option", "The program prints its version and exits with 0."),
    ("Find out why the build is slow", "The three slowest steps are named with their times."),
)


class BdError(Exception):
    """bd ended with an error; the text is what it printed."""


class Workspace:
    """Runs bd in a folder, as a person or as the agent."""

    def __init__(self, bd: pathlib.Path, folder: pathlib.Path) -> None:
        self.bd = bd
        self.folder = folder.resolve()

    @property
    def beads_dir(self) -> pathlib.Path:
        return self.folder / ".beads"

    def init(self, port: int, prefix: str) -> None:
        """Make the workspace and its database where they are missing. Raises StartError."""
        if (self.beads_dir / "metadata.json").exists():
            # The port may be another one than last time; this file is what bd reads first.
            (self.beads_dir / "dolt-server.port").write_text(str(port))
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "init", "-q", str(self.folder)], check=True, capture_output=True)
        try:
            self.run(
                "init", "--server", "--external", "--server-host", "127.0.0.1", "--server-port", str(port),
                "--server-user", "root", "--prefix", prefix, "--skip-hooks", "--skip-agents", "--non-interactive", "-q",
            )  # fmt: skip
        except BdError as exc:
            raise StartError(f"bd could not make its workspace in {self.folder}: {exc}") from None
        (self.beads_dir / "dolt-server.port").write_text(str(port))

    def run(self, *arguments: str, actor: str = "") -> str:
        """Run bd; returns its standard output. Raises BdError."""
        done = subprocess.run(
            [*GUARD, str(self.bd), *arguments],
            cwd=self.folder,
            env={**os.environ, **self.environment(actor)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            start_new_session=True,  # Ctrl-C in the terminal must not end it half-way
        )
        if done.returncode:
            raise BdError((done.stderr or done.stdout).strip())
        return done.stdout

    def environment(self, actor: str = "") -> dict[str, str]:
        """For bd: this workspace, no questions, no usage metrics; and the actor."""
        names = {"BEADS_DIR": str(self.beads_dir), "BD_NON_INTERACTIVE": "1", "BD_DISABLE_METRICS": "1"}
        return {**names, **({"BEADS_ACTOR": actor} if actor else {})}

    def create(self, title: str, acceptance: str = "", *more: str) -> str:
        """Create a bead; returns its id."""
        criteria = ("--acceptance", acceptance) if acceptance else ()
        bead = json.loads(self.run("create", title, *criteria, *more, "--json"))
        return str(bead["id"])

    def show(self, bead_id: str) -> dict[str, Any]:
        """A bead as `bd show --json` prints it."""
        found = json.loads(self.run("show", "--json", "--", bead_id))
        bead: dict[str, Any] = found[0] if isinstance(found, list) else found
        return bead

    def titles(self, status: str = "") -> list[tuple[str, str]]:
        """Ids and titles of the beads, all or those with a status, oldest first; those of one second by id."""
        which = ("--status", status) if status else ("--all",)
        beads = json.loads(self.run("list", *which, "--json") or "[]")
        return [(bead["id"], bead["title"]) for bead in sorted(beads, key=lambda b: (b["created_at"], b["id"]))]
