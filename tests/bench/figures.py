"""A figure, and the table of figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Something measured. ``judged`` is what the goal is about, the measured value unless told otherwise."""

    name: str
    measured: float
    unit: str
    floor: float | None = None
    """What the least that could do the same needs, in the same unit."""
    judged: float | None = None
    goal: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return None if not self.floor else self.measured / self.floor

    @property
    def verdict(self) -> str:
        if self.goal is None:
            return ""
        value = self.measured if self.judged is None else self.judged
        return "met" if value <= self.goal else "missed"

    def as_dict(self) -> dict[str, object]:
        return {
            "figure": self.name,
            "measured": self.measured,
            "unit": self.unit,
            "floor": self.floor,
            "ratio": self.ratio,
            "judged": self.judged,
            "goal": self.goal,
            "verdict": self.verdict or None,
            "note": self.note or None,
        }


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of the values that ``percent`` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered), -int(-len(ordered) * percent // 100)) - 1)]


def table(figures: Sequence[Figure]) -> str:
    """The figures for people, with the notes below."""
    head = ("FIGURE", "MEASURED", "FLOOR", "RATIO", "JUDGED", "GOAL", "")
    rows = [head, *(_row(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if column in (0, len(head) - 1) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    notes = [f"{figure.name}: {figure.note}" for figure in figures if figure.note]
    return "\n".join([*lines, "", *notes])


def _row(figure: Figure) -> tuple[str, ...]:
    return (
        figure.name,
        f"{_number(figure.measured)} {figure.unit}",
        _number(figure.floor),
        _number(figure.ratio),
        _number(figure.judged if figure.goal is not None and figure.judged is not None else None),
        "" if figure.goal is None else f"≤ {figure.goal:g}",
        figure.verdict,
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
