"""The manifests, without a cluster: complete, consistent with each other, and within Pod Security `restricted`."""

import pathlib
from typing import Any

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[2]
BASE = ROOT / "knative" / "base"


def documents(path: pathlib.Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def everything() -> list[dict[str, Any]]:
    kustomization = documents(BASE / "kustomization.yaml")[0]
    return [document for name in kustomization["resources"] for document in documents(BASE / name)]


def pods() -> dict[str, dict[str, Any]]:
    """The pod specs, by the name of what makes them."""
    return {
        found["metadata"]["name"]: found["spec"]["template"]["spec"]
        for found in everything()
        if found["kind"] == "Deployment" or found["apiVersion"].startswith("serving.knative.dev")
    }


def test_every_file_in_base_is_a_resource() -> None:
    """A manifest that is not listed is not deployed."""
    listed = set(documents(BASE / "kustomization.yaml")[0]["resources"])
    assert {path.name for path in BASE.glob("*.yaml")} == listed | {"kustomization.yaml"}


@pytest.mark.parametrize("name", ["feeder", "dispatch", "reap"])
def test_each_pod_is_within_the_restricted_standard(name: str) -> None:
    """Non-root, read-only, no capabilities, no token, no limits left out."""
    pod = pods()[name]
    assert pod["automountServiceAccountToken"] is (name == "feeder")
    assert pod["serviceAccountName"] == name
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "runAsNonRoot": True,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["resources"]["limits"]["memory"]
    assert all(mount["readOnly"] for mount in container["volumeMounts"])
    assert not [
        variable for variable in container["env"] if "PASSWORD" in variable["name"] and "FILE" not in variable["name"]
    ]


def test_the_feeder_may_watch_pingsources_and_nothing_else() -> None:
    """One role, one rule, read only."""
    (role,) = [found for found in everything() if found["kind"] == "Role"]
    assert role["rules"] == [
        {"apiGroups": ["sources.knative.dev"], "resources": ["pingsources"], "verbs": ["get", "list", "watch"]}
    ]
    (binding,) = [found for found in everything() if found["kind"] == "RoleBinding"]
    assert [subject["name"] for subject in binding["subjects"]] == ["feeder"]
    assert not [found for found in everything() if found["kind"].startswith("ClusterRole")]


def test_triggers_name_what_is_deployed() -> None:
    """Every subscriber and dead-letter sink is a Service of this base."""
    services = {
        (found["apiVersion"], found["metadata"]["name"]) for found in everything() if found["kind"] == "Service"
    }
    for trigger in (found for found in everything() if found["kind"] == "Trigger"):
        refs = [trigger["spec"]["subscriber"]["ref"]]
        refs += [sink["ref"] for sink in [trigger["spec"].get("delivery", {}).get("deadLetterSink")] if sink]
        assert {(ref["apiVersion"], ref["name"]) for ref in refs} <= services


def test_the_functions_scale_to_zero_and_run_one_pass_at_a_time() -> None:
    """Annotations for scaling stand on the template; MAX_IN_FLIGHT is exact with one pass at a time."""
    for found in everything():
        if found["apiVersion"].startswith("serving.knative.dev"):
            template = found["spec"]["template"]
            annotations = template["metadata"]["annotations"]
            assert annotations["autoscaling.knative.dev/min-scale"] == "0"
            assert annotations["autoscaling.knative.dev/max-scale"] == "1"
            assert template["spec"]["containerConcurrency"] == 1


def test_what_the_user_supplies_is_in_the_overlay() -> None:
    """The base names no address and no password; the example overlay marks them as yours."""
    text = "".join(path.read_text() for path in BASE.glob("*.yaml"))
    assert "BEADBOARD_URL" not in text and "dolt_server_host" not in text
    overlay = (ROOT / "knative" / "overlays" / "example" / "kustomization.yaml").read_text()
    assert overlay.count("# yours") >= 4
