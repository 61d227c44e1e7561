"""Reads a WSGI request."""

from wsgiref.types import WSGIEnvironment


def headers(environ: WSGIEnvironment) -> dict[str, str]:
    """The request's headers, by their names in lower case."""
    found = {name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name.startswith("HTTP_")}
    return found | {"content-type": environ.get("CONTENT_TYPE", "")}


def body(environ: WSGIEnvironment) -> bytes:
    """The request's body; waitress has read it whole and refused one that is too large."""
    content: bytes = environ["wsgi.input"].read()
    return content
