"""A TCP proxy: makes a port of 127.0.0.1 reachable at another address of this machine."""

import contextlib
import socket
import socketserver
import threading
from types import TracebackType

_PIECE = 64 * 1024


class TcpProxy:
    """Listens at `host`, on any free port, and forwards every connection to `port` of 127.0.0.1, both ways.

    Use as a context manager. Raises OSError when `host` is not an address of this machine.
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

    def __enter__(self) -> "TcpProxy":
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="tcp-proxy", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Copy until `source` ends; then end `target` too."""
    with contextlib.suppress(OSError):
        while piece := source.recv(_PIECE):
            target.sendall(piece)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
