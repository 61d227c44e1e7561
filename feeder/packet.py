"""Reads binlog events from their connection piece by piece, so that a large one is never in memory as a whole.

Measured on Dolt 2.2.0:

- All rows of a table that a transaction changed are one event: 40,000 beads with 3 KB of text each are 126 MB.
- A reader that is connected may get an event that is still being written to Dolt's file: its end is zeros, and what
  follows it makes no sense. That happens to every other transaction of more than some MB. Each event has a checksum,
  which shows it; who connects again gets the event whole.
"""

import struct
import zlib
from typing import Any

_FULL = 0xFFFFFF  # bytes of a protocol packet that has a continuation
_PIECE = 64 * 1024  # bytes read at once
_CHECKSUM = 4  # bytes, at an event's end
_OK, _ERROR = 0x00, 0xFF  # a packet's first byte


class ServerError(Exception):
    """The server sent an error instead of an event: its number and its text."""


class BrokenEvent(Exception):
    """An event is not as it was written."""


class EventPacket:
    """One event, as mysql-replication reads a packet; `connection` is PyMySQL's."""

    def __init__(self, connection: Any) -> None:
        """Read the beginning. Raises ServerError, and whatever the connection does."""
        self._connection = connection
        self._buffer = bytearray()
        self._at = 0  # in the buffer: what was taken ends here
        self._dropped = 0  # bytes that are no longer in the buffer
        self._left = 0  # bytes of the protocol packet that is being read
        self._continues = True  # another protocol packet follows it
        self._last = b""  # the last bytes that were received: the checksum, once all were
        self._sum = 0  # of what was received before them
        self._need(1)
        self._ok = self._buffer[0] == _OK
        if self._buffer[0] == _ERROR:
            rest = self._rest()
            raise ServerError(struct.unpack_from("<H", rest, 1)[0], rest[9:].decode("utf-8", "replace"))
        self._sum, self._last = zlib.crc32(self._buffer[1:-_CHECKSUM]), bytes(self._buffer[1:])[-_CHECKSUM:]

    # The library looks at these two while it reads how a table is laid out, which is a small event.
    _position = 0

    @property
    def _data(self) -> bytes:
        return self._rest()

    def is_ok_packet(self) -> bool:
        """Whether this is an event."""
        return self._ok

    def is_eof_packet(self) -> bool:
        """Whether the server ends the stream."""
        return not self._ok

    @property
    def taken(self) -> int:
        """How many bytes have been read or passed over."""
        return self._dropped + self._at

    def read(self, size: int) -> bytes:
        """The next bytes. Raises BrokenEvent when there are no more."""
        end = self._at + size
        if end > len(self._buffer):
            end = self._need(size)
        found = bytes(self._buffer[self._at : end])
        self._at = end
        return found

    def read_size(self, size: int) -> int:
        """A number that takes so many bytes."""
        return int.from_bytes(self.read(size), "little")

    def advance(self, size: int) -> None:
        """Pass over the next bytes; they are not kept."""
        while self._at + size > len(self._buffer):
            size -= len(self._buffer) - self._at
            self._at = len(self._buffer)
            self._receive()
        self._at += size

    def finish(self) -> None:
        """Pass over the rest. Raises BrokenEvent when the event is not as it was written."""
        while self._left or self._continues:
            self._at = len(self._buffer)
            self._receive()
        if self._last != struct.pack("<I", self._sum):
            raise BrokenEvent("an event of the binlog was read before it was written whole")

    def _rest(self) -> bytes:
        while self._left or self._continues:
            self._receive()
        return bytes(self._buffer[self._at :])

    def _need(self, size: int) -> int:
        """Have so many bytes in the buffer; returns where they end in it."""
        while self._at + size > len(self._buffer):
            self._receive()
        return self._at + size

    def _receive(self) -> None:
        """Add a piece to the buffer, in which only what was not taken is left."""
        if not self._left:
            if not self._continues:
                raise BrokenEvent("an event of the binlog ends in the middle of a row")
            low, high, _ = struct.unpack("<HBB", self._connection._read_bytes(4))
            self._left = low + (high << 16)
            self._continues = self._left == _FULL
        size = min(self._left, _PIECE)
        piece = self._connection._read_bytes(size)
        self._left -= size
        del self._buffer[: self._at]
        self._dropped, self._at = self._dropped + self._at, 0
        self._buffer += piece
        received = self._last + piece
        self._sum, self._last = zlib.crc32(received[:-_CHECKSUM], self._sum), received[-_CHECKSUM:]
