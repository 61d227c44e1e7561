"""GTID sets as MySQL writes them: `uuid:1-5:7,uuid:3`. Pure."""

import re


def count_missing(executed: str, known: str) -> int:
    """How many transactions of the set `executed` are not in the set `known`. Raises ValueError.

    Counted here because Dolt 2.2.0's GTID_SUBTRACT counts twice where the second set has several intervals.
    """
    have = _intervals(known)
    number = 0
    for server, intervals in _intervals(executed).items():
        for first, last in intervals:
            number += last - first + 1
            number -= sum(max(0, min(last, end) - max(first, start) + 1) for start, end in have.get(server, []))
    return number


def _intervals(gtid_set: str) -> dict[str, list[tuple[int, int]]]:
    """The first and last number of each interval, per server."""
    found: dict[str, list[tuple[int, int]]] = {}
    for part in filter(None, re.split(r"[,\s]+", gtid_set)):
        server, *intervals = part.split(":")
        for interval in intervals:
            first, _, last = interval.partition("-")
            found.setdefault(server.lower(), []).append((int(first), int(last or first)))
    return found
