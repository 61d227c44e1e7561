"""Where the beads are and who acts, found as bd finds both."""

import os
import pathlib
import subprocess
from collections.abc import Mapping

from beads_dispatch import notes, settings

# Our variables, each with bd's own, which is used where ours is not set.
_BD_NAMES = {
    "DOLT_HOST": "BEADS_DOLT_SERVER_HOST",
    "DOLT_PORT": "BEADS_DOLT_SERVER_PORT",
    "DOLT_USER": "BEADS_DOLT_SERVER_USER",
    "DOLT_PASSWORD": "BEADS_DOLT_PASSWORD",
    "DOLT_DATABASE": "BEADS_DOLT_SERVER_DATABASE",
}


def environment(env: settings.Environment, folder: pathlib.Path) -> dict[str, str]:
    """`env` with what bd would find from `folder`: its own variables' values, and the nearest workspace.

    Raises SettingsError where there is none.
    """
    found = dict(env)
    for ours, theirs in _BD_NAMES.items():
        if not found.get(ours) and found.get(theirs):
            found[ours] = found[theirs]
    if found.get("DOLT_HOST") and found.get("DOLT_DATABASE"):
        return found
    if not found.get("BEADS_DIR"):
        workspace = nearest_workspace(folder)
        if workspace is None:
            raise settings.SettingsError(
                "no bd workspace here: there is no .beads folder in this directory or above it in its repository."
                " Go into one, or set BEADS_DIR to its .beads folder, or DOLT_HOST and DOLT_DATABASE."
            )
        found["BEADS_DIR"] = str(workspace)
    return found


def nearest_workspace(folder: pathlib.Path) -> pathlib.Path | None:
    """The first .beads folder from `folder` upwards to the root of its repository, or that of the repository whose
    worktree it is; a `redirect` file in it is followed."""
    folder = folder.resolve()
    for place in (folder, *folder.parents):
        workspace = _redirected(place / ".beads")
        if (workspace / "metadata.json").is_file():
            return workspace
        if (place / ".git").exists():
            shared = _main_checkout(place / ".git")
            return nearest_workspace(shared) if shared is not None and shared != place else None
    return None


def _redirected(workspace: pathlib.Path) -> pathlib.Path:
    try:
        lines = (workspace / "redirect").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return workspace
    targets = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    target = (workspace.parent / targets[0]).resolve() if targets else workspace
    return target if target.is_dir() else workspace


def _main_checkout(git: pathlib.Path) -> pathlib.Path | None:
    """The checkout that a worktree belongs to; None where `git` is not the file of a worktree."""
    try:
        gitdir = git.parent / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        common = gitdir / (gitdir / "commondir").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return common.resolve().parent


def actor(env: Mapping[str, str], given: str | None) -> str:
    """Who acts, as bd finds it: what was given, BEADS_ACTOR, BD_ACTOR, git's user.name, USER.

    Made safe for a commit's author and a note: one line, without the characters that end a name there.
    """
    name = given or env.get("BEADS_ACTOR") or env.get("BD_ACTOR") or _git_user() or env.get("USER") or "unknown"
    return notes.one_line(name, 100).replace("<", "").replace(">", "").strip() or "unknown"


def _git_user() -> str:
    try:
        done = subprocess.run(["git", "config", "user.name"], capture_output=True, text=True, env=os.environ)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
