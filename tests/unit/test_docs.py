"""The documents agree with the code: settings, log actions, notes, conditions, alerts, and links."""

import ast
import pathlib
import re

import pytest
import yaml

from beads_dispatch import notes, settings
from beads_dispatch.log import Action
from beads_dispatch.store import predicate
from beads_dispatch.store.schema import BdSchema

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md")), *sorted(ROOT.glob("examples/*/*.md"))]


def first_cells(page: str) -> set[str]:
    """The code in the first cells of a page's tables."""
    return set(re.findall(r"^\| `([^`]+)` \|", (DOCS / page).read_text(), re.MULTILINE))


def anchors(page: pathlib.Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_setting_is_documented() -> None:
    """Each environment variable that settings.py names has a row, and a secret has a second one for its file."""
    tree = ast.parse(pathlib.Path(str(settings.__file__)).read_text())
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    variables = {text for text in texts if re.fullmatch(r"[A-Z]+(_[A-Z]+)*", text) and len(text) > 3}
    assert len(variables) > 15
    assert first_cells("configuration.md") >= {*variables, "DOLT_PASSWORD_FILE"}


def test_every_log_action_is_documented() -> None:
    """Each action has a row, and no row is left of one that is gone."""
    settings_and_actions = first_cells("configuration.md")
    assert {name for name in settings_and_actions if name == name.lower()} == {*Action}


@pytest.mark.parametrize("note", [
    notes.CLAIMED, notes.DISPATCHED, notes.DISPATCH_FAILED, notes.WITHDRAWN, notes.CLAIM_EXPIRED, notes.NO_PROGRESS,
    notes.not_counted(), notes.given_up(10).partition("10")[0],
    notes.blocked_after(5), notes.outcome_unknown(""), notes.released("<actor>"),
])  # fmt: skip
def test_every_note_is_documented(note: str) -> None:
    """A row of the table begins with its text."""
    assert [text for text in first_cells("rules.md") if text.startswith(note.strip())]


def test_every_condition_is_documented() -> None:
    """The conditions of the predicate, in its order."""
    schema = BdSchema(row_lock=True, is_blocked=True, leases=True, events=True, wisps=True, edges=(), notes_limit=0)
    named = re.findall(r"^\| (\w+) \|", (DOCS / "rules.md").read_text().partition("## Dispatch")[0], re.MULTILINE)
    assert named == ["condition", *dict.fromkeys([*predicate.of_the_row(schema), *predicate.RELATIONS])]


def test_every_alert_has_its_section() -> None:
    """With the alert's name as the title, in the order of the rules; its annotation `runbook_url` leads there."""
    rules = yaml.safe_load((ROOT / "knative" / "monitoring" / "prometheusrule.yaml").read_text())
    alerts = [rule for group in rules["spec"]["groups"] for rule in group["rules"]]
    names = [alert["alert"] for alert in alerts]
    assert re.findall(r"^## (.+)$", (DOCS / "alerts.md").read_text(), re.MULTILINE) == names
    page = "https://github.com/beads-dispatch/beads-dispatch/blob/main/docs/alerts.md"
    assert [alert["annotations"]["runbook_url"] for alert in alerts] == [f"{page}#{name.lower()}" for name in names]


def test_every_network_policy_and_database_user_is_explained() -> None:
    """In security.md: a row for each policy that is deployed, and for each user of users.sql."""
    knative = ROOT / "knative"
    policies = {yaml.safe_load(path.read_text())["metadata"]["name"] for path in knative.glob("*/networkpolicy-*.yaml")}
    users = set(re.findall(r"^CREATE USER IF NOT EXISTS '([\w-]+)'", (knative / "users.sql").read_text(), re.MULTILINE))
    assert len(policies) > 6 and len(users) > 2
    assert {name for name in first_cells("security.md") if re.fullmatch("[a-z-]+", name)} == policies | users


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_page_and_a_heading(page: pathlib.Path) -> None:
    """Relative links: the file is there, and so is the heading."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), target


def test_every_page_is_linked_from_the_readme_or_its_pages() -> None:
    """No page of docs/ that nobody finds."""
    linked = {target for page in PAGES for target in re.findall(r"\]\((?:docs/)?([\w-]+\.md)", page.read_text())}
    assert {page.name for page in DOCS.glob("*.md")} <= linked
