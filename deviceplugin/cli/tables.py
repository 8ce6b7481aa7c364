"""How commands print: aligned text for people, JSON for programs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Collection, Iterable, Sequence

import click

from deviceplugin.cli import one_line

NOTHING = "-"
"""What a cell shows where there is nothing to say."""
_GAP = "  "
_LEAST = 8
"""Characters that are left of a column that makes room for the others."""


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Collection[str] = (),
    shrinks: str | None = None,
    width: int | None = None,
) -> str:
    """Rows under a header, columns aligned.

    Args:
        right: the columns, by their heading, that are aligned at their right: numbers.
        shrinks: the column that is cut short where the table is wider than ``width``.
    """
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    if shrinks is not None and width is not None:
        column = header.index(shrinks)
        excess = sum(widths) + len(_GAP) * (len(widths) - 1) - width
        widths[column] = min(widths[column], max(_LEAST, len(shrinks), widths[column] - max(0, excess)))
        for line in lines:
            line[column] = _cut(line[column], widths[column])
    aligned = (
        _GAP.join(
            cell.rjust(size) if name in right else cell.ljust(size)
            for cell, size, name in zip(line, widths, header, strict=True)
        ).rstrip()
        for line in lines
    )
    return "\n".join(aligned)


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


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else f"{text[: size - 1]}…"
