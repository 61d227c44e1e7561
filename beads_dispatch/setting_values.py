"""What the value of a setting may be: each function raises SettingsError, which names the setting."""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from beads_dispatch import credentials

Environment = Mapping[str, str]


class SettingsError(Exception):
    """A setting is missing or wrong: the text has what was expected, what was found, what to do."""


def secret(env: Environment, name: str) -> str:
    """A secret, or what the file NAME_FILE holds."""
    path = env.get(f"{name}_FILE")
    if not path:
        return env.get(name, "")
    try:
        return content(path)
    except OSError as exc:
        raise SettingsError(f"{name}_FILE names {path}, which cannot be read ({exc.strerror}).") from None
    except ValueError:  # its text shows a part of the secret
        raise SettingsError(f"{name}_FILE names {path}, which cannot be read (it is not UTF-8 text).") from None


def pem(env: Environment, name: str) -> str:
    """CA certificates as text."""
    text = env.get(name, "").strip()
    try:
        if text:
            credentials.trusting(text.encode())
    except (OSError, ValueError) as exc:
        raise SettingsError(f"{name} holds no CA certificate, expected PEM ({exc}).") from None
    return text


def usable_file(env: Environment, name: str, kind: Callable[[str], credentials.CredentialsFile[Any]]) -> str | None:
    """The path of a file that can be used now."""
    path = env.get(name)
    if not path:
        return None
    try:
        kind(path).value()
    except OSError as exc:
        raise SettingsError(f"{name}: {exc}.") from None
    return path


def content(path: str | pathlib.Path) -> str:
    """A file's text without the last line break. Raises OSError, and ValueError where it is not UTF-8."""
    return pathlib.Path(path).read_text(encoding="utf-8").rstrip("\r\n")


def port(text: str, name: str) -> int:
    """A TCP port."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise SettingsError(f"{name} is {text!r}, expected a port number between 1 and 65535.")
    return int(text)


def number(env: Environment, name: str, default: float, *, whole: bool = False) -> float:
    """A number above 0."""
    text = env.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9 or (whole and value != int(value)):
        kind = "a whole number of at least 1" if whole else "a number above 0"
        raise SettingsError(f"{name} is {text!r}, expected {kind}. Its default is {default:g}.")
    return value


def flag(env: Environment, name: str) -> bool:
    """true or false."""
    text = env.get(name, "").lower()
    if text not in ("", "true", "false"):
        raise SettingsError(f"{name} is {text!r}, expected true or false. Its default is false.")
    return text == "true"


def is_http_url(text: str) -> bool:
    """Whether a text is an http:// or https:// URL with a host."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


def http_url(text: str, name: str) -> str:
    """An http:// or https:// URL with a host."""
    if not is_http_url(text):
        # The value is not repeated: a URL may hold credentials.
        raise SettingsError(f"{name} is not an http:// or https:// URL with a host.")
    return text


def overrides(text: str) -> Mapping[str, str]:
    """The extensions of K_CE_OVERRIDES."""
    if not text.strip():
        return {}
    try:
        extensions = json.loads(text).get("extensions") or {}
        return {str(name).lower(): str(value) for name, value in extensions.items()}
    except (ValueError, AttributeError):
        raise SettingsError(
            f'K_CE_OVERRIDES is {text!r}, expected JSON like {{"extensions": {{"name": "value"}}}}.'
        ) from None
