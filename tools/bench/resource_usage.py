"""What a process costs: its CPU time and its memory, as Linux counts them in /proc. And a MySQL connection, counted."""

import os
import pathlib
import socket
import threading

from beads_dispatch import settings


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a process has used, in steps of 10 ms."""
    return parse_stat(pathlib.Path(f"/proc/{pid}/stat").read_text()) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int) -> float:
    """Memory that a process holds now, MiB."""
    return parse_rss_kib(pathlib.Path(f"/proc/{pid}/status").read_text()) / 1024


def children(pid: int) -> list[int]:
    """A process and those that it started: gunicorn's worker is a child."""
    started = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in started for each in children(int(child)))]


def parse_stat(text: str) -> int:
    """utime + stime, in ticks. The name in parentheses may hold anything."""
    fields = text.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def parse_rss_kib(text: str) -> int:
    """VmRSS of /proc/<pid>/status, KiB."""
    line = next(line for line in text.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1])


class Commands:
    """Counts the commands in what a MySQL client sends, fed as it comes."""

    def __init__(self) -> None:
        self.number = 0
        self._left = 0  # bytes of the packet at hand that are still to come
        self._head = b""

    def feed(self, data: bytes) -> None:
        """A packet is three bytes of length, one of sequence; a command's sequence is 0."""
        while data:
            if self._left:
                data, self._left = data[self._left :], max(0, self._left - len(data))
                continue
            wanted = 4 - len(self._head)
            self._head, data = self._head + data[:wanted], data[wanted:]
            if len(self._head) == 4:
                self._left = int.from_bytes(self._head[:3], "little")
                self.number += self._head[3] == 0
                self._head = b""


class Counted:
    """A port in front of Dolt that counts what passes: commands, bytes, connections."""

    def __init__(self, dolt: settings.DoltSettings) -> None:
        self._dolt = dolt
        self._lock = threading.Lock()
        self.commands = self.sent = self.received = self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def counts(self) -> dict[str, int]:
        with self._lock:
            return {
                "queries": self.commands, "KiB to Dolt": self.sent // 1024, "KiB from Dolt": self.received // 1024,
                "connections": self.connections,
            }  # fmt: skip

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
            server = socket.create_connection((self._dolt.host, self._dolt.port))
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._pass_on, args=(client, server, Commands()), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(server, client, None), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, commands: Commands | None) -> None:
        try:
            while data := source.recv(65536):
                before = commands.number if commands else 0
                if commands:
                    commands.feed(data)
                with self._lock:
                    if commands:
                        self.commands += commands.number - before
                        self.sent += len(data)
                    else:
                        self.received += len(data)
                target.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, target):
                end.close()
