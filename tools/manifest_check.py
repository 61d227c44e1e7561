"""python -m tools.manifest_check: kube-score on the manifests as kustomize renders them.

kube-score knows no Knative Service, so each is shown to it as the Deployment that Serving makes of it. An exception has
its reason here; one that nothing needs any more is reported as well.
"""

import json
import pathlib
import subprocess
import sys
from typing import Any

import yaml

from tools import toolchain

OVERLAYS = pathlib.Path(__file__).parents[1] / "knative" / "overlays"
CHECKED = ("example", "kafka", "rabbitmq")
_GRADE_OK = 7  # of 10; 1 is critical, 5 a warning

# By check, and by the name of the object where the exception is not for all.
EXCEPTIONS = {
    "container-resources": "no CPU limit: nodes share by requests, and a limit slows a pass down for nobody's good",
    "container-image-pull-policy": "a tag names one version, which never changes (CONTRIBUTING.md)",
    "container-ephemeral-storage-request-and-limit": "the root file system is read-only, and no volume is writable",
    "container-security-context-user-group-id": "the image's own user, 65532; OpenShift gives each namespace another",
    "deployment-replicas feeder": "one feeder at a time: a second one would publish everything twice",
    "deployment-strategy feeder": "the same: Recreate, so that the old pod ends first",
}


class UnreadableManifests(Exception):
    """The manifests cannot be rendered or looked at."""


def main() -> int:
    """Print what kube-score finds beside the exceptions; returns the exit status."""
    try:
        kustomize, kube_score = toolchain.kustomize(), toolchain.kube_score()
    except toolchain.ToolError as exc:
        print(f"{exc}\nSKIPPED: kube-score on the manifests", file=sys.stderr)
        return 0
    needed: set[str] = set()
    wrong = 0
    for name in CHECKED:
        for key, text in findings(kube_score, rendered(kustomize, OVERLAYS / name)):
            check = key.partition(" ")[0]
            if excepted := {key, check} & EXCEPTIONS.keys():
                needed |= excepted
            else:
                print(f"knative/overlays/{name}: {key}: {text}")
                wrong += 1
    for key in EXCEPTIONS.keys() - needed:
        print(f"tools/manifest_check.py: nothing needs the exception {key!r}")
        wrong += 1
    return 1 if wrong else 0


def rendered(kustomize: pathlib.Path, overlay: pathlib.Path) -> list[dict[str, Any]]:
    """The output of `kustomize build`, with Deployments for Knative Services."""
    done = subprocess.run([kustomize, "build", overlay], capture_output=True, text=True)
    if done.returncode:
        raise UnreadableManifests(done.stderr)
    return [as_deployment(document) for document in yaml.safe_load_all(done.stdout) if document]


def as_deployment(document: dict[str, Any]) -> dict[str, Any]:
    """What Serving makes of a Knative Service; anything else as it is."""
    if not document["apiVersion"].startswith("serving.knative.dev/"):
        return document
    metadata, template = document["metadata"], document["spec"]["template"]
    label = {"serving.knative.dev/service": metadata["name"]}
    template["metadata"]["labels"] = {**template["metadata"].get("labels", {}), **label}
    pod = {
        name: value
        for name, value in template["spec"].items()
        if name not in ("containerConcurrency", "timeoutSeconds")
    }
    spec = {"replicas": 1, "selector": {"matchLabels": label}, "template": {**template, "spec": pod}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def findings(kube_score: pathlib.Path, documents: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """What it does not like: the check and the object's name, and its words."""
    command = [str(kube_score), "score", "--output-format", "json", "--kubernetes-version", "v1.34", "-"]
    done = subprocess.run(command, input=yaml.safe_dump_all(documents), capture_output=True, text=True)
    if not done.stdout.startswith("["):
        raise UnreadableManifests(done.stdout + done.stderr)
    return [
        (f"{result['check']['id']} {scored['object_meta']['name']}", _words(result))
        for scored in json.loads(done.stdout)
        for result in scored["checks"]
        if not result["skipped"] and result["grade"] < _GRADE_OK
    ]


def _words(result: dict[str, Any]) -> str:
    comments = [f"{comment['path']} {comment['summary']}".strip() for comment in result["comments"] or []]
    return "; ".join(comments) or str(result["check"]["name"])


if __name__ == "__main__":
    sys.exit(main())
