"""How commands print: aligned text for people, JSON for programs."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Collection, Iterable, Sequence

import click

from deviceplugin.cli import one_line

NOTHING = "-"
"""What a cell shows where there is nothing to say."""
_GAP = "  "
_LEAST = 8
"""Characters that are left of a column that makes room for the others."""
_LEAST_TEXT = 24
"""Characters that a column of sentences has in any case."""


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str] | str],
    *,
    right: Collection[str] = (),
    shrinks: str | None = None,
    wraps: bool = False,
    width: int | None = None,
) -> str:
    """Rows under a header, columns aligned.

    Args:
        rows: what is a text stands as a line of its own.
        right: the columns, by their heading, that are aligned at their right: numbers.
        shrinks: the column that is cut short where the table is wider than ``width``.
        wraps: whether the last column goes on in the next line there, after that.
    """
    lines = [list(header), *(row if isinstance(row, str) else list(row) for row in rows)]
    cells = [line for line in lines if not isinstance(line, str)]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    if shrinks is not None and width is not None:
        column = header.index(shrinks)
        excess = sum(widths) + len(_GAP) * (len(widths) - 1) - width
        widths[column] = min(widths[column], max(_LEAST, len(shrinks), widths[column] - max(0, excess)))
        for line in cells:
            line[column] = _cut(line[column], widths[column])
    if wraps and width is not None:
        widths[-1] = max(_LEAST_TEXT, width - sum(widths[:-1]) - len(_GAP) * (len(widths) - 1))
        lines = [part for line in lines for part in _broken(line, widths[-1])]
    aligned = (
        line
        if isinstance(line, str)
        else _GAP.join(
            cell.rjust(size) if name in right else cell.ljust(size)
            for cell, size, name in zip(line, widths, header, strict=True)
        )
        for line in lines
    )
    return "\n".join(line.rstrip() for line in aligned)


def screen_width() -> int | None:
    """The terminal's columns; None where the output goes elsewhere and nothing needs to be cut."""
    return shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else None


def print_json(document: object) -> None:
    click.echo(json.dumps(document, indent=2))


def cell(value: object) -> str:
    """A value as a table shows it."""
    return NOTHING if value is None or value == "" else str(value)


def note(message: object) -> None:
    """Say something on standard error, as one line, beside what the command prints."""
    click.echo(one_line(message), err=True)


def _broken(line: list[str] | str, size: int) -> list[list[str] | str]:
    """A row, and those below it that take the rest of its last column."""
    if isinstance(line, str):
        return [line]
    first, *rest = textwrap.wrap(line[-1], size) or [""]
    return [[*line[:-1], first], *([""] * (len(line) - 1) + [part] for part in rest)]


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else f"{text[: size - 1]}…"
