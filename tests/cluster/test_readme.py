"""The README's commands for a cluster, as they stand there but for the namespace."""

import os
import pathlib
import shutil
import subprocess

import pytest

from tests.cluster.conftest import Deployed
from tests.support import wait_for

pytestmark = pytest.mark.cluster

ROOT = pathlib.Path(__file__).parents[2]

IMAGE = "docker build -t registry.example.com/beads-dispatch:0.2.0 ."
# The system is deployed already, so these make nothing; the API server checks the manifests.
INSTALL = {
    "kubectl create namespace beads": "--dry-run=client",
    "kubectl -n beads create secret generic dolt --from-file=passwords": "--dry-run=client",
    "kubectl apply -k knative/overlays/mine": "--dry-run=server",
}
SUSPEND = "kn source ping update dispatch --ce-override suspend=true -n beads"
RESUME = "kn source ping update dispatch --ce-override suspend- -n beads"


def run(command: str, folder: pathlib.Path = ROOT) -> None:
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_is_built() -> None:
    """By the Dockerfile."""
    if subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("needs a Docker daemon")
    run(IMAGE)


@pytest.mark.parametrize("command", INSTALL)
def test_the_install_commands_are_accepted(deployed: Deployed, command: str, tmp_path: pathlib.Path) -> None:
    """With an overlay that is a copy of the example, and a folder of passwords."""
    if os.environ.get("BROKER") and "apply" in command:
        pytest.skip("the overlay is the one of the default Broker, and a Broker's class cannot be changed")
    shutil.copytree(ROOT / "knative", tmp_path / "knative")
    mine = tmp_path / "knative" / "overlays" / "mine"
    shutil.copytree(ROOT / "knative" / "overlays" / "example", mine)
    overlay = mine / "kustomization.yaml"
    overlay.write_text(overlay.read_text().replace("namespace: beads ", f"namespace: {deployed.namespace.name} "))
    (tmp_path / "passwords").mkdir()
    (tmp_path / "passwords" / "feeder").write_text("secret")
    words = command.replace("-n beads", f"-n {deployed.namespace.name}")
    run(f"{words} {INSTALL[command]}", tmp_path)


def test_suspend_and_resume(deployed: Deployed) -> None:
    """The feeder mirrors each within a second or two."""
    suspension = deployed.beads.store.control.suspension
    run(SUSPEND.replace("-n beads", f"-n {deployed.namespace.name}"))
    wait_for(lambda: suspension().dispatch, "suspended", 5)
    run(RESUME.replace("-n beads", f"-n {deployed.namespace.name}"))
    wait_for(lambda: not suspension().dispatch, "resumed", 5)
