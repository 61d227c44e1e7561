"""A binlog event is read piece by piece from its connection, and one that is not whole is noticed."""

import io
import struct
import zlib

import pytest

from feeder import packet
from feeder.packet import BrokenEvent, EventPacket, ServerError


class Connection:
    """The part of PyMySQL's that is used, on bytes that were received."""

    def __init__(self, received: bytes) -> None:
        self._received = io.BytesIO(received)

    def _read_bytes(self, size: int) -> bytes:
        found = self._received.read(size)
        assert len(found) == size, "it reads more than the server sends"
        return found


def event(body: bytes) -> bytes:
    """An event in a packet, with its header and its checksum."""
    written = struct.pack("<IBIIIH", 0, 30, 1, 19 + len(body) + 4, 0, 0) + body
    return b"\0" + written + struct.pack("<I", zlib.crc32(written))


def sent(content: bytes) -> Connection:
    """As the protocol sends it: in packets of at most 16 MB."""
    full, packets = 0xFFFFFF, b""
    for number in range(len(content) // full + 1):
        part = content[number * full : (number + 1) * full]
        packets += struct.pack("<I", len(part) | number << 24) + part
    return Connection(packets)


@pytest.mark.parametrize(
    "size", [0, 1, 5, packet._PIECE, packet._PIECE * 3 + 7, 0xFFFFFF - 24, 0xFFFFFF, 2 * 0xFFFFFF + 3]
)
def test_an_event_is_read_as_it_was_written(size: int) -> None:
    """Whatever its size: read in parts, passed over in parts, or left unread."""
    body = bytes(number % 251 for number in range(1000)) * (size // 1000 + 1)
    body = body[:size]
    for taken in (0, size // 2, size):
        found = EventPacket(sent(event(body)))
        assert found.is_ok_packet() and not found.is_eof_packet()
        found.advance(20)
        assert found.read(taken) == body[:taken]
        found.advance((size - taken) // 2)
        assert found.taken == 20 + taken + (size - taken) // 2
        found.finish()


def test_an_event_that_ends_in_zeros_is_broken() -> None:
    """Dolt read its file before the event was written whole. Its rows are known to be wrong only at its end."""
    whole = event(b"row" * 100_000)
    torn = whole[:200_000] + bytes(len(whole) - 200_000)
    found = EventPacket(sent(torn))
    found.advance(20)
    assert found.read(3) == b"row"
    with pytest.raises(BrokenEvent, match="before it was written whole"):
        found.finish()


def test_a_row_that_goes_beyond_its_event_is_broken() -> None:
    """It never waits for bytes that belong to the next event."""
    for read in (EventPacket.read, EventPacket.advance):
        with pytest.raises(BrokenEvent):
            read(EventPacket(sent(event(b"row"))), 100)


def test_an_error_of_the_server_and_its_end_of_the_stream() -> None:
    """They come instead of an event."""
    with pytest.raises(ServerError) as raised:
        EventPacket(sent(b"\xff" + struct.pack("<H", 1236) + b"#HY000" + b"the position is not in the log"))
    assert raised.value.args == (1236, "the position is not in the log")
    assert EventPacket(sent(b"\xfe\0\0\2\0")).is_eof_packet()
