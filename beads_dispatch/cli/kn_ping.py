"""Two plugins of kn: `kn source ping suspend` and `kn source ping resume`.

kn offers an executable `kn-source-ping-suspend` on PATH as `kn source ping suspend`. Both are thin over the field that
`kn source ping update NAME --ce-override suspend=true` sets and `--ce-override suspend-` takes away: stock kn is run to
do it. Only the standard library is imported, and little of it: kn's own commands start fast, and so should these.

kn crashes ("assignment to entry in nil map"; tried with kn 0.41, read in the source of later ones) when it sets an
override where `ceOverrides` is there but empty, and taking the last override away, or one that is not there, leaves it
so. Therefore nothing is done where nothing is to be done, and the last override is set to `false`: that means the same.
"""

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SUSPEND, RESUME = "suspend", "resume"

# What kn knows for every command, and `-n`; handed on as they came. The true ones take a value.
_HANDED_ON = {
    "--as": True,
    "--as-group": True,
    "--as-uid": True,
    "--cluster": True,
    "--config": True,
    "--context": True,
    "--kubeconfig": True,
    "--log-http": False,
    "--namespace": True,
    "--no-log-http": False,
    "--plugins-dir": True,
}

# kn may speak an API version that the server calls deprecated: that is kn's business, and said at each request.
_DEPRECATION = re.compile(r"(W\d{4} |Warning: ).*deprecated")

# From such a line on, what kn says is why it failed.
_FAILURE = re.compile(r"Error:|panic:|E\d{4} .*Observed a panic")

_COLUMN_WIDTH, _COLUMN_GAP = 6, 3  # kn's own: no column is narrower, and so much space is between two

_SUSPEND_HELP = """\
Suspend ping sources, without deleting them

A suspended ping source goes on sending events, marked with the extension suspend=true. beads-dispatch takes that mark
for a stop: with it on 'dispatch' no bead is dispatched, with it on 'reap' none is blocked. It is the same as
'kn source ping update NAME --ce-override suspend=true'.

Usage:
  kn source ping suspend NAME...
  kn source ping suspend --list

Examples:

  # Suspend the Ping sources 'dispatch' and 'reap'
  kn source ping suspend dispatch reap

  # Show which Ping sources of the namespace 'beads' are suspended
  kn source ping suspend --list -n beads

Options:
      --list               List the ping sources of the namespace and whether each is suspended.
  -n, --namespace string   Specify the namespace to operate in.

Use "kn options" for a list of global command-line options (applies to all commands).
"""

_RESUME_HELP = """\
Resume ping sources that were suspended

Takes the mark away that 'kn source ping suspend' sets; beads-dispatch then looks for work at once. It is the same as
'kn source ping update NAME --ce-override suspend-'.

Usage:
  kn source ping resume NAME...

Examples:

  # Resume the Ping sources 'dispatch' and 'reap'
  kn source ping resume dispatch reap

Options:
  -n, --namespace string   Specify the namespace to operate in.

Use "kn options" for a list of global command-line options (applies to all commands).
"""


class UsageError(Exception):
    """The command line cannot be understood; the text says what is wrong with it."""


class KnError(Exception):
    """kn is missing or said no; the text says how."""


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    names: tuple[str, ...] = ()  # each once, in order
    handed_on: tuple[str, ...] = ()  # options for kn, as they came
    list: bool = False
    help: bool = False


@dataclass(frozen=True)
class PingSource:
    """A PingSource as the list shows it."""

    name: str
    namespace: str
    schedule: str
    suspended: bool
    extensions: int | None = None  # how many overrides there are; None without ceOverrides


def suspend() -> int:
    """The console script kn-source-ping-suspend."""
    return main(SUSPEND, sys.argv[1:])


def resume() -> int:
    """The console script kn-source-ping-resume."""
    return main(RESUME, sys.argv[1:])


def main(verb: str, arguments: Sequence[str]) -> int:
    """Do what the arguments ask for; returns the exit status."""
    try:
        request = parse(verb, arguments)
        if request.help:
            print(_SUSPEND_HELP if verb == SUSPEND else _RESUME_HELP, end="")
            return 0
        return _list(request) if request.list else _switch(verb, request)
    except UsageError as exc:
        _error(str(exc))
        print(f"Run 'kn source ping {verb} --help' for usage", file=sys.stderr)
    except KnError as exc:
        _error(str(exc))
    except KeyboardInterrupt:
        return 130
    return 1


def parse(verb: str, arguments: Sequence[str]) -> Request:
    """The command line as kn would read it: names and options in any order. Pure. Raises UsageError."""
    names: list[str] = []
    handed_on: list[str] = []
    listed = False
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            names += rest
            break
        if word in ("-h", "--help"):
            return Request(help=True)
        if word == "--list" and verb == SUSPEND:
            listed = True
        elif word.startswith("-") and word != "-":
            handed_on += _option(verb, word, rest)
        else:
            names.append(word)
    if listed and names:
        raise UsageError("'kn source ping suspend --list' lists all Ping sources of the namespace and takes no NAME")
    if not listed and not names:
        raise UsageError(f"'kn source ping {verb}' requires the name of at least one Ping source")
    return Request(tuple(dict.fromkeys(names)), tuple(handed_on), listed)


def _option(verb: str, word: str, rest: list[str]) -> list[str]:
    """An option for kn with its value, which is taken from `rest` where it is a word of its own."""
    short = not word.startswith("--")
    name, equals, _ = (word[:2], word[2:], "") if short else word.partition("=")
    takes_value = name == "-n" or _HANDED_ON.get(name)
    if takes_value is None:
        said = f"unknown shorthand flag: {word[1:2]!r} in {word}" if short else f"unknown flag: {name}"
        raise UsageError(f"{said} for 'kn source ping {verb}'")
    if not takes_value or equals:
        return [word]
    if not rest:
        said = f"{word[1:2]!r} in {word}" if short else name
        raise UsageError(f"flag needs an argument: {said} for 'kn source ping {verb}'")
    return [word, rest.pop(0)]


def table(sources: Sequence[PingSource]) -> str:
    """The list as kn prints its own. Pure."""
    if not sources:
        return "No Ping source found."
    rows = [("NAME", "SCHEDULE", "SUSPENDED"), *((one.name, one.schedule, str(one.suspended)) for one in sources)]
    widths = [max(_COLUMN_WIDTH, max(map(len, column)) + _COLUMN_GAP) for column in zip(*rows, strict=True)]
    return "\n".join(
        "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def from_list(found: Any) -> list[PingSource]:
    """The PingSources in what `kn source ping list -o json` printed. Pure. Raises KnError."""
    items = found.get("items") if isinstance(found, dict) else None
    try:
        return [_from_item(item) for item in items or []]
    except (AttributeError, KeyError, TypeError):
        raise KnError("'kn source ping list -o json' printed something that is no list of Ping sources") from None


def _from_item(item: Mapping[str, Any]) -> PingSource:
    metadata, spec = item["metadata"], item.get("spec") or {}
    overrides = spec.get("ceOverrides")
    extensions = (overrides or {}).get("extensions") or {}
    return PingSource(
        name=metadata["name"],
        namespace=metadata["namespace"],
        schedule=str(spec.get("schedule", "")),
        # As the feeder reads it.
        suspended=str(extensions.get("suspend", "")).strip().lower() == "true",
        extensions=None if overrides is None else len(extensions),
    )


def error_in(lines: Sequence[str]) -> str:
    """What kn said went wrong, without its `Error:` and its hint at --help. Pure."""
    crash = next((line for line in lines if line.startswith("panic:")), None)
    if crash:
        return f"kn crashed: {crash}"
    said = [line for line in lines if not re.fullmatch(r"Run '.*' for usage", line)]
    return re.sub(r"^Error:\s*", "", "\n".join(said)).strip() or "kn failed and did not say why"


def _list(request: Request) -> int:
    print(table(_sources(request.handed_on)))
    return 0


def _switch(verb: str, request: Request) -> int:
    """Suspend or resume each name. Nothing is done when one does not exist: that is a mistyped name."""
    done = "suspended" if verb == SUSPEND else "resumed"
    known = {source.name: source for source in _sources(request.handed_on)}
    _require(request.names, known, f"nothing was {done}")
    status = 0
    for source in map(known.__getitem__, request.names):
        try:
            override = override_for(verb, source)
            if override:
                _kn("source", "ping", "update", source.name, "--ce-override", override, *request.handed_on)
        except KnError as exc:
            _error(f"cannot {verb} Ping source '{source.name}' in namespace '{source.namespace}': {exc}")
            status = 1
        else:
            print(f"Ping source '{source.name}' {done} in namespace '{source.namespace}'.")
    return status


def override_for(verb: str, source: PingSource) -> str | None:
    """What `--ce-override` has to be; None where the source is so already. Pure. Raises KnError."""
    if source.suspended == (verb == SUSPEND):
        return None
    if verb == RESUME:
        return "suspend-" if (source.extensions or 0) > 1 else "suspend=false"
    if source.extensions == 0:
        raise KnError(
            "it has ceOverrides without an extension, on which kn crashes. Take them away once:"
            f" kubectl patch pingsource {source.name} -n {source.namespace} --type merge"
            """ -p '{"spec": {"ceOverrides": null}}'"""
        )
    return "suspend=true"


def _require(names: Sequence[str], known: Mapping[str, PingSource], consequence: str) -> None:
    missing = [name for name in names if name not in known]
    if not missing:
        return
    said = ", ".join(f"'{name}'" for name in missing)
    there = ", ".join(f"'{name}'" for name in known)
    where = f"in namespace '{next(iter(known.values())).namespace}'" if known else "in this namespace"
    raise KnError(
        f"Ping source{'s' if len(missing) > 1 else ''} {said} not found {where}, {consequence}."
        f" {f'Found there: {there}.' if known else 'There is none; name another namespace with -n.'}"
    )


def _sources(handed_on: Sequence[str]) -> list[PingSource]:
    printed = _kn("source", "ping", "list", "-o", "json", *handed_on)
    try:
        return from_list(json.loads(printed))
    except ValueError:
        raise KnError("'kn source ping list -o json' printed no JSON") from None


def _kn(*arguments: str) -> str:
    """Run stock kn; returns what it printed. What it says on stderr is shown, but for deprecations. Raises KnError."""
    binary = shutil.which("kn")
    if binary is None:
        raise KnError("kn is not on PATH: this plugin runs it. Install kn, or add its folder to PATH.")
    try:
        child = subprocess.Popen([binary, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except OSError as exc:
        raise KnError(f"{binary} cannot be run: {exc.strerror}") from None
    assert child.stdout is not None and child.stderr is not None
    failure: list[str] = []
    relay = threading.Thread(target=_relay, args=(child.stderr, failure), daemon=True)
    relay.start()
    printed = child.stdout.read()
    relay.join()
    if child.wait():
        raise KnError(error_in(failure))
    return printed


def _relay(stderr: Any, failure: list[str]) -> None:
    """Show each line at once (a login may ask for something); from the failure on they are kept instead."""
    for line in stderr:
        if failure or _FAILURE.match(line):
            failure.append(line.rstrip("\n"))
        elif not _DEPRECATION.match(line):
            print(line, end="", file=sys.stderr, flush=True)


def _error(message: str) -> None:
    print(f"Error: {message}", file=sys.stderr)
