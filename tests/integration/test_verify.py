"""The checker of claims, on histories that real transactions made: yes and no, with the reason."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from beads_dispatch import store
from beads_dispatch.cli import verify
from tests import support
from tests.conftest import Beads
from tests.integration.conftest import DispatcherFactory


def judged(beads: Beads, since: str) -> verify.Verdict:
    return verify.judge(verify.versions(beads.dolt, since), verify.written_by_others(beads.dolt))


@pytest.fixture
def since(beads: Beads) -> str:
    """The Dolt commit after which the test begins."""
    return str(beads.sql("SELECT HASHOF('HEAD') AS head")[0]["head"])


def committed(beads: Beads, statement: str, *params: object) -> None:
    beads.sql(statement, *params)
    beads.sql("CALL DOLT_COMMIT('-Am', 'somebody')")


def test_each_claim_and_its_end_is_found(
    beads: Beads, agent: support.Agent, make_dispatcher: DispatcherFactory, since: str
) -> None:
    """Dispatched, refused, unknown: three claims, nothing broken."""
    for bead in ("x-1", "x-2", "x-3"):
        beads.add(bead)
    beads.sql("CALL DOLT_COMMIT('-Am', 'beads')")
    agent.behaviours = {"x-2": support.answers(400), "x-3": support.hangs_up}
    make_dispatcher(health=True, max_in_flight=9).run_once()
    verdict = judged(beads, since)
    assert verdict.broken == ()
    assert verdict.ends() == {"dispatched": 1, "refused": 1, "unknown": 1}


def test_a_bead_that_a_person_gave_to_the_agent_again_is_not_a_breach(
    beads: Beads, make_dispatcher: DispatcherFactory, since: str
) -> None:
    """Reopened by bd with our token still on it: the second claim is a new one."""
    beads.add("x-1")
    beads.sql("CALL DOLT_COMMIT('-Am', 'beads')")
    dispatch = make_dispatcher(health=True, max_in_flight=9)
    dispatch.run_once()
    beads.workspace.run("update", "x-1", "--status", "open", actor="alice")
    dispatch.run_once()
    verdict = judged(beads, since)
    assert verdict.broken == ()
    assert verdict.ends() == {"dispatched": 2}


BREACHES = {
    "a second claim over a live one": (
        "UPDATE issues SET metadata = JSON_SET(metadata, '$.dispatch.claim', 'other') WHERE id = 'x-1'",
        "was replaced by other",
    ),
    "a second job for one claim": (
        "UPDATE issues SET metadata = JSON_SET(metadata, '$.dispatch.job', 'other') WHERE id = 'x-1'",
        "and 2 jobs",
    ),
    "a claim that was sent, released by reap": (
        "UPDATE issues SET status = 'open', metadata = JSON_REMOVE(metadata, '$.dispatch.claim'),"
        " notes = CONCAT(notes, '\\nauto-dispatcher claim expired: x') WHERE id = 'x-1'",
        "released in",
    ),
    "one token on two beads": (
        "INSERT INTO issues (id, title, description, design, acceptance_criteria, notes, status, metadata)"
        " SELECT 'x-2', title, description, design, acceptance_criteria, notes, status, metadata"
        " FROM (SELECT * FROM issues WHERE id = 'x-1') one",
        "is on two beads, x-1 and x-2",
    ),
}


@pytest.mark.parametrize(("statement", "message"), BREACHES.values(), ids=BREACHES)
def test_a_breach_is_found(
    beads: Beads, make_dispatcher: DispatcherFactory, since: str, statement: str, message: str
) -> None:
    """Each way of breaking the promise, made by hand, is named."""
    beads.add("x-1")
    beads.sql("CALL DOLT_COMMIT('-Am', 'beads')")
    make_dispatcher().run_once()
    assert judged(beads, since).broken == ()
    committed(beads, statement)
    broken = judged(beads, since).broken
    assert broken and message in broken[0]


def test_a_claim_on_a_bead_that_was_not_open_is_found(beads: Beads, since: str) -> None:
    """Somebody's bead in progress, and a token out of nowhere."""
    beads.add("x-1", status="in_progress")
    beads.sql("CALL DOLT_COMMIT('-Am', 'beads')")
    committed(beads, """UPDATE issues SET metadata = '{"dispatch": {"claim": "t", "attempt": 1}}' WHERE id = 'x-1'""")
    (broken,) = judged(beads, since).broken
    assert "although it was in_progress in the commit before" in broken


def test_a_job_for_a_claim_that_was_merged_with_an_assignment_is_found(beads: Beads, since: str) -> None:
    """The claim's commit left the bead bob's: it had to be withdrawn. Where bob is the agent, all is well."""
    beads.add("x-1", assignee="bob")
    beads.sql("CALL DOLT_COMMIT('-Am', 'beads')")
    claimed = """'{"dispatch": {"claim": "t", "attempt": 1, "job": "j"}}'"""
    committed(beads, f"UPDATE issues SET status = 'in_progress', metadata = {claimed} WHERE id = 'x-1'")
    (broken,) = judged(beads, since).broken
    assert "POSTed although the claim t was merged" in broken
    history = list(verify.versions(beads.dolt, since))
    assert verify.judge(history, assignee="bob").broken == ()


def test_a_post_for_a_bead_that_was_taken_long_before_is_found(beads: Beads, since: str) -> None:
    """The agent's own times against Dolt's commits, with a tolerance for what was under way."""
    beads.add("x-1")
    beads.sql("CALL DOLT_COMMIT('-Am', 'beads')")
    committed(beads, "UPDATE issues SET assignee = 'bob' WHERE id = 'x-1'")
    history = list(verify.versions(beads.dolt, since))
    taken = history[-1].at
    for seconds, wrong in ((0.5, 0), (5.0, 1)):
        posts = [((taken + timedelta(seconds=seconds)).timestamp(), "x-1")]
        assert len(verify.posts_not_ours(history, posts, "agent", 2.0)) == wrong


def verify_command(beads: Beads, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`beads-dispatch verify`, by the workspace."""
    command = [sys.executable, "-m", "beads_dispatch.cli.main", "verify", *words]
    env = {**os.environ, "BEADS_DIR": str(beads.workspace.beads_dir), **env}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def test_the_command_reports_whether_it_held_and_what_it_cannot_know(
    beads: Beads, make_dispatcher: DispatcherFactory
) -> None:
    """0 and `held`, 1 and what is BROKEN; the same as JSON."""
    beads.add("x-1")
    make_dispatcher().run_once()
    done = verify_command(beads)
    assert "This history cannot show:" in done.stdout, done.stderr
    assert done.returncode == (1 if "BROKEN  " in done.stdout else 0)
    broken = done.stdout.count("BROKEN  ")
    beads.sql("CALL DOLT_COMMIT('-Am', 'a claim', '--allow-empty')")
    committed(beads, "UPDATE issues SET metadata = JSON_SET(metadata, '$.dispatch.job', 'other') WHERE id = 'x-1'")
    done = verify_command(beads, "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["held"], len(found["broken"])) == (1, False, broken + 1)
    assert found["claims"] == sum(one["claims"] for one in found["ends"])
    assert (found["database"], len(found["unknown"])) == (beads.dolt.database, 3)


@pytest.mark.parametrize("env", [{"DOLT_HOST": "127.0.0.1", "DOLT_PORT": "9"}, {"BEADS_DIR": "/nowhere"}], ids=str)
def test_what_cannot_be_verified_is_neither_held_nor_broken(beads: Beads, env: dict[str, str]) -> None:
    """2 and one line: without a server, without a workspace."""
    done = verify_command(beads, **env)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith("beads-dispatch: cannot verify: ")


def test_the_mark_before_the_post_outlives_a_crash(beads: Beads, since: str) -> None:
    """A claim whose POST was begun is not released after 120 s: only reap's 30 minutes end it."""
    beads.add("x-1")
    beads.sql("CALL DOLT_COMMIT('-Am', 'beads')")
    now = datetime.now(UTC)
    claimed = beads.store.claims.claim(beads.store.eligible.first("agent", now, 1)[0], now)
    assert [bead.id for bead in beads.store.activity.orphaned_claims("agent", now + timedelta(minutes=5))] == ["x-1"]
    beads.store.claims.mark_posting(claimed)
    assert beads.store.activity.orphaned_claims("agent", now + timedelta(minutes=5)) == []
    assert beads.store.claims.read_back("x-1").updated_at == claimed.updated_at  # type: ignore[union-attr]
    assert judged(beads, since).ends() == {"crashed while posting": 1}
    with pytest.raises(store.ClaimLost):
        beads.store.claims.claim(claimed, now)
