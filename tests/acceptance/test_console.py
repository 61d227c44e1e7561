"""The console as people use it: the real process, and the machine's Chromium."""

import pathlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from beads_dispatch import notes, store
from beads_dispatch.store import Hold
from functions.console.site import PAGES
from local import processes
from local.system import Ports, System
from tests.conftest import Beads
from tests.support import PATIENCE_SECONDS
from tools import browser as machine
from tools.proxies import Proxy

pytestmark = [
    pytest.mark.skipif(machine.chromium() is None, reason=machine.MISSING),
    # Playwright's own event loop, where a browser is closed while it still loads.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

HOSTILE = "<script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\">"
PATIENCE_MS = PATIENCE_SECONDS * 1000
expect.set_options(timeout=PATIENCE_MS)
ADDRESSES = [path if path != "/bead" else "/bead?id=x-1" for path in PAGES] + ["/what-if?from=1h", "/nothing"]

# The lowest ratio of a text's colour to what is behind it, and that text.
_CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  let worst = [99, ""];
  for (const e of document.querySelectorAll("body *:not(title)")) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
    const style = getComputedStyle(e);
    const a = light(rgb(e.namespaceURI.endsWith("svg") ? style.fill : style.color)), b = light(behind(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < worst[0]) worst = [ratio, e.outerHTML.slice(0, 200)];
  }
  return worst;
}"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with machine.browser() as started:
        yield started


@pytest.fixture
def proxy(beads: Beads) -> Iterator[Proxy]:
    """Before Dolt, to be cut."""
    with closing(Proxy(beads.dolt.port)) as found:
        yield found


@pytest.fixture
def console(beads: Beads, proxy: Proxy, tmp_path: pathlib.Path) -> Iterator[str]:
    """The address of the console over beads in each state, all of them with hostile titles."""
    now, reads = datetime.now(UTC), beads.store
    for bead in ("x-1", "x-2", "x-3"):
        beads.add(bead, title=HOSTILE)
    beads.add("x-4", title=HOSTILE, acceptance="")
    beads.insert([f"y-{number:02}" for number in range(40)], title=HOSTILE)
    beads.commit("beads")
    first, second = reads.eligible.first("agent", now, 2)
    reads.claims.record_dispatched(reads.claims.claim(first, now), HOSTILE, now)
    refused = reads.claims.claim(second, now)
    record = replace(refused.record, failures=1, retry_at=notes.timestamp(now + timedelta(minutes=30)))
    reads.claims.release(refused, f"dispatch failed HTTP 502: {HOSTILE}", record, now, actor=store.DISPATCHER)
    reads.control.set_hold("agent", Hold(), Hold(3, now + timedelta(hours=1), HOSTILE))
    ports = Ports.free()
    system = System(replace(beads.dolt, port=proxy.port), "http://127.0.0.1:9", ports, tmp_path)
    try:
        system.start_console()
        yield f"http://127.0.0.1:{ports.console}"
    finally:
        system.__exit__()


@pytest.fixture
def context(chromium: Browser, console: str) -> Iterator[BrowserContext]:
    """A person's browser, at the console's address."""
    found = chromium.new_context(base_url=console)
    found.set_default_timeout(PATIENCE_MS)
    yield found
    found.close()


@pytest.fixture
def complaints() -> list[str]:
    """What the browser complained about: errors of scripts, and what the Content-Security-Policy forbids."""
    return []


@pytest.fixture
def page(context: BrowserContext, complaints: list[str]) -> Page:
    return watched(context.new_page(), complaints)


def watched(page: Page, complaints: list[str]) -> Page:
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    return page


@pytest.mark.parametrize("width", [720, 721, 900, 1600])
def test_every_page_fits_other_screens(chromium: Browser, console: str, width: int) -> None:
    """No scroll bar, on either side of the width at which tables come beside plots."""
    page = chromium.new_page(base_url=console, viewport={"width": width, "height": 700})
    for address in ADDRESSES:
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, address
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_a_phone_and_can_be_read(
    chromium: Browser, console: str, complaints: list[str], scheme: str
) -> None:
    """375 px wide without a scroll bar, contrasts of at least 4.5, no complaint, and nothing of the titles was run."""
    context = chromium.new_context(
        base_url=console,
        viewport={"width": 375, "height": 700},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    page = watched(context.new_page(), complaints)
    for address in ADDRESSES:
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") == 375, address
        ratio, text = page.evaluate(_CONTRAST)
        assert ratio >= 4.5, (address, text)
        assert "hacked" not in page.title()
    assert [line for line in complaints if "404" not in line] == []
    back = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (back == "rgb(255, 255, 255)") == (scheme == "light")
    context.close()


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_page_can_be_used_with_a_screen_reader(page: Page, address: str) -> None:
    """Landmarks, one first heading, no level left out, a name for each table, plot, field, navigation and region."""
    page.goto(address)
    for role in ("banner", "main", "contentinfo"):
        expect(page.get_by_role(role)).to_have_count(1)
    levels = page.eval_on_selector_all("h1, h2, h3", "found => found.map((one) => Number(one.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1 and set(levels) <= {1, 2}
    for selector, name in {
        "table": "one => one.caption?.innerText", "nav": "one => one.ariaLabel", "svg": "one => one.textContent.trim()",
        "input, select": "one => one.labels[0]?.innerText", "[role=region]": "one => one.tabIndex === 0",
        "th": "one => one.scope",
    }.items():  # fmt: skip
        names = page.eval_on_selector_all(selector, f"found => found.map({name})")
        assert all(names), (selector, names)
    ids = page.eval_on_selector_all("[id]", "found => found.map((one) => one.id)")
    assert len(ids) == len(set(ids))
    named = page.eval_on_selector_all(
        "[aria-labelledby]", "found => found.map((one) => document.getElementById(one.getAttribute('aria-labelledby')))"
    )
    assert None not in named


def test_the_keyboard_is_enough(page: Page) -> None:
    """The first stop skips to the content, the focus is visible, and links and forms are reached in order."""
    page.goto("/bead?id=x-1")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == "id":
            break
    page.keyboard.press("Control+A")
    page.keyboard.type("x-4")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("x-4")


def test_everything_works_without_script(chromium: Browser, console: str) -> None:
    """Navigation, paging, both forms, and a link that shows the page anew; the switch of what needs it is not shown."""
    context = chromium.new_context(base_url=console, java_script_enabled=False)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto("/")
    expect(page.get_by_role("button", name="Live updates")).to_have_count(0)
    page.get_by_role("link", name="Show it anew").click()
    page.get_by_role("link", name="Queue").click()
    page.get_by_role("link", name="Next").click()
    expect(page.get_by_text("Page 2 of 2")).to_be_visible()
    page.get_by_role("link", name="Bead", exact=True).click()
    page.get_by_label("Bead", exact=True).fill("x-4")
    page.get_by_role("button", name="Explain").click()
    expect(page.get_by_role("main")).to_contain_text("it has no acceptance criteria")
    page.get_by_role("link", name="What if").click()
    page.get_by_label("From").fill("1m")
    page.get_by_label("At most in progress").fill("2")
    page.get_by_role("button", name="Replay").click()
    expect(page.get_by_role("heading", name="Answer")).to_be_visible()
    context.close()


@pytest.mark.parametrize("streams", [True, False], ids=["server-sent events", "without them"])
def test_an_open_page_follows_what_happens(
    context: BrowserContext, page: Page, beads: Beads, complaints: list[str], streams: bool
) -> None:
    """Without a reload; what had the focus keeps it. Paused, it stays as it is."""
    if not streams:
        context.add_init_script("delete window.EventSource")
    page.goto("/queue")
    page.evaluate("window.loaded = 'once'")
    page.get_by_role("link", name="Next").focus()
    beads.sql("UPDATE issues SET title = 'The new title', updated_at = updated_at WHERE id = 'x-4'")
    expect(page.get_by_role("main")).to_contain_text("The new title")
    assert page.evaluate("document.activeElement.textContent") == "Next"
    assert page.evaluate("window.loaded") == "once"
    page.get_by_role("button", name="Live updates").click()
    expect(page.get_by_role("status")).to_have_text("Paused.")
    beads.sql("UPDATE issues SET title = 'A newer title', updated_at = updated_at WHERE id = 'x-4'")
    page.get_by_role("button", name="Live updates").click()
    expect(page.get_by_role("main")).to_contain_text("A newer title")
    assert complaints == []


def test_an_open_page_says_when_it_is_not_up_to_date(page: Page, beads: Beads, proxy: Proxy) -> None:
    """What it shows stays, and it goes on by itself when Dolt answers again."""
    page.goto("/queue")
    expect(page.get_by_role("main")).to_contain_text("x-3")
    dolt, proxy._target = proxy._target, processes.free_port()
    proxy.cut()
    expect(page.get_by_role("status")).to_contain_text("Not up to date")
    expect(page.get_by_role("main")).to_contain_text("x-3")
    proxy._target = dolt
    expect(page.get_by_role("status")).to_have_text("")


def test_scripts_that_are_not_ours_are_not_run(page: Page, complaints: list[str]) -> None:
    """Should markup ever get through, the Content-Security-Policy stops it."""
    page.goto("/")
    page.evaluate("""() => {
      const inline = document.createElement("script");
      inline.textContent = "document.title = 'hacked'";
      document.body.append(inline);
      document.body.insertAdjacentHTML("beforeend", `<img src="x" onerror="document.title = 'hacked'">`);
    }""")
    page.evaluate("() => document.images[0].decode().catch(() => null)")
    assert "hacked" not in page.title()
    assert any("Content Security Policy" in line for line in complaints)
