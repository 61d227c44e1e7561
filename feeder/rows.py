"""Decodes the rows of a binlog event one by one, and of each only the columns that are kept.

The other columns are passed over undecoded: the long texts of 40,000 beads would take hundreds of MB, and the library's
decoder fails on metadata that is nested 500 deep. What is kept of a row takes a quarter of a dict.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from feeder.packet import EventPacket

# MySQL's numbers of column types: those of a fixed size in bytes, those whose size is in front of the value.
_FIXED = {1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 7: 4, 8: 8, 9: 3, 10: 3, 11: 3, 12: 8, 13: 1}
_TIME_WITH_FRACTION = {17: 4, 18: 5, 19: 3}  # without the fraction
_VARCHAR, _STRING, _BLOB = 15, 254, 252  # _BLOB is TEXT as well
_CHOICE = (247, 248)  # ENUM and SET
_WITH_LENGTH = (245, _BLOB, 255)  # JSON, BLOB and TEXT, GEOMETRY
_KNOWN = 1000  # values that are looked up, so that equal ones are held once

Reader = Callable[[EventPacket, bytes], Any]  # of a column, from the packet and the row's bits for NULL


class Image(Mapping[str, Any]):
    """The kept columns of a row, before or after a change."""

    __slots__ = ("_names", "_values")

    def __init__(self, names: Sequence[str], values: Sequence[Any]) -> None:
        self._names = names
        self._values = tuple(values)

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[self._names.index(name)]
        except ValueError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def decode(event: Any, packet: EventPacket, columns: Sequence[str]) -> Iterator[tuple[Image | None, Image | None]]:
    """Each row before and after the change, of a WriteRowsEvent, UpdateRowsEvent or DeleteRowsEvent.

    Each row has to be taken before the next event is read.
    """
    kind, first = type(event).__name__, event.columns_present_bitmap
    second = getattr(event, "columns_present_bitmap2", first)
    known: dict[Any, Any] = {}  # most beads have the same few values, and keep them in an update
    before = None if kind == "WriteRowsEvent" else Layout(event, first, columns, known)
    after = None if kind == "DeleteRowsEvent" else Layout(event, second, columns, known)
    end = packet.taken + event.event_size - event.packet.read_bytes
    while packet.taken < end:
        if len(known) > _KNOWN:
            known.clear()
        yield before.read(packet) if before else None, after.read(packet) if after else None


class Layout:
    """How the row images of an event are laid out, those before or those after the change."""

    def __init__(self, event: Any, present: bytes, columns: Sequence[str], known: dict[Any, Any]) -> None:
        self._event = event
        self._present = present
        self._columns = columns
        self._known = known
        indexes = [index for index in range(len(event.columns)) if present[index >> 3] >> (index & 7) & 1]
        self._nulls = (len(indexes) + 7) // 8
        # Where a column's bit for NULL is, where its value goes (None: nowhere), and how it is read.
        self._steps = [
            (position >> 3, 1 << (position & 7), *self._reader(position, index))
            for position, index in enumerate(indexes)
        ]

    def read(self, packet: EventPacket) -> Image:
        """The next row image."""
        nulls = packet.read(self._nulls)
        values: list[Any] = [None] * len(self._columns)
        for byte, bit, slot, reader in self._steps:
            if not nulls[byte] & bit:
                value = reader(packet, nulls)
                if slot is not None:
                    values[slot] = self._known.setdefault(value, value)
        return Image(self._columns, values)

    def _reader(self, position: int, index: int) -> tuple[int | None, Reader]:
        column = self._event.columns[index]

        def library(_: EventPacket, nulls: bytes) -> Any:
            read = self._event._RowsEvent__read_values_name
            return read(column, nulls, position, False, self._present, column.unsigned, index)

        if column.name in self._columns:
            return self._columns.index(column.name), _text(column) or library
        return None, _skip(column) or library


def _prefix(column: Any) -> int:
    """How many bytes in front of a value hold its size; 0 for a type without."""
    if column.type in (_VARCHAR, _STRING):
        return 2 if column.max_length > 255 else 1
    return int(column.length_size) if column.type in _WITH_LENGTH else 0


def _text(column: Any) -> Reader | None:
    """How a text is read."""
    prefix = _prefix(column)
    if column.type not in (_VARCHAR, _STRING, _BLOB) or not str(column.character_set_name).startswith("utf8"):
        return None
    # A text that is not UTF-8 must not stop the feed.
    return lambda packet, _: packet.read(packet.read_size(prefix)).decode("utf-8", "ignore")


def _skip(column: Any) -> Reader | None:
    """How a column is passed over; None for a type whose size only the library computes."""
    size, prefix = _FIXED.get(column.type, 0), _prefix(column)
    if column.type in _TIME_WITH_FRACTION:
        size = _TIME_WITH_FRACTION[column.type] + (column.fsp + 1) // 2
    elif column.type in _CHOICE:
        size = column.size
    if size:
        return lambda packet, _: packet.advance(size)
    if prefix:
        return lambda packet, _: packet.advance(packet.read_size(prefix))
    return None
