"""Figures: what a part measured, with every single value, so that median and spread can be told. Pure functions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Goal:
    """What a figure is to reach: at least the value, or at most."""

    value: float
    at_most: bool = False

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.value:g}"

    def is_reached_by(self, value: float) -> bool:
        """Whether the value is as good."""
        return value <= self.value if self.at_most else value >= self.value


@dataclass(frozen=True)
class Figure:
    """One measured quantity.

    Attributes:
        name: as printed.
        unit: rows/s, s, ms, MB, ratio …
        values: one by run; the median stands for them.
        note: what it is, and what to mind.
        goal: what its median is to reach.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    note: str = ""
    goal: Goal | None = None

    @property
    def median(self) -> float:
        """What the figure is quoted as."""
        return statistics.median(self.values)


@dataclass
class Part:
    """What one part of the benchmark found.

    Attributes:
        title: heading in BENCHMARKS.md.
        method: what was measured and how, in sentences.
        figures: what is printed.
        tables: further tables, by caption: header and rows.
    """

    title: str
    method: str
    figures: list[Figure] = field(default_factory=list)
    tables: dict[str, list[Sequence[object]]] = field(default_factory=dict)

    def add(
        self,
        name: str,
        unit: str,
        values: Sequence[float],
        note: str = "",
        goal: Goal | None = None,
    ) -> None:
        """Add a figure.

        Raises:
            ValueError: it has no value.
        """
        if not values:
            raise ValueError(f"{name} was not measured")
        self.figures.append(Figure(name, unit, tuple(values), note, goal))


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Ratios of what was measured next to each other: the machine is shared, so only those compare."""
    return [one / other for one, other in zip(above, below, strict=True)]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many per cent of the values do not exceed (nearest rank).

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(math.ceil(percent / 100 * len(values)), 1) - 1]


def shown(value: float) -> str:
    """A number with three digits that mean something; no exponent."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.{max(2 - math.floor(math.log10(abs(value))), 0)}f}"
