"""Decodes the rows of a binlog event one by one, and of each only the columns that are kept.

The other columns are passed over undecoded: the long texts of 40,000 beads would take hundreds of MB, and the library's
decoder fails on metadata that is nested 500 deep.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

# MySQL's numbers of column types: those of a fixed size in bytes, those whose size is in front of the value.
_FIXED = {1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 7: 4, 8: 8, 9: 3, 10: 3, 11: 3, 12: 8, 13: 1}
_TIME_WITH_FRACTION = {17: 4, 18: 5, 19: 3}  # without the fraction
_VARCHAR, _STRING = 15, 254
_CHOICE = (247, 248)  # ENUM and SET
_WITH_LENGTH = (245, 252, 255)  # JSON, BLOB and TEXT, GEOMETRY

Image = dict[str, Any]  # the kept columns of a row, before or after a change


def decode(event: Any, columns: Sequence[str]) -> Iterator[tuple[Image | None, Image | None]]:
    """Each row before and after the change, of a WriteRowsEvent, UpdateRowsEvent or DeleteRowsEvent.

    Each row has to be taken before the next event is read.
    """
    kind, first = type(event).__name__, event.columns_present_bitmap
    second = getattr(event, "columns_present_bitmap2", first)
    before = None if kind == "WriteRowsEvent" else Layout(event, first, columns)
    after = None if kind == "DeleteRowsEvent" else Layout(event, second, columns)
    while event.packet.read_bytes < event.event_size:
        yield before.read() if before else None, after.read() if after else None


class Layout:
    """How the row images of an event are laid out, those before or those after the change."""

    def __init__(self, event: Any, present: bytes, columns: Sequence[str]) -> None:
        self._event = event
        self._present = present
        self._columns = columns
        indexes = [index for index in range(len(event.columns)) if present[index >> 3] >> (index & 7) & 1]
        self._readers = [self._reader(position, index) for position, index in enumerate(indexes)]

    def read(self) -> Image:
        """The next row image."""
        packet = self._event.packet
        nulls = packet.read((len(self._readers) + 7) // 8)
        image: Image = dict.fromkeys(self._columns)
        for position, (name, reader) in enumerate(self._readers):
            if nulls[position >> 3] >> (position & 7) & 1:
                continue
            value = reader(packet, nulls)
            if name is not None:
                image[name] = value
        return image

    def _reader(self, position: int, index: int) -> tuple[str | None, Callable[[Any, bytes], Any]]:
        """How to get over a column: its name where it is kept, and a function that returns its value then."""
        column = self._event.columns[index]

        def library(packet: Any, nulls: bytes) -> Any:
            read = self._event._RowsEvent__read_values_name
            return read(column, nulls, position, False, self._present, column.unsigned, index)

        if column.name in self._columns:
            return column.name, library
        return None, _skipper(column) or library


def _skipper(column: Any) -> Callable[[Any, bytes], Any] | None:
    """How to pass over a column; None for a type whose size only the library computes."""
    size, prefix = _FIXED.get(column.type, 0), 0
    if column.type in _TIME_WITH_FRACTION:
        size = _TIME_WITH_FRACTION[column.type] + (column.fsp + 1) // 2
    elif column.type in _CHOICE:
        size = column.size
    elif column.type in (_VARCHAR, _STRING):
        prefix = 2 if column.max_length > 255 else 1
    elif column.type in _WITH_LENGTH:
        prefix = column.length_size
    if size:
        return lambda packet, _: packet.advance(size)
    if prefix:
        return lambda packet, _: packet.advance(packet.read_uint_by_size(prefix))
    return None
