"""Where the marks of a plot are: plain numbers for the templates, which draw them as SVG. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 480, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 6, 10, 24
_INSIDE_WIDTH, _INSIDE_HEIGHT = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
BASE = HEIGHT - _BOTTOM  # where the horizontal axis is
_ROW = 26  # height of a row of `rows`
_LABEL = 190  # width of its label
_STEPS = (1, 2, 5)

# What a person reads on a scale of times, in seconds.
_TIMES = (
    (0.01, "10 ms"), (0.1, "0.1 s"), (1, "1 s"), (10, "10 s"), (60, "1 min"), (600, "10 min"), (3600, "1 h"),
    (36_000, "10 h"), (360_000, "4 d"), (3_600_000, "42 d"),
)  # fmt: skip


@dataclass(frozen=True)
class ScaleTick:
    """A line across the plot, with its label."""

    y: float
    label: str


@dataclass(frozen=True)
class PlotMark:
    """A bar, or the ends of a range, of one column: `y` is its upper end, `low` its lower."""

    x: float  # its left edge
    middle: float
    width: float
    y: float
    low: float


@dataclass(frozen=True)
class BarRow:
    """A horizontal bar with its label and number."""

    y: float
    width: float
    label: str
    number: int


def columns(values: Sequence[int]) -> tuple[list[PlotMark], list[ScaleTick]]:
    """A bar for each value, and the lines of the scale; a value of 0 has a bar without height."""
    top = _round_up(max(values, default=0))
    marks = [_mark(place, len(values), _INSIDE_HEIGHT * value / top, 0) for place, value in enumerate(values)]
    return marks, [ScaleTick(_y(share), f"{top * share:g}") for share in (0, 0.5, 1) if (top * share) % 1 == 0]


def ranges(values: Sequence[tuple[float, float] | None]) -> tuple[list[PlotMark | None], list[ScaleTick]]:
    """A range of seconds for each pair, on a logarithmic scale; None where there is none."""
    known = [value for value in values if value is not None]
    low = max((seconds for seconds, _ in _TIMES if seconds <= min((one[0] for one in known), default=1)), default=0.01)
    longest = max((one[1] for one in known), default=1)
    high = next((seconds for seconds, _ in _TIMES if seconds > max(longest, low)), 3_600_000)
    across = math.log(high / low)

    def height(seconds: float) -> float:
        return _INSIDE_HEIGHT * math.log(min(max(seconds, low), high) / low) / across

    marks = [
        None if value is None else _mark(place, len(values), height(value[1]), height(value[0]))
        for place, value in enumerate(values)
    ]
    ticks = [ScaleTick(BASE - height(seconds), label) for seconds, label in _TIMES if low <= seconds <= high]
    return marks, ticks


def rows(values: Sequence[tuple[str, int]]) -> list[BarRow]:
    """A horizontal bar for each value, the longest over the whole width."""
    most = max((number for _, number in values), default=1)
    width = WIDTH - _LABEL - 40
    return [BarRow(place * _ROW, width * number / most, label, number) for place, (label, number) in enumerate(values)]


def _mark(place: int, of: int, upper: float, lower: float) -> PlotMark:
    step = _INSIDE_WIDTH / of
    left, width = _LEFT + place * step + step * 0.15, step * 0.7
    return PlotMark(*(round(value, 1) for value in (left, left + width / 2, width, BASE - upper, BASE - lower)))


def _y(share: float) -> float:
    return round(BASE - _INSIDE_HEIGHT * share, 1)


def _round_up(value: int) -> int:
    """The end of the scale: 1, 2, 5, 10, 20, …"""
    power = 1
    while True:
        for step in _STEPS:
            if step * power >= value:
                return step * power
        power *= 10
