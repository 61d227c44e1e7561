"""Prints a systemd user unit that runs `make up` for a workspace."""

import os
import pathlib
import sys
from collections.abc import Mapping

_PASSED_ON = (
    "AGENT_COMMAND", "AGENT_JOB_TIMEOUT_SECONDS", "AGENT_ASSIGNEE", "MAX_IN_FLIGHT", "LOCAL_PORT", "DOLT", "BD",
    "BEADBOARD_URL", "REAP_AFTER_MINUTES", "MAX_ATTEMPTS",
)  # fmt: skip


def unit(env: Mapping[str, str], beads_dir: pathlib.Path, folder: pathlib.Path) -> str:
    """The unit's text. YES=1: nobody is there to be asked."""
    values = {name: env[name] for name in _PASSED_ON if env.get(name)}
    values |= {"BEADS_DIR": str(beads_dir), "YES": "1", "PATH": env.get("PATH", os.defpath)}
    project = pathlib.Path(__file__).parents[1]
    return "\n".join(
        [
            "# Save as ~/.config/systemd/user/beads-dispatch.service, then:",
            "#   systemctl --user daemon-reload",
            "#   systemctl --user enable --now beads-dispatch",
            "#   journalctl --user -fu beads-dispatch",
            "[Unit]",
            f"Description=beads-dispatch for {_escaped(str(beads_dir.parent))}",
            "",
            "[Service]",
            f"WorkingDirectory={_escaped(str(project))}",
            *(f'Environment="{name}={_quoted(value)}"' for name, value in sorted(values.items())),
            f'ExecStart="{_argument(sys.executable)}" -m local up --folder "{_argument(str(folder))}"',
            "Restart=on-failure",
            "RestartSec=10",
            "# The main process stops its parts in order; what is left after that is killed.",
            "KillMode=mixed",
            "TimeoutStopSec=60",
            "",
            "[Install]",
            "WantedBy=default.target",
            "",
        ]
    )


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _argument(text: str) -> str:
    return _quoted(text).replace("$", "$$")


def _quoted(text: str) -> str:
    """Inside double quotes; `$` means nothing in Environment=, and in a command it is doubled."""
    return _escaped(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
