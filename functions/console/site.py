"""From a request to its answer: which page, and what is answered where there is none.

Every answer forbids the browser everything that the pages do not use (Content-Security-Policy), and what comes from the
database is escaped in one place, the templates' environment.
"""

import pathlib
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

import flask
import jinja2

from beads_dispatch import log, notes, settings, store
from beads_dispatch.agents_file import ConfiguredAgent
from beads_dispatch.cli import context, terminal
from beads_dispatch.log import Action
from functions.console import bead, charts, day, live, now, queue, timeline, what_if
from functions.console.view import PageError, Stores, Versions, View

_FOLDER = pathlib.Path(__file__).parent
_TEXT_LIMIT = 2000  # characters of one value

# The pages by path, in the order of the navigation: the template's name, its title, and what it shows.
PAGES: Mapping[str, tuple[str, str, Callable[[View], Mapping[str, Any]]]] = {
    "/": ("now", "Now", now.page),
    "/queue": ("queue", "Queue", queue.page),
    "/bead": ("bead", "Bead", bead.page),
    "/timeline": ("timeline", "Timeline", timeline.page),
    "/day": ("day", "Day", day.page),
    "/what-if": ("what_if", "What if", what_if.page),
}
_FILES = {
    "/console.css": ("console.css", "text/css"),
    "/console.js": ("console.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_TITLES = {
    400: "This cannot be asked for",
    404: "Not found",
    405: "Not allowed",
    421: "Another host's name",
    500: "This page failed",
    503: "Cannot be shown now",
}


class Site:
    """The console over one database. Raises SettingsError from its construction."""

    def __init__(
        self, dolt: settings.DoltSettings, agents: tuple[ConfiguredAgent, ...], env: Mapping[str, str]
    ) -> None:
        self._dolt = dolt
        self._agents = {agent.name: agent for agent in agents}
        self._stores = Stores(dolt)
        self._versions = Versions(list(self._agents))
        self._streams = live.Streams(self._stores, env)
        self._hosts = frozenset(filter(None, env.get("CONSOLE_HOSTS", "").replace(" ", "").split(",")))
        self._templates = _templates()
        self._logger = log.get("console")

    def answer(self, request: flask.Request) -> flask.Response:
        """The page or file, or a page that says why there is none."""
        response = self._answer(request)
        response.headers.extend(_HEADERS)
        return response

    def _answer(self, request: flask.Request) -> flask.Response:
        try:
            if request.method not in ("GET", "HEAD"):
                raise PageError(405, "The console only reads: it takes GET and HEAD.")
            # Another name that leads here is how a page elsewhere would read this one (DNS rebinding).
            if self._hosts and urllib.parse.urlsplit(f"//{request.host}").hostname not in self._hosts:
                raise PageError(421, "The console is not served under this name; see CONSOLE_HOSTS.")
            if request.path in _FILES:
                name, kind = _FILES[request.path]
                return flask.Response((_FOLDER / "static" / name).read_bytes(), mimetype=kind)
            if request.path == live.PATH:
                return self._streams.answer(request)
            return self._page(request)
        except PageError as exc:
            return self._failure(exc.status, str(exc))
        except store.StoreError as exc:
            self._logger.error(str(exc), extra=log.context(action=Action.RETRY))
            return self._failure(503, f"{exc}.")
        except Exception:
            self._logger.exception("a page failed", extra=log.context(action=Action.FAILED))
            return self._failure(500, "The log of the console says why.")

    def _page(self, request: flask.Request) -> flask.Response:
        if request.path not in PAGES:
            raise PageError(404, "There is no such page.")
        template, title, make = PAGES[request.path]
        with self._stores.borrowed() as beads:
            view = View(beads, self._dolt, self._agents, self._versions, request.args, context.now())
            values = {"token": live.token(beads), "agent": view.agent, "moment": view.moment, **make(view)}
        return self._rendered(200, template, {"title": title, "path": request.path, **values})

    def _failure(self, status: int, message: str) -> flask.Response:
        found = self._rendered(status, "error", {"title": _TITLES[status], "message": message, "path": ""})
        if status == 405:
            found.headers["Allow"] = "GET, HEAD"
        if status == 503:
            found.headers["Retry-After"] = "5"
        return found

    def _rendered(self, status: int, template: str, values: Mapping[str, Any]) -> flask.Response:
        about = {"database": self._dolt.database, "agents": list(self._agents), "pages": PAGES}
        html = self._templates.get_template(f"{template}.html").render({**about, **values})
        # Streamed, because functions-framework reads the rest of a request's body after every other answer.
        body = iter([html]) if status == 405 else html
        return flask.Response(body, status, mimetype="text/html")


def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        finalize=_printable,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {"moment": terminal.moment, "span": terminal.span}
    environment.globals |= {"charts": charts}
    return environment


def _printable(value: Any) -> Any:
    """What is shown for a value: a text without control characters, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return notes.one_line(value, _TEXT_LIMIT)
    return value
