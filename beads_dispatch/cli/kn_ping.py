"""Two plugins of kn: `kn source ping suspend` and `kn source ping resume`.

kn offers an executable `kn-source-ping-suspend` on PATH as `kn source ping suspend`. Both set the field that
`kn source ping update NAME --ce-override suspend=true` sets and `--ce-override suspend-` removes, by running stock kn.
Only the standard library and suspension.py are imported: kn's own commands start fast, and so should these.

kn crashes ("assignment to entry in nil map"; tried with kn 0.41, read in the source of later ones) when it sets an
override where `ceOverrides` is there but empty, and it leaves it so when it removes the last override, or one that is
not there. Therefore kn is run only where something changes, and the last override is set to `false`: the same meaning.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beads_dispatch import suspension
from beads_dispatch.cli import kn_process
from beads_dispatch.cli.kn_process import KnError

SUSPEND, RESUME = "suspend", "resume"

# The options that kn has for every command, with a value and without; passed on as they came.
_WITH_VALUE = (
    "-n", "--namespace", "--as", "--as-group", "--as-uid", "--cluster", "--config", "--context", "--kubeconfig",
    "--plugins-dir",
)  # fmt: skip
_WITHOUT_VALUE = ("--log-http", "--no-log-http")

_COLUMN_WIDTH, _COLUMN_GAP = 6, 3  # kn's own: the narrowest column, and the space between two

_SUSPEND_HELP = """\
Suspend ping sources, without deleting them

A suspended ping source goes on sending events, with the extension suspend=true. It suspends beads-dispatch: 'dispatch'
dispatches no bead, 'reap' blocks none. It is the same as 'kn source ping update NAME --ce-override suspend=true'.

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

Removes the extension that 'kn source ping suspend' sets; beads-dispatch then requests a pass at once. It is the same as
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
    """The command line is wrong; the text says why."""


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    names: tuple[str, ...] = ()  # each once, in order
    kn_options: tuple[str, ...] = ()  # as they came
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
        if request.list:
            print(table(_sources(request.kn_options)))
            return 0
        return _change(verb, request)
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
    options: list[str] = []
    listed = False
    rest = iter(arguments)
    for word in rest:
        if word == "--":
            names += rest
        elif word in ("-h", "--help"):
            return Request(help=True)
        elif word == "--list" and verb == SUSPEND:
            listed = True
        elif word.startswith("-") and word != "-":
            options += _option(verb, word, rest)
        else:
            names.append(word)
    if listed and names:
        raise UsageError("'kn source ping suspend --list' lists all Ping sources of the namespace and takes no NAME")
    if not listed and not names:
        raise UsageError(f"'kn source ping {verb}' requires the name of at least one Ping source")
    return Request(tuple(dict.fromkeys(names)), tuple(options), listed)


def _option(verb: str, word: str, rest: Iterator[str]) -> Iterator[str]:
    """An option for kn, and its value, which is taken from `rest` where it is a word of its own."""
    long = word.startswith("--")
    name, equals, _ = word.partition("=") if long else (word[:2], word[2:], "")
    flag = name if long else f"{word[1:2]!r} in {word}"
    if name not in (*_WITH_VALUE, *_WITHOUT_VALUE):
        raise UsageError(f"unknown {'' if long else 'shorthand '}flag: {flag} for 'kn source ping {verb}'")
    yield word
    if name in _WITH_VALUE and not equals:
        try:
            yield next(rest)
        except StopIteration:
            raise UsageError(f"flag needs an argument: {flag} for 'kn source ping {verb}'") from None


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
        raise KnError("'kn source ping list -o json' printed something that is not a list of Ping sources") from None


def _from_item(item: Mapping[str, Any]) -> PingSource:
    metadata, spec = item["metadata"], item.get("spec") or {}
    overrides = spec.get("ceOverrides")
    extensions = (overrides or {}).get("extensions") or {}
    return PingSource(
        name=metadata["name"],
        namespace=metadata["namespace"],
        schedule=str(spec.get("schedule", "")),
        suspended=suspension.in_extension(extensions.get("suspend", "")),
        extensions=None if overrides is None else len(extensions),
    )


def _change(verb: str, request: Request) -> int:
    """Suspend or resume each name. Nothing changes when one does not exist: that is a mistyped name."""
    done = "suspended" if verb == SUSPEND else "resumed"
    known = {source.name: source for source in _sources(request.kn_options)}
    _require(request.names, known, f"nothing was {done}")
    status = 0
    for source in map(known.__getitem__, request.names):
        try:
            override = override_for(verb, source)
            if override:
                kn_process.run("source", "ping", "update", source.name, "--ce-override", override, *request.kn_options)
        except KnError as exc:
            _error(f"cannot {verb} Ping source '{source.name}' in namespace '{source.namespace}': {exc}")
            status = 1
        else:
            print(f"Ping source '{source.name}' {done} in namespace '{source.namespace}'.")
    return status


def override_for(verb: str, source: PingSource) -> str | None:
    """The value for `--ce-override`; None where the source is so already. Pure. Raises KnError."""
    if source.suspended == (verb == SUSPEND):
        return None
    if verb == RESUME:
        return "suspend-" if (source.extensions or 0) > 1 else "suspend=false"
    if source.extensions == 0:
        raise KnError(
            "it has ceOverrides without an extension, on which kn crashes. Remove them once:"
            f" kubectl patch pingsource {source.name} -n {source.namespace} --type merge"
            """ -p '{"spec": {"ceOverrides": null}}'"""
        )
    return "suspend=true"


def _require(names: Sequence[str], known: Mapping[str, PingSource], consequence: str) -> None:
    missing = [f"'{name}'" for name in names if name not in known]
    if not missing:
        return
    where = f"in namespace '{next(iter(known.values())).namespace}'" if known else "in this namespace"
    there = ", ".join(f"'{name}'" for name in known)
    raise KnError(
        f"Ping source{'s' if len(missing) > 1 else ''} {', '.join(missing)} not found {where}, {consequence}."
        f" {f'Found there: {there}.' if known else 'There is none; name another namespace with -n.'}"
    )


def _sources(kn_options: Sequence[str]) -> list[PingSource]:
    printed = kn_process.run("source", "ping", "list", "-o", "json", *kn_options)
    try:
        return from_list(json.loads(printed))
    except ValueError:
        raise KnError("'kn source ping list -o json' did not print JSON") from None


def _error(message: str) -> None:
    print(f"Error: {message}", file=sys.stderr)
