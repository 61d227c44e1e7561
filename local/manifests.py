"""Reads Knative manifests, so that the local system is the deployed one."""

import pathlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

import yaml

T = TypeVar("T")
Manifest = Mapping[str, Any]

_DURATION = re.compile(
    r"P(?:(?P<days>\d+)D)?(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+(\.\d+)?)S)?)?"
)


class ManifestError(Exception):
    """A manifest cannot be used here: the text names the file, the resource, what was expected and what was found."""


def read(folder: pathlib.Path, group: str, kind: str) -> Iterator[tuple[str, str, Manifest]]:
    """Every resource of that API group and kind in the folder's *.yaml files: its name, a label for errors, itself.

    Raises ManifestError for a file that is not YAML, and for a resource without a name.
    """
    for path in sorted(folder.glob("*.yaml")):
        try:
            documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
        except (OSError, yaml.YAMLError) as exc:
            raise ManifestError(f"{path} cannot be read as YAML: {exc}") from exc
        for document in documents:
            if not isinstance(document, dict) or document.get("kind") != kind:
                continue
            if str(document.get("apiVersion")).partition("/")[0] != group:
                continue
            name = table(document.get("metadata"), "metadata").get("name")
            if not isinstance(name, str) or not name:
                raise ManifestError(f"{path}: a {kind} has no metadata.name. Give it one.")
            yield name, f"{path}: {kind} {name}", document


def load(folder: pathlib.Path, group: str, kind: str, parse: Callable[[str, Manifest], T]) -> tuple[T, ...]:
    """Every such resource, parsed from its name and spec. Raises ManifestError, also when there is none."""
    loaded = []
    for name, label, manifest in read(folder, group, kind):
        try:
            loaded.append(parse(name, table(manifest.get("spec"), "spec")))
        except ManifestError as exc:
            raise ManifestError(f"{label}: {exc}.") from None
    if not loaded:
        raise ManifestError(f"{folder} holds no {kind}. Name the folder with the project's Knative manifests.")
    return tuple(loaded)


def table(value: Any, name: str, known: Collection[str] | None = None) -> Manifest:
    """`value` as a mapping, empty if it is absent. Raises ManifestError if it is not one, or has fields not `known`."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ManifestError(f"{name} is {value!r}, expected a mapping")
    unknown = sorted(str(key) for key in value if known is not None and key not in known)
    if unknown:
        raise ManifestError(
            f"{name} has {', '.join(unknown)}, which has no local counterpart; known are {', '.join(known or ())}"
        )
    return value


def require_text(value: Any, name: str) -> str:
    """The value. Raises ManifestError if it is not a text."""
    if not isinstance(value, str):
        raise ManifestError(f"{name} is {value!r}, expected a text; put it in quotes")
    return value


def seconds(text: Any, name: str) -> float:
    """An ISO 8601 duration such as PT0.2S. Raises ManifestError."""
    found = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if not found or not any(found.group("days", "hours", "minutes", "seconds")):
        raise ManifestError(f"{name} is {text!r}, expected an ISO 8601 duration such as PT0.2S")
    days, hours, minutes, rest = (float(part or 0) for part in found.group("days", "hours", "minutes", "seconds"))
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest
