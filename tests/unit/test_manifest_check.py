"""kube-score on the rendered manifests, as `make check` runs it."""

import pathlib
from typing import Any

import pytest

from tools import manifest_check, toolchain

Documents = list[dict[str, Any]]


@pytest.fixture(scope="module")
def kube_score() -> pathlib.Path:
    try:
        return toolchain.kube_score()
    except toolchain.ToolError:
        pytest.skip("needs Go, which builds kube-score; `python -m tools.toolchain kube-score` says why")


@pytest.fixture
def documents() -> Documents:
    try:
        return manifest_check.rendered(toolchain.kustomize(), manifest_check.OVERLAYS / "example")
    except toolchain.ToolError:
        pytest.skip("needs kustomize; `python -m tools.toolchain kustomize` says why")


def test_nothing_is_found_beside_the_exceptions(
    kube_score: pathlib.Path, documents: Documents, capsys: pytest.CaptureFixture[str]
) -> None:
    """And every exception is needed."""
    assert manifest_check.main() == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", ["feeder", "dispatch", "reap"])
def test_a_mistake_in_any_pod_is_found(kube_score: pathlib.Path, documents: Documents, name: str) -> None:
    """Also in a function's, which kube-score knows as a Deployment."""
    (deployment,) = (one for one in documents if (one["kind"], one["metadata"]["name"]) == ("Deployment", name))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    container["securityContext"]["readOnlyRootFilesystem"] = False
    container["securityContext"]["privileged"] = True
    found = {key for key, _ in manifest_check.findings(kube_score, documents)}
    for check in ("readonlyrootfilesystem", "privileged"):
        assert f"container-security-context-{check} {name}" in found


def test_an_exception_that_nothing_needs_is_reported(
    kube_score: pathlib.Path,
    documents: Documents,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """So that the list does not outlive its reasons; and what is not excepted is named."""
    exceptions = {**manifest_check.EXCEPTIONS, "pod-probes": "never needed"}
    del exceptions["deployment-strategy feeder"]
    monkeypatch.setattr(manifest_check, "EXCEPTIONS", exceptions)
    assert manifest_check.main() == 1
    printed = capsys.readouterr().out
    assert "nothing needs the exception 'pod-probes'" in printed
    assert "knative/overlays/example: deployment-strategy feeder: " in printed
