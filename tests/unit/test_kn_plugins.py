"""The kn plugins as far as they are pure: the command line, the list, what kn is run with. kn itself: tests/cluster."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from beads_dispatch.cli import kn_ping, kn_process
from beads_dispatch.cli.kn_ping import RESUME, SUSPEND, PingSource, Request, UsageError
from beads_dispatch.cli.kn_process import KnError

ROOT = pathlib.Path(__file__).parents[2]


def item(name: str, extensions: dict[str, str] | None = None, **spec: object) -> dict[str, object]:
    """A PingSource as the API server has it, with ceOverrides when `extensions` are given."""
    overrides = {} if extensions is None else {"ceOverrides": {"extensions": extensions} if extensions else {}}
    return {
        "metadata": {"name": name, "namespace": "beads"},
        "spec": {"schedule": "*/2 * * * *", **overrides, **spec},
    }


@pytest.mark.parametrize(("words", "expected"), [
    ("dispatch", Request(names=("dispatch",))),
    ("dispatch reap dispatch", Request(names=("dispatch", "reap"))),
    ("-n beads dispatch", Request(("dispatch",), ("-n", "beads"))),
    ("dispatch -n beads reap", Request(("dispatch", "reap"), ("-n", "beads"))),
    ("dispatch -nbeads", Request(("dispatch",), ("-nbeads",))),
    ("dispatch -n=beads", Request(("dispatch",), ("-n=beads",))),
    ("dispatch --namespace=beads", Request(("dispatch",), ("--namespace=beads",))),
    ("--kubeconfig f --context c dispatch --cluster k --log-http --as-group a --as-group b", Request(
        ("dispatch",),
        ("--kubeconfig", "f", "--context", "c", "--cluster", "k", "--log-http", "--as-group", "a", "--as-group", "b"),
    )),
    ("-- dispatch --odd", Request(names=("dispatch", "--odd"))),
    ("--list -n beads", Request(kn_options=("-n", "beads"), list=True)),
    ("dispatch --help", Request(help=True)),
    ("-h", Request(help=True)),
])  # fmt: skip
def test_names_and_options_come_in_any_order(words: str, expected: Request) -> None:
    """As kn reads its own command line; what is kn's is passed on as it came."""
    assert kn_ping.parse(SUSPEND, words.split()) == expected


@pytest.mark.parametrize(("verb", "words", "message"), [
    (SUSPEND, "", "'kn source ping suspend' requires the name of at least one Ping source"),
    (RESUME, "-n beads", "'kn source ping resume' requires the name of at least one Ping source"),
    (SUSPEND, "--lst", "unknown flag: --lst for 'kn source ping suspend'"),
    (SUSPEND, "--lst=3 x", "unknown flag: --lst for 'kn source ping suspend'"),
    (RESUME, "--list", "unknown flag: --list for 'kn source ping resume'"),
    (SUSPEND, "-x dispatch", "unknown shorthand flag: 'x' in -x for 'kn source ping suspend'"),
    (SUSPEND, "dispatch -n", "flag needs an argument: 'n' in -n for 'kn source ping suspend'"),
    (SUSPEND, "dispatch --context", "flag needs an argument: --context for 'kn source ping suspend'"),
    (SUSPEND, "--list dispatch", "takes no NAME"),
])  # fmt: skip
def test_a_command_line_that_is_wrong_is_refused_in_kns_words(verb: str, words: str, message: str) -> None:
    """The form of kn's own messages."""
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        kn_ping.parse(verb, words.split())


def test_the_list_shows_for_each_source_whether_it_is_suspended() -> None:
    """True, in any case and with spaces, as the feeder reads it; anything else is not."""
    items = [
        item("dispatch", {"suspend": "true"}),
        item("reap", {"suspend": " True"}, schedule="*/10 * * * *"),
        item("nightly-report", {"other": "x"}, schedule="0 3 * * *"),
        item("off", {"suspend": "false"}),
        item("bare"),
        item("emptied", {}),
    ]
    assert kn_ping.table(kn_ping.from_list({"items": items})).splitlines() == [
        "NAME             SCHEDULE       SUSPENDED",
        "dispatch         */2 * * * *    True",
        "reap             */10 * * * *   True",
        "nightly-report   0 3 * * *      False",
        "off              */2 * * * *    False",
        "bare             */2 * * * *    False",
        "emptied          */2 * * * *    False",
    ]


@pytest.mark.parametrize("found", [{"items": []}, {"items": None}, {}])
def test_a_namespace_without_sources_gives_kns_own_message(found: object) -> None:
    """No table without rows."""
    assert kn_ping.table(kn_ping.from_list(found)) == "No Ping source found."


@pytest.mark.parametrize("found", [{"items": [{}]}, {"items": ["x"]}, {"items": 3}, {"items": [{"metadata": None}]}])
def test_what_is_not_a_list_is_refused(found: object) -> None:
    """With a sentence instead of a traceback."""
    with pytest.raises(KnError, match="not a list of Ping sources"):
        kn_ping.from_list(found)


@pytest.mark.parametrize(("verb", "extensions", "override"), [
    (SUSPEND, None, "suspend=true"),
    (SUSPEND, {"suspend": "false"}, "suspend=true"),
    (SUSPEND, {"other": "x"}, "suspend=true"),
    (SUSPEND, {"suspend": "true"}, None),
    (RESUME, {"suspend": "true", "other": "x"}, "suspend-"),
    (RESUME, {"suspend": "true"}, "suspend=false"),
    (RESUME, {"suspend": "false"}, None),
    (RESUME, None, None),
    (RESUME, {}, None),
])  # fmt: skip
def test_kn_is_run_only_with_what_does_not_make_it_crash_later(
    verb: str, extensions: dict[str, str] | None, override: str | None
) -> None:
    """ceOverrides that are there but empty make kn's next --ce-override crash: they are never left behind."""
    (source,) = kn_ping.from_list({"items": [item("dispatch", extensions)]})
    assert kn_ping.override_for(verb, source) == override


def test_overrides_that_are_empty_already_are_an_error_with_the_command_that_fixes_it() -> None:
    """kn would crash on them."""
    (source,) = kn_ping.from_list({"items": [item("dispatch", {})]})
    with pytest.raises(KnError, match="kubectl patch pingsource dispatch -n beads --type merge"):
        kn_ping.override_for(SUSPEND, source)


@pytest.mark.parametrize(("lines", "message"), [
    (["Error: no such host", "Run 'kn --help' for usage"], "no such host"),
    (["Error: two", "lines"], "two\nlines"),
    (["E1123 22:05 x] Observed a panic: nil map", "goroutine 1", "panic: nil map", "main.main()"],
     "kn crashed: panic: nil map"),
    ([], "kn failed without a reason"),
])  # fmt: skip
def test_kns_error_is_repeated_without_its_frame(lines: list[str], message: str) -> None:
    """`Error:` and the hint at --help are written once, by us."""
    assert kn_process.error_in(lines) == message


def test_without_kn_on_path_the_error_names_it(tmp_path: pathlib.Path) -> None:
    """One line on stderr, status 1, as the console script ends."""
    script = pathlib.Path(sys.executable).parent / "kn-source-ping-suspend"
    done = subprocess.run(
        [script, "dispatch"], env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: kn is not on PATH: this plugin runs it. Install kn, or add its folder to PATH.\n"


@pytest.mark.parametrize("verb", [SUSPEND, RESUME])
def test_help_has_kns_sections(verb: str) -> None:
    """Usage, Examples, Options, and the hint at kn's global options."""
    script = pathlib.Path(sys.executable).parent / f"kn-source-ping-{verb}"
    text = subprocess.run([script, "--help"], capture_output=True, text=True, check=True).stdout
    headings = [text.index(f"\n{heading}:\n") for heading in ("Usage", "Examples", "Options")]
    assert headings == sorted(headings)
    assert f"kn source ping {verb} NAME..." in text
    assert text.endswith('Use "kn options" for a list of global command-line options (applies to all commands).\n')


def test_only_the_standard_library_and_the_rule_are_loaded() -> None:
    """A plugin that takes half a second to print its help is not used."""
    code = "import json, sys; import beads_dispatch.cli.kn_ping; print(json.dumps(sorted(sys.modules)))"
    bare = [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"]
    loaded = json.loads(subprocess.run(bare, capture_output=True, text=True, check=True).stdout)
    ours = {name for name in loaded if name.split(".")[0] not in sys.stdlib_module_names and name != "__main__"}
    modules = ("", ".suspension", ".cli", ".cli.kn_ping", ".cli.kn_process")
    assert ours == {f"beads_dispatch{name}" for name in modules}


def test_a_source_is_read_from_its_list() -> None:
    """From kn's JSON."""
    (source,) = kn_ping.from_list({"items": [item("reap", {"suspend": "true"})]})
    assert source == PingSource("reap", "beads", "*/2 * * * *", suspended=True, extensions=1)
