"""The runbook: what needs no cluster is run as it stands there; what does, with a cluster that is a few scripts, and in
tests/cluster on a real one. And a smoke test that fails cleans up as well.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import yaml

from beads_dispatch import store, suspension
from beads_dispatch.cli import grants
from tests import runbook, support
from tests.cluster import test_runbook as on_a_cluster
from tests.conftest import Beads
from tests.integration.test_doctor import TICKS, report
from tests.runbook import Block
from tools import toolchain

ROOT = pathlib.Path(__file__).parents[2]
TITLES = (
    "First five minutes", "The feeder does not start", "A function does not start", "Upgrade", "Roll back",
    "Change a setting", "Rotate a password", "Move or restore Dolt", "Second team on one cluster",
    "Pause with kubectl alone",
)  # fmt: skip

# kubectl and kn write down what they were asked, and kubectl answers as a cluster does that has THRESHOLD.
SCRIPT = """\
#!/bin/sh
echo "$(basename $0) $*" >> "$ASKED"
case "$*" in *REAP_AFTER_MINUTES}*) printf %s "$THRESHOLD";; esac
"""
FAST = {"sleep": "#!/bin/sh\n", "seq": "#!/bin/sh\necho 1\n"}  # nothing will be dispatched: no reason to wait for it


@pytest.fixture
def fail(beads: Beads, tmp_path: pathlib.Path) -> "Fail":
    return Fail(beads, tmp_path)


class Fail:
    """Runs a smoke test where nothing dispatches, so that it fails."""

    def __init__(self, beads: Beads, folder: pathlib.Path) -> None:
        self.beads = beads
        self._folder = folder
        for name, text in {"kubectl": SCRIPT, "kn": SCRIPT, **FAST}.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)

    def __call__(self, heading: str, **env: str) -> list[str]:
        """What the cluster was asked."""
        workspace, asked = self.beads.workspace, self._folder / "asked"
        path = f"{self._folder}:{workspace.bd.parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", runbook.block(heading)],
            cwd=workspace.folder,
            env={**os.environ, **workspace.environment(), "NS": "beads", "PATH": path, "ASKED": str(asked), **env},
            capture_output=True,
            text=True,
        )
        assert done.returncode != 0, done.stdout
        return asked.read_text().splitlines() if asked.exists() else []


def test_end_to_end(fail: Fail) -> None:
    """No bead is left."""
    fail("Smoke test: end to end")
    assert fail.beads.workspace.titles() == []


@pytest.mark.parametrize(("threshold", "restored"), [("", "null"), ("45", '"45"')])
def test_the_reaper(fail: Fail, tmp_path: pathlib.Path, threshold: str, restored: str) -> None:
    """The threshold is as it was, also where none was set; the agent runs, and no bead is left."""
    started = tmp_path / "started"
    asked = fail("Smoke test: the reaper", THRESHOLD=threshold, STOP_AGENT="false", START_AGENT=f"touch {started}")
    patches = [line.partition(" -p ")[2] for line in asked if " patch " in line]
    assert patches == [f'{{"data": {{"REAP_AFTER_MINUTES": {value}}}}}' for value in ('"1"', restored)]
    assert asked[-1] == "kubectl -n beads rollout status deployment/feeder"
    assert started.exists()
    assert fail.beads.workspace.titles() == []


def test_suspend_and_resume(fail: Fail) -> None:
    """Dispatch is resumed, after the bead is gone: it would be dispatched otherwise."""
    asked = fail("Smoke test: suspend and resume")
    switched = [line for line in asked if line.startswith("kn")]
    assert switched[0] == "kn source ping update dispatch --ce-override suspend=true -n beads"
    assert switched[-1] == "kn source ping update dispatch --ce-override suspend- -n beads"
    assert fail.beads.workspace.titles() == []


def test_what_was_suspended_before_stays_so(fail: Fail, tmp_path: pathlib.Path) -> None:
    """The test does not begin."""
    (tmp_path / "kubectl").write_text("#!/bin/sh\necho true\n")
    assert fail("Smoke test: suspend and resume") == []
    assert fail.beads.workspace.titles() == []


# --- its form -------------------------------------------------------------------------------------------------


def test_the_sections_are_there() -> None:
    """By their titles; the first is ten lines and says where to look."""
    sections = runbook.sections()
    assert set(TITLES) <= sections.keys()
    assert len([line for line in sections["First five minutes"].splitlines() if line and line[:3] != "```"]) <= 12


@pytest.mark.parametrize("section", [name for name in runbook.sections() if name])
def test_every_section_begins_with_doctor(section: str) -> None:
    """Before anything else."""
    assert runbook.sections()[section].lstrip().startswith("```sh\nbeads-dispatch doctor")


def test_every_variable_is_set_at_the_top() -> None:
    """Or in the block that uses it."""
    top = runbook.variables()
    given = set(re.findall(r"([A-Z_]+)=", top))
    for block in (*runbook.blocks(), *(Block(name, 1, runbook.block(name)) for name in SMOKE)):
        used = set(re.findall(r"\$\{?([A-Za-z_]\w*)", block.commands))
        own = set(re.findall(r"\b(\w+)=|for (\w+) in", block.commands))
        assert used <= given | {name for names in own for name in names}, block


def test_every_block_is_run_somewhere() -> None:
    """Without a cluster here, otherwise in tests/cluster/test_runbook.py."""
    assert {str(block) for block in runbook.blocks() if block.needs_cluster} == on_a_cluster.covered()


SMOKE = ("Smoke test: end to end", "Smoke test: the reaper", "Smoke test: suspend and resume")


# --- its commands ---------------------------------------------------------------------------------------------

ASKS = """\
#!/bin/sh
echo "$(basename $0) $*" >> "$ASKED"
case "$*" in *port-forward*) exec /bin/sleep 60;; esac
"""
STUBS = {
    **dict.fromkeys(("kubectl", "kn", "docker", "git"), ASKS),
    "curl": "#!/bin/sh\necho beads_waiting 0\n",
    "sleep": "#!/bin/sh\n",
}

RunBlock = Callable[[Block], list[str]]


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A checkout, with an overlay."""
    shutil.copytree(ROOT / "knative", tmp_path / "knative")
    shutil.copytree(ROOT / "knative" / "overlays" / "example", tmp_path / "knative" / "overlays" / "mine")
    return tmp_path


@pytest.fixture
def run(beads: Beads, folder: pathlib.Path, agent: support.Agent) -> Callable[[Block], list[str]]:
    """Runs a block after the one that sets the variables, in a system that is in order; returns what was asked of the
    cluster. The first command that fails ends it."""
    report(beads, TICKS)
    bead, workspace, asked = beads.workspace.create("do it", "ok"), beads.workspace, folder / "asked"
    (folder / "stubs").mkdir()
    for name, text in STUBS.items():
        (folder / "stubs" / name).write_text(text)
        (folder / "stubs" / name).chmod(0o755)
    here = [folder / "stubs", workspace.bd.parent, toolchain.dolt().parent, pathlib.Path(sys.executable).parent]
    values = {
        "BEADS_DIR": workspace.beads_dir, "BEAD": bead, "SERVER": "127.0.0.1", "SERVER_PORT": beads.dolt.port,
        "ROOT_PASSWORD": "", "DATABASE": beads.dolt.database,
    }  # fmt: skip
    own = "".join(f"export {name}='{value}'\n" for name, value in values.items())

    def run(block: Block) -> list[str]:
        asked.write_text("")
        done = subprocess.run(
            ["bash", "-euc", f"{runbook.variables()}\n{own}\n{block.commands}"],
            cwd=folder,
            env={
                **os.environ, **workspace.environment(), "PATH": ":".join(map(str, [*here, os.environ["PATH"]])),
                "ASKED": str(asked), "BEADBOARD_URL": agent.url,
            },
            capture_output=True,
            text=True,
            timeout=support.PATIENCE_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return asked.read_text().splitlines()

    return run


USERS = ("beads-feeder", "beads-dispatch", "beads-reap", "beads-operator")


@pytest.mark.parametrize("block", [block for block in runbook.blocks() if not block.needs_cluster], ids=str)
def test_commands_that_need_no_cluster(beads: Beads, run: RunBlock, block: Block) -> None:
    """Each ends well, on a real server with a real bd."""
    for user in USERS:
        beads.sql(f"CREATE USER IF NOT EXISTS '{user}'@'%%' IDENTIFIED BY 'secret'")
    beads.store.control.set_hold("agent", store.Hold(), store.Hold(1, None, "down"))
    try:
        run(block)
        if block.section == "The agent is down" and block.number == 2:
            assert beads.store.control.hold("agent") == store.Hold()
        if block.section == "Two deployments, or clones" and block.number == 2:
            feeder = beads.store.feeders.find()
            assert feeder and beads.store.control.dispatching_replica() == feeder.beat.replica
        if block.section == "Remove":
            assert not beads.sql("SHOW DATABASES LIKE 'beads_dispatch'")
            assert not beads.sql("SELECT user FROM mysql.user WHERE user LIKE 'beads-%%' AND user IN %s", USERS)
    finally:
        beads.sql("DELETE FROM config WHERE `key` = %s", suspension.REPLICA_KEY)
        for user in USERS:
            beads.sql(f"DROP USER IF EXISTS '{user}'@'%%'")


@pytest.mark.parametrize("block", [block for block in runbook.blocks() if block.needs_cluster], ids=str)
def test_commands_that_need_one(beads: Beads, run: RunBlock, folder: pathlib.Path, block: Block) -> None:
    """Everything but the cluster is real: sed, Dolt, bd. What is checked is what they leave."""
    (team,) = re.findall("TEAM=(\\w+)", runbook.variables())
    beads.sql("CREATE USER IF NOT EXISTS 'beads-feeder'@'%%' IDENTIFIED BY 'old'")
    beads.sql(f"CREATE DATABASE IF NOT EXISTS `{team}`")
    try:
        asked = run(block)
        assert asked and not (folder / "passwords").exists()
        overlay = (folder / "knative" / "overlays" / "mine" / "kustomization.yaml").read_text()
        if block.section in ("Upgrade", "Roll back"):
            name = "VERSION" if block.section == "Upgrade" else "PREVIOUS"
            (version,) = re.findall(f"{name}=([0-9.]+)", runbook.variables())
            assert f"newTag: {version}\n" in overlay
        if block.section == "Rotate a password":
            (password,) = re.findall(r'"feeder": "(\w+)"', "\n".join(asked))
            store.connect(replace(beads.dolt, user="beads-feeder", password=password), database=None).close()
        if "users.sql" in block.commands:
            suffix, database = ("", beads.dolt.database) if block.section == "Install" else (f"-{team}", team)
            for user, needed in grants.NEEDED.items():
                held = beads.sql(f"SHOW GRANTS FOR '{user}{suffix}'@'%%'")
                found = " ".join(value for row in held for value in row.values())
                assert all(one.replace("`beads`", f"`{database}`") in found for one in needed if "*.*" not in one)
    finally:
        beads.sql(f"DROP DATABASE `{team}`")
        for user in USERS:
            beads.sql(f"DROP USER IF EXISTS '{user}'@'%%'")
            beads.sql(f"DROP USER IF EXISTS '{user}-{team}'@'%%'")


def test_the_patches_of_a_second_team_give_each_process_its_user(folder: pathlib.Path) -> None:
    """As they stand in the runbook, at the end of an overlay; built by kustomize."""
    try:
        kustomize = toolchain.kustomize()
    except toolchain.ToolError:
        pytest.skip("needs kustomize on PATH, or Go, which builds it")
    (patches,) = re.findall(r"^```yaml\n(.*?)^```", runbook.sections()["Second team on one cluster"], re.M | re.S)
    overlay = folder / "knative" / "overlays" / "mine" / "kustomization.yaml"
    overlay.write_text(overlay.read_text().replace("patches:\n", f"patches:\n{patches}"))
    done = subprocess.run([kustomize, "build", overlay.parent], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {}
    for document in yaml.safe_load_all(done.stdout):
        containers = document.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [])
        for container in containers:
            env = {one["name"]: one.get("value") for one in container["env"]}
            found[container["name"]] = env["DOLT_USER"]
    (team,) = re.findall("TEAM=(\\w+)", runbook.variables())
    assert found == {
        "feeder": f"beads-feeder-{team}", "dispatch": f"beads-dispatch-{team}", "reap": f"beads-reap-{team}",
        "console": f"beads-operator-{team}",
    }  # fmt: skip
