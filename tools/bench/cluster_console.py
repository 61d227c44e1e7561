"""The console on a cluster, as a browser shows it: from no pod, and warm. python -m tools.bench.cluster_console

The moment of the first paint is Chromium's own, from the moment the address was entered; 10,000 beads of one agent are
open, and as many others. The aim is 3 s from no pod, and 200 ms warm: each page a second time, in the same tab.
"""

import sys

from playwright.sync_api import Page

from tools import browser, cluster, world
from tools.bench import generate, report

AIM_COLD_MS, AIM_WARM_MS = 3000, 200
_PAGES = ("/queue", "/timeline", "/day", "/")
_FIRST_PAINT = """() => new Promise(found => new PerformanceObserver(list => {
  for (const entry of list.getEntries()) if (entry.name === "first-contentful-paint") found(entry.startTime);
}).observe({type: "paint", buffered: true}))"""


def first_paint(page: Page, url: str) -> float:
    """Milliseconds."""
    answer = page.goto(url)
    assert answer and answer.ok, answer
    return float(page.evaluate(_FIRST_PAINT))


def main() -> int:
    options = report.options(__doc__, samples=10, beads=10_000, image=cluster.DEFAULT_IMAGE)
    why = cluster.missing() or (browser.MISSING if browser.chromium() is None else None)
    if why:
        print(f"this cannot be measured here: {why}", file=sys.stderr)
        return 1
    found: dict[str, list[float]] = {"from no pod": [], **{f"warm {path}": [] for path in _PAGES}}
    with world.world() as here:
        generate.fill(here, 2 * options.beads, options.beads)
        with (
            cluster.deployed(here.dolt, 9, image=options.image) as namespace,
            namespace.console() as (host, port),
            browser.browser(f"--host-resolver-rules=MAP {host} 127.0.0.1") as chromium,
        ):
            for number in range(options.samples):
                namespace.until_zero()
                context = chromium.new_context()  # which knows nothing yet
                tab, address = context.new_page(), f"http://{host}:{port}"
                found["from no pod"].append(first_paint(tab, f"{address}/"))
                for path in _PAGES:  # the pod's first one of a page may read what it keeps afterwards
                    first_paint(tab, f"{address}{path}")
                for path in _PAGES:
                    found[f"warm {path}"].append(first_paint(tab, f"{address}{path}"))
                context.close()
                print(f"{number + 1} of {options.samples}: {found['from no pod'][-1]:.0f} ms", flush=True)
    figures = {name: report.summary(values) for name, values in found.items()}
    report.table(f"the console's first paint, ms; {options.beads} open beads", figures)
    report.write("cluster_console", {"unit": "ms", "beads": options.beads, **figures})
    warm = max(figures[f"warm {path}"]["p50"] for path in _PAGES)
    return int(figures["from no pod"]["p50"] > AIM_COLD_MS or warm > AIM_WARM_MS)


if __name__ == "__main__":
    sys.exit(main())
