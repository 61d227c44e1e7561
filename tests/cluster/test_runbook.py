"""The runbook's commands on a cluster, word for word, after the block that sets the variables; its smoke tests have
tests/cluster/test_smoke.py. What would end the system that the other tests use is tried on a namespace of its own.
"""

import base64
import contextlib
import json
import os
import pathlib
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import yaml

from tests import runbook
from tests.cluster.conftest import SCHEDULES, SETTINGS, Deployed
from tests.runbook import Block
from tests.support import wait_for
from tools import cluster, toolchain

pytestmark = pytest.mark.cluster

ROOT = pathlib.Path(__file__).parents[2]

# Run as they stand; the system is afterwards as before.
HARMLESS = {
    "First five minutes 1", "Pause with kubectl alone 1", "Pause with kubectl alone 2",
    "Read what happened to a bead 2", "The feeder does not start 1", "The feeder does not keep up 1",
    "A function does not start 1", "Upgrade 1", "Roll back 1", "Change a setting 1", "Rotate a password 1",
    "Dolt upgraded, or restarted 1", "Move or restore Dolt 1", "Move or restore Dolt 2", "Install 4",
}  # fmt: skip
# Make a namespace; in this order.
OWN_NAMESPACE = ("Install 3", "Second team on one cluster 1", "Remove 1")
# `docker push` needs a registry of one's own; the build is in tests/cluster/test_readme.py.
ELSEWHERE = {"Install 2"}


def covered() -> set[str]:
    """The blocks that need a cluster, as they are run here."""
    return HARMLESS | set(OWN_NAMESPACE) | ELSEWHERE


BLOCKS = {str(block): block for block in runbook.blocks()}


@dataclass
class Operator:
    """A person with the runbook, a checkout and an overlay."""

    deployed: Deployed
    folder: pathlib.Path

    def run(self, block: Block, **values: str) -> str:
        """Stops at the first command that fails."""
        workspace, dolt = self.deployed.beads.workspace, self.deployed.beads.dolt
        image, _, tag = cluster.image().rpartition(":")
        own = {
            "NS": self.deployed.namespace.name, "BEADS_DIR": str(workspace.beads_dir), "IMAGE": image, "VERSION": tag,
            "PREVIOUS": tag, "SERVER": dolt.host, "SERVER_PORT": str(dolt.port), "ROOT_PASSWORD": dolt.password,
            "DATABASE": dolt.database, **values,
        }  # fmt: skip
        exports = "".join(f"export {name}='{value}'\n" for name, value in own.items())
        path = [workspace.bd.parent, toolchain.dolt().parent, pathlib.Path(sys.executable).parent, os.environ["PATH"]]
        done = subprocess.run(
            ["bash", "-euxc", f"{runbook.variables()}\n{exports}\n{block.commands}"],
            cwd=self.folder,
            env={**os.environ, **workspace.environment(), "PATH": ":".join(map(str, path))},
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout


@pytest.fixture
def operator(deployed: Deployed, tmp_path: pathlib.Path) -> Iterator[Operator]:
    """In a clone whose tag is the image's, with the overlay of the system that runs. Ticks have come, so that doctor
    finds nothing wrong."""
    if os.environ.get("BROKER"):
        pytest.skip("the runbook's overlay is the one of the default Broker")
    deployed.start_agent()
    _, _, tag = cluster.image().rpartition(":")
    shutil.copytree(ROOT / "knative", tmp_path / "knative")
    _write_overlay(deployed, tmp_path / "knative" / "overlays" / "mine")
    for words in (
        ("init", "-q"), ("add", "-A"), ("-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "all"),
        ("tag", f"v{tag}"), ("remote", "add", "origin", "."),
    ):  # fmt: skip
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    wait_for(lambda: deployed.beads.store.feeders.ticks().keys() == {"dispatch", "reap"}, "reported ticks", 240)
    yield Operator(deployed, tmp_path)


def _write_overlay(deployed: Deployed, folder: pathlib.Path) -> None:
    """As tools/cluster.py wrote it for what runs; the addresses are in the ConfigMaps."""
    folder.mkdir()
    maps = {one["metadata"]["name"]: one["data"] for one in deployed.namespace.get("configmap")["items"]}
    metadata = json.loads(maps["beads-workspace"]["metadata.json"])
    agent_host, _, agent_port = maps["beads-dispatch"]["BEADBOARD_URL"].removeprefix("http://").rpartition(":")
    dolt = (metadata["dolt_server_host"], int(metadata["dolt_server_port"]))
    addresses = {"dolt": dolt, "agent": (agent_host, int(agent_port))}
    database, namespace = deployed.beads.dolt.database, deployed.namespace.name
    overlay = cluster.kustomization(folder, namespace, cluster.image(), database, addresses, SETTINGS, SCHEDULES)
    overlay["resources"] = ["../example"]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))  # with a line for the tag, which sed changes


@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_a_block_that_leaves_the_system_as_it_was(operator: Operator, name: str) -> None:
    """Each command ends well, and beads are dispatched afterwards."""
    deployed = operator.deployed
    bead = deployed.beads.workspace.create("the bead in question", "It was dispatched")
    block = BLOCKS[name]
    with _suspended(deployed, name):
        operator.run(block, BEAD=bead)
        _check(operator, name)
    cluster.until_ready(deployed.namespace)
    deployed.beads.workspace.run("assign", bead, "agent")
    wait_for(lambda: any("dispatched: job=" in note for note in deployed.beads.notes(bead)), "dispatched", 240)


@contextlib.contextmanager
def _suspended(deployed: Deployed, name: str) -> Iterator[None]:
    """What a block that resumes needs before it, and what one that suspends needs after it."""
    both = [block for block in ("Pause with kubectl alone", "Move or restore Dolt") if name.startswith(block)]
    setting = "suspend=true" if both and name.endswith("2") else "suspend-"
    for word in ("dispatch", "reap"):
        deployed.namespace.kn("source", "ping", "update", word, "--ce-override", setting)
    suspension = deployed.beads.store.control.suspension
    wait_for(lambda: (suspension().dispatch is None) == (setting == "suspend-"), "the mirror", 60)
    yield
    for word in ("dispatch", "reap"):
        deployed.namespace.kn("source", "ping", "update", word, "--ce-override", "suspend-")
    wait_for(lambda: suspension().dispatch is None and suspension().reap is None, "the mirror", 60)


def _check(operator: Operator, name: str) -> None:
    """That the block did what it is for."""
    suspension = operator.deployed.beads.store.control.suspension
    if name in ("Pause with kubectl alone 1", "Move or restore Dolt 1"):
        wait_for(lambda: suspension().dispatch and suspension().reap, "suspended", 60)
    if name in ("Pause with kubectl alone 2", "Move or restore Dolt 2"):
        wait_for(lambda: not suspension().dispatch and not suspension().reap, "resumed", 60)
    if name == "Rotate a password 1":
        # The file in the pod changes within two minutes; then the feeder's user connects with it.
        run = ("exec", "deploy/feeder", "-c", "feeder", "--", "beads-dispatch", "status")

        def connects() -> bool:
            with contextlib.suppress(cluster.ClusterError):
                return bool(operator.deployed.namespace.kubectl(*run))
            return False

        wait_for(connects, "the new password", 240)


def test_blocks_that_make_or_remove_a_namespace(operator: Operator) -> None:
    """An install up to the Secret, a second team, and their end. The users that these make are not the system's: those
    have their passwords back at the end."""
    deployed = operator.deployed
    names = [f"beads-test-{secrets.token_hex(3)}" for _ in range(2)]
    before = deployed.namespace.get("secret", "dolt")["data"]
    try:
        operator.run(BLOCKS["Install 3"], NS=names[0])
        deployed.beads.sql(f"CREATE DATABASE `{names[1]}`")
        operator.run(BLOCKS["Second team on one cluster 1"], TEAM=names[1])
        for name in names:
            assert cluster.Namespace(name).get("secret", "dolt")["data"].keys() == before.keys()
        overlay = operator.folder / "knative" / "overlays" / "mine" / "kustomization.yaml"
        overlay.write_text(overlay.read_text().replace(deployed.namespace.name, names[0]))
        operator.run(BLOCKS["Remove 1"], NS=names[0])
    finally:
        passwords = {name: base64.b64decode(value).decode() for name, value in before.items()}
        cluster.make_users(deployed.beads.dolt, passwords)
        for name in names:
            deployed.namespace.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false")
        deployed.beads.sql(f"DROP DATABASE IF EXISTS `{names[1]}`")
