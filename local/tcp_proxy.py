"""Hands on TCP connections: makes a port of 127.0.0.1 reachable at another address of this machine."""

import contextlib
import socket
import socketserver
import threading
from types import TracebackType

_PIECE = 64 * 1024


class Relay:
    """Listens at `host`, any free port, and hands every connection on to `port` of 127.0.0.1, both ways.

    Use as a context manager. Raises OSError when `host` is no address of this machine.
    """

    def __init__(self, host: str, port: int) -> None:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as target:
                    back = threading.Thread(target=_copy, args=(target, self.request), daemon=True)
                    back.start()
                    _copy(self.request, target)
                    back.join()

        self._server = socketserver.ThreadingTCPServer((host, 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> "Relay":
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="relay", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Until one side ends; then the other is told."""
    with contextlib.suppress(OSError):
        while piece := source.recv(_PIECE):
            target.sendall(piece)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
