"""The dashboard and the alert rules: they use metrics that the feeder exposes, and lead to the runbook."""

import json
import pathlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from beads_dispatch import settings, store
from beads_dispatch.suspension import Suspension
from feeder import metrics
from feeder.health import HealthState
from tests import support
from tools import toolchain

ROOT = pathlib.Path(__file__).parents[2]
MONITORING = ROOT / "knative" / "monitoring"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
RULES = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())["spec"]
CASES = ("alerts.yaml", "alerts-days.yaml")
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}


def exposed() -> set[str]:
    """The names of all metrics, those that only Dolt knows too."""
    health = HealthState()
    health.position = ""
    nowhere = settings.DoltSettings("127.0.0.1", 9, "root", "", "x")
    scrape = metrics.Scrape(store.Store(nowhere), [settings.DispatchLimits()], health)
    now = datetime.now(UTC)
    agent = store.AgentOverview(0, None, 0, store.Hold(1, now), {})
    overview = store.Overview({"agent": agent}, Suspension(), {"dispatch": now}, "", {"agent": now})
    types = re.findall(r"^# TYPE (\w+) (\w+)$", scrape.page().decode(), re.MULTILINE)
    own = [f"{name}_bucket" if kind == "histogram" else name for name, kind in types]
    return {*own, *(family.name for family in scrape._from_dolt(overview))}


def used(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:beads|process)_\w+\b", expression))


def expressions(panel: Any) -> Iterator[str]:
    yield from (target["expr"] for target in panel.get("targets", []))


def test_every_metric_of_the_dashboard_is_exposed() -> None:
    """And every metric of ours is on it."""
    asked = set().union(*(used(each) for panel in DASHBOARD["panels"] for each in expressions(panel)))
    assert asked <= exposed()
    assert {name for name in exposed() if name.startswith("beads_")} <= asked
    (variable,) = (each for each in DASHBOARD["templating"]["list"] if each["type"] == "query")
    assert used(variable["definition"]) <= exposed()


def test_every_metric_is_documented() -> None:
    """A row of docs/metrics.md, and no row is left of one that is gone."""
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == {name.removesuffix("_bucket") for name in exposed() if name.startswith("beads_")}


def test_the_dashboard_can_be_imported_anywhere() -> None:
    """No data source of ours in it, panels with ids of their own that do not lie on each other."""
    panels = DASHBOARD["panels"]
    assert {panel["datasource"]["uid"] for panel in panels if "datasource" in panel} == {"${datasource}"}
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in panels):
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and max(x for x, _ in cells) < 24
        taken |= cells


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_asks_for_what_is_exposed_and_says_what_to_do(name: str) -> None:
    """Known metrics; a summary, a description, how bad it is, and the address of what to do (see test_docs.py)."""
    alert = ALERTS[name]
    assert used(alert["expr"]) and used(alert["expr"]) <= exposed()
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}


Promtool = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def promtool(tmp_path: pathlib.Path) -> Promtool:
    """Runs Prometheus' own tool on rules, in a folder with the cases."""
    try:
        program = toolchain.promtool()
    except toolchain.ToolError:
        pytest.skip("needs promtool on PATH, or Go, which builds it; `python -m tools.toolchain promtool` says why")
    for name in CASES:
        shutil.copy(ROOT / "tests" / "unit" / name, tmp_path)

    def run(rules: Any, *words: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
        return subprocess.run(
            [program, *words], cwd=tmp_path, capture_output=True, text=True, timeout=support.PATIENCE_SECONDS
        )

    return run


def test_the_rules_fire_when_they_should(promtool: Promtool) -> None:
    """On series as they would come."""
    for command in (["check", "rules", "--lint=all", "rules.yaml"], ["test", "rules", *CASES]):
        done = promtool(RULES, *command)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ALERTS)
@pytest.mark.parametrize("expression", ["vector(1) > 1", "vector(1)"], ids=["never", "always"])
def test_an_alert_that_never_fires_or_always_does_is_noticed(promtool: Promtool, name: str, expression: str) -> None:
    """So the cases have one in which it fires, and one in which it does not."""
    rules = yaml.safe_load(yaml.safe_dump(RULES))
    (rule,) = (rule for group in rules["groups"] for rule in group["rules"] if rule["alert"] == name)
    rule["expr"] = expression
    assert promtool(rules, "test", "rules", *CASES).returncode == 1


Build = Callable[[pathlib.Path], dict[str, Any]]


@pytest.fixture
def build() -> Build:
    """kustomize, and what it builds by kind."""
    try:
        kustomize = toolchain.kustomize()
    except toolchain.ToolError:
        pytest.skip("needs kustomize on PATH, or Go, which builds it; `python -m tools.toolchain kustomize` says why")

    def build(folder: pathlib.Path) -> dict[str, Any]:
        done = subprocess.run([kustomize, "build", folder], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return {found["kind"]: found for found in yaml.safe_load_all(done.stdout)}

    return build


def test_where_the_runbook_is_stands_in_one_place(build: Build, tmp_path: pathlib.Path) -> None:
    """One value of kustomization.yaml changes it in every alert, and leaves the section."""
    copy = shutil.copytree(MONITORING, tmp_path / "monitoring") / "kustomization.yaml"
    text = copy.read_text()
    assert text.count("https://") == 1
    copy.write_text(re.sub(r"https://\S+", "https://wiki.example.com/beads", text))
    groups = build(copy.parent)["PrometheusRule"]["spec"]["groups"]
    found = {rule["alert"]: rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"]}
    assert found == {name: f"https://wiki.example.com/beads#{name.lower()}" for name in ALERTS}


def test_kustomize_builds_it(build: Build) -> None:
    """Each resource in the feeder's namespace; the dashboard whole, and labelled for Grafana."""
    built = build(MONITORING)
    assert built["PrometheusRule"]["spec"] == RULES
    assert built.keys() == {"ConfigMap", "NetworkPolicy", "PodMonitor", "PrometheusRule"}
    assert {found["metadata"]["namespace"] for found in built.values()} == {"beads"}
    assert json.loads(built["ConfigMap"]["data"]["dashboard.json"]) == DASHBOARD
    assert built["ConfigMap"]["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_what_is_scraped_is_the_feeder() -> None:
    """The PodMonitor and the NetworkPolicy select the pod of base/feeder.yaml, and its port."""
    feeder = yaml.safe_load((ROOT / "knative" / "base" / "feeder.yaml").read_text())["spec"]["template"]
    (port,) = feeder["spec"]["containers"][0]["ports"]
    monitor = yaml.safe_load((MONITORING / "podmonitor.yaml").read_text())["spec"]
    assert monitor["selector"]["matchLabels"].items() <= feeder["metadata"]["labels"].items()
    assert [(each["port"], each["path"]) for each in monitor["podMetricsEndpoints"]] == [(port["name"], "/metrics")]
    policy = yaml.safe_load((MONITORING / "networkpolicy-feeder-prometheus.yaml").read_text())["spec"]
    assert policy["podSelector"]["matchLabels"] == {"app.kubernetes.io/part-of": "beads-dispatch", "app": "feeder"}
    assert policy["ingress"][0]["ports"] == [{"port": port["containerPort"]}]
