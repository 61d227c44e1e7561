"""Bearer tokens and CA certificates, in files that may be replaced while a process runs."""

import functools
import pathlib
import ssl
from collections.abc import Callable
from typing import Generic, TypeVar

from beads_dispatch import log
from beads_dispatch.log import Action

T = TypeVar("T")

logger = log.get("credentials")


class CredentialsFile(Generic[T]):
    """What a file, or all files of a folder, hold now; while that is away or half written, what it held before. The
    first such time is logged."""

    def __init__(self, path: str, parse: Callable[[bytes], T]) -> None:
        """`parse` raises ValueError or OSError where it cannot use the content."""
        self._path = path
        self._parse = parse
        self._content: bytes | None = None
        self._value: T | None = None
        self._failed = False

    def value(self) -> T:
        """Raises OSError where the file has never been usable; the text names the file, not its content."""
        try:
            content = _content(pathlib.Path(self._path))
            if content != self._content:
                self._value, self._content = self._parse(content), content
            self._failed = False
        except (OSError, ValueError) as exc:
            why = f"{self._path} cannot be used ({getattr(exc, 'strerror', None) or exc})"
            if self._value is None:
                raise OSError(why) from exc
            if not self._failed:
                logger.warning(f"{why}; what it held before is used", extra=log.context(action=Action.CREDENTIALS))
            self._failed = True
        assert self._value is not None
        return self._value


def token_file(path: str) -> CredentialsFile[str]:
    """A file with a bearer token."""
    return CredentialsFile(path, _token)


def ca_file(path: str) -> CredentialsFile[ssl.SSLContext]:
    """A file with CA certificates (PEM): who signs the other side's certificate, and nobody else."""
    return CredentialsFile(path, trusting)


@functools.cache
def trusting_nobody() -> ssl.SSLContext:
    """For a client of http:// alone, so that nothing that should be verified can go that way."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def public_and(pem: str, folder: str | None) -> Callable[[], ssl.SSLContext]:
    """The system's CAs, these, and those in a folder. Raises ValueError or OSError where these are none."""

    def trusting_all(more: bytes) -> ssl.SSLContext:
        context = ssl.create_default_context()
        for each in (pem, more.decode("ascii", "ignore")):
            if each.strip():
                context.load_verify_locations(cadata=each)
        return context

    if folder is not None:
        return CredentialsFile(folder, trusting_all).value
    context = trusting_all(b"")
    return lambda: context


def trusting(pem: bytes) -> ssl.SSLContext:
    """Verifies certificate and host name against these CA certificates alone. Raises ValueError or ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Comments may hold any characters. Empty data is an error here; create_default_context would trust every public CA.
    context.load_verify_locations(cadata=pem.decode("ascii", "ignore"))
    return context


def _content(path: pathlib.Path) -> bytes:
    if not path.is_dir():
        return path.read_bytes()
    return b"\n".join(file.read_bytes() for file in sorted(path.iterdir()) if file.is_file())


def _token(content: bytes) -> str:
    token = content.decode("ascii", "replace").strip()
    if not token or not token.isprintable() or not token.isascii():
        raise ValueError("expected a token: one line of printable ASCII")
    return token
