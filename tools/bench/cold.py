"""From a function's start to its first answer: python -m tools.bench.cold [--rounds N]

In a tree like the image's (requirements/runtime.txt and nothing else, byte-compiled), beside a hello world on
functions-framework, and in the same tree without .pyc files: what an image costs that was never byte-compiled. The
parts:

- interpreter: `python -c pass`
- imports: the same with everything that is imported before it listens, less the interpreter; by package as
  `-X importtime` gives it, which makes each slower
- gunicorn and the rest: until the first GET is answered
- first pass: from that to the answer to the first event, with Dolt's connections, on an empty queue

Starts take turns, so that what else the machine does falls on all of them.
"""

import collections
import contextlib
import importlib.metadata
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping

from beads_dispatch import events, store
from local import processes
from local.system import environment_of
from tools import world
from tools.bench import report, resource_usage
from tools.servers import Agent

ROOT = pathlib.Path(__file__).parents[2]
OURS = ("beads_dispatch", "functions")
REQUESTS = {"dispatch": events.DISPATCH_REQUESTED, "reap": events.REAP_REQUESTED}
_HELLO = """\
import functions_framework


@functions_framework.http
def hello(request):
    return "hello"
"""
_PIN = re.compile(r"([A-Za-z0-9._-]+)==")
_IMPORT = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s*(\S+)")


def make_tree(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """A virtual environment as the Dockerfile makes it; returns its Python and its site-packages.

    Copied from this environment, so that it needs no network.
    """
    base = getattr(sys, "_base_executable", sys.executable)
    subprocess.run([base, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for line in (ROOT / "requirements" / "runtime.txt").read_text().splitlines():
        if found := _PIN.match(line):
            _copy(found[1], site)
    for name in OURS:
        shutil.copytree(ROOT / name, site / name, ignore=shutil.ignore_patterns("__pycache__"))
    (site / "hello").mkdir()
    (site / "hello" / "main.py").write_text(_HELLO)
    return folder / "bin" / "python", site


def _copy(name: str, site: pathlib.Path) -> None:
    try:
        files = importlib.metadata.distribution(name).files or []
    except importlib.metadata.PackageNotFoundError:
        return  # for another platform
    for file in files:
        if ".." not in file.parts and file.suffix != ".pyc":
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(file.locate()), site / file)


def imports(text: str) -> dict[str, float]:
    """Milliseconds by package, of what `-X importtime` wrote; a module's own time, without what it imports."""
    found: collections.Counter[str] = collections.Counter()
    for line in text.splitlines():
        if match := _IMPORT.match(line):
            package = match[2].split(".")[0]
            found["standard library" if package in sys.stdlib_module_names else package] += int(match[1])
    return {name: round(micros / 1000, 1) for name, micros in found.most_common()}


class Start:
    """One way to start a function, and what its starts took."""

    def __init__(self, python: pathlib.Path, source: pathlib.Path, environment: Mapping[str, str]) -> None:
        target = ("--source", str(source), "--target", source.parent.name)
        self._command = [str(python), "-m", "functions_framework", *target]
        self._environment = {**environment, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1"}
        # ms; `CPU` is until the answer.
        self.taken: dict[str, list[float]] = {
            name: [] for name in ("answer", "CPU", "interpreter", "imports", "first pass")
        }
        self.packages: list[dict[str, float]] = []
        self._imports = (
            "import functions_framework._cli, functions_framework._http.gunicorn, runpy;"
            f"runpy.run_path({str(source)!r}, run_name='main')"
        )

    def take(self, log_file: pathlib.Path, event: events.Event | None) -> None:
        """Start it once, ask, and stop it."""
        port = processes.free_port()
        started = time.perf_counter()
        environment = {**self._environment, "HOST": "127.0.0.1", "PORT": str(port)}
        with processes.Process("function", self._command, log_file, environment) as process:
            while not _asked(port):
                if not process.running or time.perf_counter() - started > processes.READY_SECONDS:
                    raise RuntimeError(f"the function does not answer: {log_file.read_text()[-500:]}")
                time.sleep(0.002)
            answered = time.perf_counter()
            self.taken["answer"].append((answered - started) * 1000)
            self.taken["CPU"].append(sum(map(resource_usage.cpu_seconds, resource_usage.children(process.pid))) * 1000)
            if event is not None:
                headers, body = events.to_http(event)
                request = urllib.request.Request(f"http://127.0.0.1:{port}/", body, headers)
                urllib.request.urlopen(request, timeout=30).close()
                self.taken["first pass"].append((time.perf_counter() - answered) * 1000)

    def take_parts(self) -> None:
        """The interpreter, the imports, and the imports by package, once."""
        bare = self._wall_ms("pass")
        self.taken["interpreter"].append(bare)
        self.taken["imports"].append(self._wall_ms(self._imports) - bare)
        self.packages.append(imports(self._python("-X", "importtime", "-c", self._imports)))

    def row(self) -> dict[str, int]:
        """Median ms of each part."""
        row = {name: round(statistics.median(times)) for name, times in self.taken.items() if times}
        if "imports" in row:
            row["gunicorn …"] = row["answer"] - row["interpreter"] - row["imports"]
        return row

    def by_package(self) -> dict[str, float]:
        """Median ms of each package."""
        names = {name for taken in self.packages for name in taken}
        found = {name: statistics.median(taken.get(name, 0) for taken in self.packages) for name in names}
        return {name: round(ms, 1) for name, ms in sorted(found.items(), key=lambda item: -item[1])}

    def _wall_ms(self, code: str) -> float:
        started = time.perf_counter()
        self._python("-c", f"{code}\nimport os; os._exit(0)")  # a server does not finalize the interpreter either
        return (time.perf_counter() - started) * 1000

    def _python(self, *arguments: str) -> str:
        command = [self._command[0], *arguments]
        environment = {**os.environ, **self._environment}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr


def _asked(port: int) -> bool:
    """Whether a GET is answered: the functions answer 405."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10).close()
    except urllib.error.HTTPError as exc:
        exc.close()
    except (urllib.error.URLError, OSError):
        return False
    return True


def make_starts(stack: contextlib.ExitStack, environment: Mapping[str, str]) -> dict[str, Start]:
    """What is compared: a hello world, each function, and each in a tree that is not byte-compiled."""
    trees = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="beads-bench-")))
    print("copying what the image holds, twice", flush=True)
    python, site = make_tree(trees / "compiled")
    plain_python, plain = make_tree(trees / "plain")
    subprocess.run([str(python), "-m", "compileall", "-q", "-j", "0", str(site)], check=True)
    starts = {"hello": Start(python, site / "hello" / "main.py", environment)}
    for name in REQUESTS:
        starts[name] = Start(python, site / "functions" / name / "main.py", environment)
    for name in REQUESTS:
        source = plain / "functions" / name / "main.py"
        starts[f"{name}, not compiled"] = Start(plain_python, source, environment)
    return starts


def main() -> int:
    rounds = report.options(__doc__, rounds=20).rounds
    with contextlib.ExitStack() as stack:
        agent = stack.enter_context(Agent())
        here = stack.enter_context(world.world())
        with contextlib.closing(store.Store(here.dolt)) as beads:
            beads.feed_state.prepare()
        environment = {
            **environment_of(here.dolt), "BEADBOARD_URL": agent.url, "AGENT_HEALTH_URL": f"{agent.url}/health",
            # gunicorn's control socket: below its folder instead of in the home directory.
            "XDG_RUNTIME_DIR": tempfile.gettempdir(),
        }  # fmt: skip
        starts = make_starts(stack, environment)
        for number in range(rounds):
            for name, start in starts.items():
                kind = REQUESTS.get(name.split(",")[0])
                start.take(here.folder / "start.log", events.Event("1", "/bench", kind) if kind else None)
                if name in ("hello", *REQUESTS):
                    start.take_parts()
            print(f"{number + 1} of {rounds} rounds", flush=True)
    rows = {name: start.row() for name, start in starts.items()}
    packages = {name: starts[name].by_package() for name in ("hello", *REQUESTS)}
    report.table(f"from the start, ms, medians of {rounds}", rows)
    more = {
        package: {name: found.get(package, "") for name, found in packages.items()}
        for package, ms in packages["dispatch"].items()
        if ms >= 1
    }
    report.table("imports by package, ms of each package's own (with -X importtime, which makes them slower)", more)
    report.write("cold", {"unit": "ms", "rounds": rounds, "starts": rows, "imports": packages})
    return 0


if __name__ == "__main__":
    sys.exit(main())
