"""What a figure shows, as data: built once from a section, drawn by matplotlib and by the report's page."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mosa.results.style import MethodStyle


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        label: Its title.
        scale: "linear", "log", or "names" (values 0, 1, 2, ... stand for `names`).
        names: What the values stand for.
        unit: Unit of its values, where the text of a point needs one: "%".
        least: The smallest range that it may show, so that noise does not look large.
        places: Where the names of a log axis stand.
        floor: The least score that there can be, of an axis of scores; None: there is none.
    """

    label: str
    scale: str = "linear"
    names: tuple[str, ...] = ()
    unit: str = ""
    least: float = 0.0
    places: tuple[float, ...] = ()
    floor: float | None = 0.0

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest score that there can be, of an axis of scores."""
        return -math.inf if self.floor is None else self.floor, 100.0 if self.unit == "%" else math.inf


def shown_range(values: Iterable[float], axis: Axis) -> tuple[float, float]:
    """Return the least and the greatest score that an axis shows at its scale.

    Few scores that lie far from all others, such as a run that collapsed, are left out, so that they do not
    squeeze the others: at most one in four, on one side, further away than twice the range of the rest.

    Args:
        values: Scores; NaN does not count.
        axis: The axis that shows them.

    Returns:
        Both NaN if there is no score.
    """
    found = sorted(value for value in values if not math.isnan(value))
    if not found:
        return math.nan, math.nan
    far = 10.0 if axis.unit == "%" else 0.5 * max(map(abs, found))
    for number in range(1, len(found) // 4 + 1):
        for rest, gap in (
            (found[number:], found[number] - found[number - 1]),
            (found[:-number], found[-number] - found[-number - 1]),
        ):
            if gap > max(far, 2 * (rest[-1] - rest[0])):
                return rest[0], rest[-1]
    return found[0], found[-1]


@dataclass(frozen=True)
class Point:
    """One value of a series.

    Attributes:
        name: What it belongs to, such as a variant.
        x: Its place.
        y: Its value; NaN where it is missing.
        text: The value as it is printed.
        spread: How far its bar reaches in both directions, if the score can be that; NaN for none.
        shift: How far beside x it is drawn, so that points do not hide each other: in decades on a log axis,
            in units of x otherwise.
        seeds: The values of the single seeds.
        marked: Whether it is drawn larger.
    """

    name: str
    x: float
    y: float
    text: str
    spread: float = float("nan")
    shift: float = 0.0
    seeds: tuple[float, ...] = ()
    marked: bool = False


@dataclass(frozen=True)
class Series:
    """Points of one style, or a horizontal line, or both.

    Attributes:
        label: Its name in the legend, in one or more lines.
        style: Colour, marker and dash, those of its method.
        points: Its points, from left to right; none for a line alone or where all are missing.
        joined: Whether a line joins the points.
        variation: Its number among the series of its method, from 0: each has its own filling of the marker.
        level: Height of a line across the whole chart; None for none.
        band: How far a band around that line reaches, if the score can be that; NaN for none.
    """

    label: str
    style: MethodStyle
    points: tuple[Point, ...] = ()
    joined: bool = False
    variation: int = 0
    level: float | None = None
    band: float = float("nan")


@dataclass(frozen=True)
class Chart:
    """A whole figure, or one panel of it.

    Attributes:
        title: What it is about.
        x, y: Its axes.
        series: What is drawn, in the order of the legend.
        note: How to read it.
    """

    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    note: str = ""

    def drawn_x(self, point: Point) -> float:
        """Return where a point is drawn on the x axis."""
        return point.x * 10**point.shift if self.x.scale == "log" else point.x + point.shift

    def bar(self, score: float, spread: float) -> tuple[float, float]:
        """Return how far a bar reaches below and above a score that stays possible; NaN for none."""
        low, high = self.y.bounds
        return score - max(score - spread, low), min(score + spread, high) - score

    def as_data(self) -> dict[str, Any]:
        """Return the chart as what JSON can hold: numbers to six digits, None where one is missing."""
        return {
            "title": self.title,
            "x": vars(self.x),
            "y": vars(self.y),
            "series": [self._series_as_data(series) for series in self.series],
            "note": self.note,
        }

    def _series_as_data(self, series: Series) -> dict[str, Any]:
        return {
            "label": series.label,
            "style": series.style._asdict(),
            "joined": series.joined,
            "variation": series.variation,
            "level": None if series.level is None else _number(series.level),
            "points": [
                {
                    "name": point.name,
                    "x": _number(self.drawn_x(point)),
                    "y": _number(point.y),
                    "at": _number(point.x),
                    "text": point.text,
                    "bar": [_number(part) for part in self.bar(point.y, point.spread)],
                    "marked": point.marked,
                }
                for point in series.points
            ],
        }


def _number(value: float) -> float | None:
    return None if pd.isna(value) else float(f"{value:.6g}")
