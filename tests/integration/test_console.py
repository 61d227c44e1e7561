"""The console's pages on a real database: what they show and escape, what they refuse, and that they write nothing."""

import json
import re
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import flask
import pytest
from werkzeug.test import TestResponse

from beads_dispatch import notes, settings, store, suspension
from beads_dispatch.agents_file import ConfiguredAgent
from beads_dispatch.cli import main
from beads_dispatch.store import Hold
from functions.console import site as site_module
from functions.console import timeline, view, what_if
from functions.console.site import PAGES, Site
from local import processes
from tests.conftest import Beads

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;{{7*7}}\x1b[31m\u202e\r\nSet-Cookie: a=b"
VOID = {"meta", "link", "input", "br", "line", "rect", "circle"}


class Page(HTMLParser):
    """A page, parsed: its text, its elements, and whether each that was opened is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.words: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all_of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


class Visitor:
    """A client of the console, as functions-framework calls it."""

    def __init__(self, dolt: settings.DoltSettings, agents: tuple[ConfiguredAgent, ...] = (), **env: str) -> None:
        self.site = Site(dolt, agents or (ConfiguredAgent(settings.DispatchLimits(), None),), env)
        app = flask.Flask("console")
        app.add_url_rule(
            "/", "run", lambda path="": self.site.answer(flask.request), methods=["GET", "POST", "PUT", "DELETE"],
            defaults={"path": ""},
        )  # fmt: skip
        app.add_url_rule("/<path:path>", "run", methods=["GET", "POST", "PUT", "DELETE"])
        self.client = app.test_client()

    def raw(self, path: str, method: str = "GET", **more: object) -> TestResponse:
        return self.client.open(path, method=method, **more)  # type: ignore[arg-type]

    def get(self, path: str, status: int = 200, **query: str) -> Page:
        answer = self.raw(f"{path}?{urllib.parse.urlencode(query)}" if query else path)
        assert answer.status_code == status, answer.text
        assert answer.mimetype == "text/html"
        page = Page(answer.text)
        assert page.open == []
        return page


@pytest.fixture
def visitor(beads: Beads) -> Visitor:
    return Visitor(beads.dolt)


@pytest.fixture
def busy(beads: Beads) -> Beads:
    make_busy(beads)
    return beads


def make_busy(beads: Beads) -> None:
    """Each state that a page shows, all of it with hostile texts: in progress, eligible, not eligible, blocked, failed,
    held, suspended."""
    now, reads = datetime.now(UTC), beads.store
    for name in ("x-1", "x-2", "x-3", "x-4"):
        beads.add(name, title=HOSTILE)
    beads.add("x-5", title=HOSTILE, acceptance="")
    beads.add("x-6", title=HOSTILE, defer_until=datetime(2099, 1, 1))
    beads.add("x<b>6&'\"", title=HOSTILE)
    beads.depend(("x-4", "x-3", "blocks"))
    beads.commit("beads")
    for bead in reads.eligible.first("agent", now, 2):
        claimed = reads.claims.claim(bead, now)
        if bead.id == "x-1":
            reads.claims.record_dispatched(claimed, HOSTILE, now)
        else:
            refused = replace(claimed.record, failures=1, retry_at=notes.timestamp(now + timedelta(minutes=30)))
            reads.claims.release(claimed, f"dispatch failed HTTP 502: {HOSTILE}", refused, now, actor=store.DISPATCHER)
    reads.control.set_hold("agent", Hold(), Hold(3, now + timedelta(minutes=5), HOSTILE))
    beads.sql("REPLACE INTO config (`key`, value) VALUES (%s, %s)", suspension.CONFIG_KEY, "dispatch")


def head(beads: Beads) -> str:
    """The commit that the database is at."""
    return str(beads.sql("SELECT DOLT_HASHOF('HEAD') AS head")[0]["head"])


ADDRESSES = [
    "/", "/queue", "/bead", "/bead?id=x-1", "/bead?id=x-2", "/bead?id=x-4", "/bead?id=x-5", "/bead?id=x-1&as_of=1s",
    "/bead?" + urllib.parse.urlencode({"id": "x<b>6&'\""}), "/timeline", "/day", "/what-if", "/what-if?from=10s",
    "/nothing", "/bead?id=<script>", "/bead?id=x&as_of=<script>", "/queue?page=<script>", "/queue?agent=<script>",
    "/timeline?before=<script>", "/day?date=<script>", "/what-if?from=<script>", "/what-if?from=1m&max_in_flight=<b>",
]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_page_lets_markup_of_the_database_through(busy: Beads, address: str) -> None:
    """Whatever a bead, a job, a note, a reason or the request says, the page has only its own elements."""
    answer = Visitor(busy.dolt).raw(address)
    assert answer.status_code < 500, answer.text
    page = Page(answer.text)
    assert page.open == []
    assert page.all_of("script") == [{"src": "/console.js", "defer": None}]
    assert not page.all_of("img") and not page.all_of("b")
    assert (
        "\x1b" not in answer.text
        and "\u202e" not in answer.text
        and "49" not in re.findall("title.>([^<]*)", answer.text)
    )
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
        assert not (attributes.get("href") or "/").startswith(("javascript", "data", "http", "//"))
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("address", ["/", "/queue", "/bead?id=x-1", "/timeline", "/what-if?from=10s"])
def test_the_hostile_title_is_shown_as_text(busy: Beads, address: str) -> None:
    """The tests above would pass on a page without the bead."""
    assert "<script>alert(1)</script>" in Visitor(busy.dolt).get(address).text


@pytest.mark.parametrize("address", ["/", "/nothing", "/console.js", "/console.css", "/icon.svg", "/bead?id=none"])
def test_every_answer_forbids_what_the_pages_do_not_use(visitor: Visitor, address: str) -> None:
    """No script but ours, no frame, no other origin, no guessing of types, nothing kept."""
    headers = visitor.raw(address).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy.pop("default-src") == policy.pop("frame-ancestors") == policy.pop("base-uri") == "'none'"
    assert set(policy.values()) == {"'self'"}
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["/", "/queue", "/live"])
def test_only_reading_methods_are_taken(visitor: Visitor, method: str, path: str) -> None:
    """405, which names the others; HEAD has the headers alone."""
    answer = visitor.raw(path, method, data=b"x" * 1000)
    assert answer.status_code == 405 and answer.headers["Allow"] == "GET, HEAD"
    answer = visitor.raw(path, "HEAD")
    assert answer.status_code == 200 and answer.data == b""


@pytest.mark.parametrize(
    ("address", "status", "words"),
    [
        ("/nothing", 404, "no such page"),
        ("/bead?id=none", 404, "there is no bead none"),
        ("/queue?agent=nobody", 404, "no agent 'nobody'"),
        ("/queue?page=0", 400, "whole number"),
        ("/queue?page=-1", 400, "whole number"),
        ("/queue?page=²", 400, "whole number"),
        (f"/queue?page={'9' * 200}", 400, "whole number"),
        (f"/bead?id={'x' * 300}", 400, "more than 255"),
        ("/bead?id=x-1&as_of=yesterday", 400, "is not a single commit"),
        ("/bead?id=x-1&as_of=2001-01-01", 400, "before Dolt&#39;s history"),
        ("/timeline?before=nothing", 400, "is not a commit"),
        ("/day?date=tomorrow", 400, "expected a day"),
        ("/day?date=9999-12-31", 400, "expected a day"),
        ("/what-if?from=nonsense", 400, "is not a single commit"),
        ("/what-if?from=1m&to=1h", 400, "before Dolt&#39;s history"),
        ("/what-if?from=1m&max_in_flight=1e9", 400, "whole number"),
        ("/what-if?from=1m&reap_after_minutes=nan", 400, "above 0"),
        ("/what-if?from=1m&slot_silence_minutes=-1", 400, "above 0"),
    ],
)
def test_what_cannot_be_asked_for_is_named(
    beads: Beads, visitor: Visitor, address: str, status: int, words: str
) -> None:
    """400 or 404 with the reason, in a page with the navigation."""
    beads.add("x-1")
    answer = visitor.raw(address)
    assert (answer.status_code, words in answer.text.replace("&#34;", '"').replace("&#39;nobody&#39;", "'nobody'")) == (
        status,
        True,
    ), answer.text
    assert Page(answer.text).all_of("nav")


def test_a_dolt_that_is_down_gives_a_page_that_says_so(beads: Beads) -> None:
    """503 with where it was looked for and when to try again; no traceback, no password."""
    dolt = replace(beads.dolt, port=processes.free_port(), password="the secret")
    visitor = Visitor(dolt)
    for path in PAGES:
        answer = visitor.raw(path)
        assert answer.status_code == 503 and answer.headers["Retry-After"]
        assert f"cannot reach Dolt at {dolt.host}:{dolt.port}" in answer.text
        assert "Traceback" not in answer.text and "the secret" not in answer.text
    assert visitor.raw("/console.css").status_code == 200


def test_a_dolt_that_comes_back_is_used(beads: Beads, visitor: Visitor) -> None:
    """A connection that died while nobody looked is replaced."""
    beads.add("x-1")
    assert "x-1" in visitor.get("/queue").text
    for row in beads.sql("SHOW PROCESSLIST"):
        if row["Command"] == "Sleep":
            beads.sql(f"KILL {row['Id']}")
    assert "x-1" in visitor.get("/queue").text


def test_a_fault_of_ours_shows_no_traceback(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is in the log."""

    def broken(view: object) -> Mapping[str, object]:
        raise RuntimeError("the secret")

    monkeypatch.setattr(site_module, "PAGES", {"/": ("now", "Now", broken)})
    page = visitor.get("/", 500)
    assert "the secret" not in page.html and "the secret" in caplog.text


def test_another_host_s_name_is_refused(beads: Beads) -> None:
    """Where the names are set: a page of another site could lead its own name here."""
    visitor = Visitor(beads.dolt, CONSOLE_HOSTS="127.0.0.1, localhost")
    for host in ("127.0.0.1:18086", "localhost", "localhost:1"):
        assert visitor.raw("/", headers={"Host": host}).status_code == 200
    for host in ("evil.example", "evil.example:18086", "127.0.0.1.evil.example"):
        assert visitor.raw("/", headers={"Host": host}).status_code == 421


def test_a_store_that_is_borrowed_writes_nothing(beads: Beads, visitor: Visitor) -> None:
    """Whoever the user is: Dolt refuses writes in the transaction of a page."""
    beads.add("x-1")
    with pytest.raises(store.StoreError, match="READ ONLY"), visitor.site._stores.borrowed() as reads:
        reads.control.set_configured(dispatch=True, reap=True)
    assert beads.store.control.suspension().dispatch is None


def test_pages_change_nothing(busy: Beads) -> None:
    """Neither a bead, nor a table of ours, nor Dolt's history."""
    before = busy.sql("SELECT @@global.gtid_executed AS executed")
    visitor = Visitor(busy.dolt)
    for address in ADDRESSES:
        visitor.raw(address)
    assert busy.sql("SELECT @@global.gtid_executed AS executed") == before


class TestNow:
    def test_it_shows_what_status_shows(self, busy: Beads, capsys: pytest.CaptureFixture[str]) -> None:
        """The suspension, the hold, each bead in progress, and how the feeder is."""
        assert main.run(["status", "--json"], {"BEADS_DIR": str(busy.workspace.beads_dir)}) == 0
        status, page = json.loads(capsys.readouterr().out), Visitor(busy.dolt).get("/")
        assert status["dispatch_suspended"] in page.text
        assert "Held until" in page.text and "3 failures" in page.text
        assert status["feeder"]["problem"] in page.text
        (progress,) = status["in_progress"]
        assert progress["bead"] == "x-1" and progress["claimed_at"] in page.text and progress["activity"] in page.text

    def test_each_agent_has_a_section(self, beads: Beads) -> None:
        """Its own beads, limit and hold."""
        agents = tuple(
            ConfiguredAgent(settings.DispatchLimits(assignee=name, max_in_flight=number), None)
            for number, name in enumerate(("agent", "agent:<docs>"), 1)
        )
        beads.add("x-1", assignee="agent:<docs>")
        page = Visitor(beads.dolt, agents).get("/")
        assert "Agent agent:<docs> " in page.text and "Agent agent " in page.text
        assert Visitor(beads.dolt, agents).get("/queue", agent="agent:<docs>").text.count("Bead x-1") == 1
        assert "x-1" not in Visitor(beads.dolt, agents).get("/queue").text


class TestQueue:
    def test_each_bead_has_its_reason_and_fix(self, busy: Beads, capsys: pytest.CaptureFixture[str]) -> None:
        """As explain has them: the first condition that does not hold."""
        page = Visitor(busy.dolt).get("/queue")
        for bead in ("x-2", "x-4", "x-5", "x-6"):
            assert main.run(["explain", bead, "--json"], {"BEADS_DIR": str(busy.workspace.beads_dir)}) == 0
            found = json.loads(capsys.readouterr().out)
            assert " ".join(found["fix"].split()) in page.text, (bead, found)
        assert "None of them is dispatched now" in page.text and "dispatch is suspended" in page.text

    def test_a_long_queue_is_read_page_by_page(self, beads: Beads, visitor: Visitor) -> None:
        """In the order of dispatch, each bead on one page."""
        beads.insert([f"x-{number:02}" for number in range(60)])
        found = [re.findall("x-[0-9]{2}", visitor.get("/queue", page=str(number)).text) for number in (1, 2, 3, 4)]
        assert [len(one) for one in found] == [25, 25, 10, 0]
        assert [bead for page in found for bead in page] == [
            bead.id for bead in beads.store.eligible.first("agent", datetime.now(UTC), 60)
        ]
        last = visitor.get("/queue", page="3")
        assert "51 to 60 of 60" in last.text and "Page 3 of 3" in last.text


class TestBead:
    def test_it_shows_what_explain_shows(self, busy: Beads, capsys: pytest.CaptureFixture[str]) -> None:
        """The verdict, every condition with its fix, and the history."""
        assert main.run(["explain", "x-4", "--json"], {"BEADS_DIR": str(busy.workspace.beads_dir)}) == 0
        found, page = json.loads(capsys.readouterr().out), Visitor(busy.dolt).get("/bead", id="x-4", history="1")
        assert found["verdict"] in page.text and found["fix"].split("   ")[0] in page.text
        for condition in found["conditions"]:
            assert f"{condition['name']} {condition['detail']}"[:60] in page.text
        assert "created" in page.text and len(found["history"]) == page.html.count('<tr><th scope="row"><time')

    def test_the_past_is_answered(self, beads: Beads, visitor: Visitor) -> None:
        """As explain --as-of does."""
        beads.add("x-1", acceptance="")
        commit = beads.commit("blank")
        beads.sql("UPDATE issues SET acceptance_criteria = 'It works.'")
        beads.commit("written")
        assert "it is eligible" in visitor.get("/bead", id="x-1").text
        assert "it has no acceptance criteria" in visitor.get("/bead", id="x-1", as_of=commit).text

    def test_a_long_history_is_read_when_it_is_asked_for(
        self, beads: Beads, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The conditions do not wait for it."""
        monkeypatch.setattr("functions.console.bead._COMMITS_AT_ONCE", 1)
        beads.add("x-1")
        beads.commit("bead")
        assert "The bead's history" not in visitor.get("/bead", id="x-1").text
        assert "The bead's history" in visitor.get("/bead", id="x-1", history="1").text


class TestTimeline:
    def test_it_shows_each_step_with_our_note(self, busy: Beads) -> None:
        """The newest first."""
        page = Visitor(busy.dolt).get("/timeline")
        since = page.text[page.text.index("dispatched, job") :]  # what came before it follows it
        assert 0 < since.index("claimed, attempt 1") < since.index("created")
        assert "dispatch failed HTTP 502" in page.text

    def test_older_steps_are_on_further_pages(
        self, beads: Beads, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each commit once, to the first."""
        monkeypatch.setattr(timeline, "_COMMITS", 2)
        monkeypatch.setattr(timeline, "_ENOUGH", 2)
        for number in range(5):
            beads.add(f"x-{number}")
            beads.commit("one")
        found: list[str] = []
        query: dict[str, str] = {}
        while True:
            page = visitor.get("/timeline", 200, **query)
            found += re.findall("x-[0-9]", page.text)
            older = [link["href"] or "" for link in page.all_of("a") if (link["href"] or "").startswith("?before=")]
            if not older:
                break
            if len(set(found)) >= 5:  # what the other tests left
                monkeypatch.setattr(timeline, "_COMMITS", 1000)
            query = {"before": older[0].removeprefix("?before=")}
        assert list(dict.fromkeys(found))[:5] == ["x-4", "x-3", "x-2", "x-1", "x-0"]

    def test_of_a_commit_of_many_beads_some_are_shown(
        self, beads: Beads, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An import must not fill the memory; commits beside it are shown whole."""
        monkeypatch.setattr(view, "_MOST_VERSIONS", 3)
        monkeypatch.setattr(timeline, "_COMMITS", 3)
        for names in (("before-1", "before-2"), [f"many-{n}" for n in range(5)], ("after-1", "after-2")):
            for name in names:
                beads.add(name)
            beads.commit("some")
        found = re.findall("((?:before|many|after)-[0-9])", visitor.get("/timeline").text)
        assert Counter(name.split("-")[0] for name in dict.fromkeys(found)) == {"before": 2, "many": 3, "after": 2}


class TestDay:
    def test_the_numbers_are_those_of_the_history(self, beads: Beads) -> None:
        """One more was dispatched, one more refused; the plots have the same numbers as the tables."""

        def numbers() -> Counter[str]:
            text = Visitor(beads.dolt).get("/day").text
            words = {
                "Dispatched": r"Dispatched (\d+) ",
                "Failures": r"Failures (\d+) ",
                "502": r"refused: HTTP 502 (\d+)",
            }
            return Counter({name: int((re.findall(word, text) or ["0"])[0]) for name, word in words.items()})

        before = numbers()
        make_busy(beads)
        assert numbers() - before == Counter({"Dispatched": 1, "Failures": 1, "502": 1})
        page = Visitor(beads.dolt).get("/day")
        assert len([each for each in page.all_of("rect") if each["class"] == "one"]) == 24
        assert page.all_of("circle")

    def test_a_day_of_the_past_can_be_named(self, busy: Beads) -> None:
        """Nothing happened then."""
        page = Visitor(busy.dolt).get("/day", date="2026-01-01")
        assert "Dispatched 0" in page.text and "None is noted" in page.text


class TestWhatIf:
    def test_it_shows_what_replay_shows(self, beads: Beads, capsys: pytest.CaptureFixture[str]) -> None:
        """With the limits that were asked for. Between two commits: a minute would have moved on in between."""
        begin = head(beads)
        make_busy(beads)
        words = ["replay", "--from", begin, "--to", head(beads), "--max-in-flight", "2", "--json"]
        assert main.run(words, {"BEADS_DIR": str(beads.workspace.beads_dir)}) == 0
        found = json.loads(capsys.readouterr().out)
        page = Visitor(beads.dolt).get("/what-if", 200, **{"from": begin, "to": head(beads), "max_in_flight": "2"})
        assert found["attempts"] and page.text.count("attempt ") == len(found["attempts"])
        assert f"{found['commits']} commits" in page.text
        assert f"{sum(bool(one['dispatched_at']) for one in found['attempts'])} were" in page.text

    @pytest.mark.parametrize(("name", "value"), [("_SECONDS", -1.0), ("_COMMITS", 0)])
    def test_one_that_takes_too_long_is_ended(
        self, busy: Beads, monkeypatch: pytest.MonkeyPatch, name: str, value: float
    ) -> None:
        """With what to do instead, and the next can begin."""
        with monkeypatch.context() as patched:
            patched.setattr(what_if, name, value)
            assert "Ask for a shorter one" in Visitor(busy.dolt).get("/what-if", 400, **{"from": "1m"}).text
        assert "commits" in Visitor(busy.dolt).get("/what-if", 200, **{"from": "1m"}).text

    def test_one_at_a_time(self, busy: Beads) -> None:
        """A second one while it is computed is asked to come again."""
        with what_if._one_at_a_time:
            assert "Another replay" in Visitor(busy.dolt).get("/what-if", 503, **{"from": "1m"}).text


class TestLive:
    def test_the_stream_tells_of_changes(self, beads: Beads, visitor: Visitor) -> None:
        """First of what happened since the page was made, then of each transaction."""
        since = next(one["data-since"] for one in visitor.get("/").all_of("main"))
        answer = visitor.raw(f"/live?since={since}", buffered=False)
        assert answer.mimetype == "text/event-stream"
        events = _events(answer)
        assert next(events).startswith("retry:") and next(events).startswith(":")
        beads.add("x-1")
        changed = next(event for event in events if not event.startswith(":"))
        assert "event: changed" in changed and str(since) not in changed
        answer.close()

    def test_too_many_streams_are_refused_until_one_ends(self, beads: Beads) -> None:
        """Threads are left for pages."""
        visitor = Visitor(beads.dolt, THREADS="4")
        answers = [visitor.raw("/live", buffered=False) for _ in range(2)]
        assert visitor.raw("/live").status_code == 503
        answers[0].close()
        answer = visitor.raw("/live", buffered=False)
        assert answer.status_code == 200
        for one in (answer, answers[1]):
            one.close()

    def test_a_dolt_that_is_down_is_told(self, beads: Beads) -> None:
        """The page says so, and stays."""
        visitor = Visitor(replace(beads.dolt, port=processes.free_port()))
        answer = visitor.raw("/live?since=x", buffered=False)
        events = _events(answer)
        assert next(events).startswith("retry:") and "event: down" in next(events)
        answer.close()


def _events(answer: TestResponse) -> Iterator[str]:
    """What the stream brings, as it comes."""
    return (chunk.decode() if isinstance(chunk, bytes) else str(chunk) for chunk in answer.response)
