"""TCP proxies before Dolt: a plain one, one that fails on demand, one that counts what passes."""

import contextlib
import socket
import socketserver
import threading
import time
from typing import Any


class Proxy(socketserver.ThreadingTCPServer):
    """A port of `host` that passes every connection on to one of 127.0.0.1, from its making until `close`."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._target = port
        self._pairs_lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        super().__init__((host, 0), socketserver.BaseRequestHandler)
        self.port = int(self.server_address[1])
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def forward(self, data: bytes, source: socket.socket, target: socket.socket) -> None:
        """Pass on what came."""
        target.sendall(data)

    def cut(self) -> None:
        """End every connection, as a router that restarts does."""
        with self._pairs_lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self.cut()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """One connection, in a thread of its own."""
        try:
            server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
        except OSError:
            return
        server.settimeout(None)
        for end in (request, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._pairs_lock:
            self._pairs.append((request, server))
        threading.Thread(target=self._copy, args=(server, request), daemon=True).start()
        self._copy(request, server)

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.forward(data, source, target)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class FaultyProxy(Proxy):
    """`mode`: pass, stall (nothing moves), trickle (some bytes a second), refuse."""

    def __init__(self, port: int) -> None:
        self.mode = "pass"
        self._lost: set[socket.socket] = set()
        super().__init__(port)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return self.mode != "refuse"

    def lose(self) -> None:
        """Move nothing on the present connections any more and notify neither side, as a router that lost its table."""
        with self._pairs_lock:
            self._lost.update(end for pair in self._pairs for end in pair)

    def cut(self) -> None:
        super().cut()
        self._lost.clear()

    def forward(self, data: bytes, source: socket.socket, target: socket.socket) -> None:
        while self.mode == "stall" or source in self._lost:
            time.sleep(0.02)
        if self.mode != "trickle":
            target.sendall(data)
            return
        for start in range(0, len(data), 16):
            target.sendall(data[start : start + 16])
            if self.mode == "trickle":
                time.sleep(0.005)


class Commands:
    """Counts the commands in what a MySQL client sends, fed as it comes."""

    def __init__(self) -> None:
        self.number = 0
        self._rest = b""  # the beginning of a packet whose end has not come

    def feed(self, data: bytes) -> None:
        """A packet is three bytes of length, one of sequence, and its content; a command's sequence is 0."""
        self._rest += data
        while len(self._rest) >= 4 and len(self._rest) >= (end := 4 + int.from_bytes(self._rest[:3], "little")):
            self.number += self._rest[3] == 0
            self._rest = self._rest[end:]


class CountingProxy(Proxy):
    """Counts connections, commands and bytes."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._commands: dict[socket.socket, Commands] = {}  # by the client's end of each connection
        self._sent = self._received = 0
        super().__init__(port)

    def forward(self, data: bytes, source: socket.socket, target: socket.socket) -> None:
        with self._pairs_lock:
            if target.getpeername()[1] == self._port:
                self._commands.setdefault(source, Commands()).feed(data)
                self._sent += len(data)
            else:
                self._received += len(data)
        target.sendall(data)

    def counts(self) -> dict[str, int]:
        with self._pairs_lock:
            return {
                "queries": sum(commands.number for commands in self._commands.values()),
                "KiB to Dolt": self._sent // 1024, "KiB from Dolt": self._received // 1024,
                "connections": len(self._commands),
            }  # fmt: skip
