"""The README's picture, made of the demo's own run: ``python -m tests.documents.picture`` writes it.

Everything in the demo that is shown is the same in each run: the device IDs are computed, and the counts are
the node's. So the picture that is kept is compared with a new one as it stands.
"""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.padding import Padding
from rich.terminal_theme import MONOKAI
from rich.text import Text

from deviceplugin.simulator.demo.screen import view
from deviceplugin.simulator.demo.stage import Stage, stage
from deviceplugin.simulator.demo.story import Story

FILE = Path(__file__).resolve().parents[2] / "docs" / "demo.svg"
COLUMNS = 96
CHAPTERS = (2, 4)
"""The chapters that are shown; the view below them is the one at the end of the last line."""
LAST = "device not removed"
"""How the line begins after which the picture is taken: a VM holds on to its device."""
_FORM = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img" aria-label="The demo">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; \
font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix" xml:space="preserve">
{matrix}
</g>
</g>
</svg>
"""


class _Taken(Exception):
    """The picture is taken, and the rest of the story need not be told."""


class _Camera:
    """A ``Show`` that keeps what some chapters say, without waiting, and takes the view at their end."""

    def __init__(self, stage: Stage) -> None:
        self.console = Console(
            record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, highlight=False, _environ={}
        )
        self._stage = stage
        self._chapter = 0

    async def chapter(self, title: str) -> None:
        self._chapter += 1
        if self._chapter in CHAPTERS:
            self._show(Text(f"{self._chapter}. {title}", "bold"), 0)

    async def say(self, line: str) -> None:
        self._show(Text(line), 3)

    async def quote(self, line: str) -> None:
        self._show(Text(line, "cyan"), 5)
        if line.startswith(LAST):
            self._take()

    def _show(self, text: Text, indent: int) -> None:
        if self._chapter in CHAPTERS:
            self.console.print(Padding(text, (0, 0, 0, indent)))

    def _take(self) -> NoReturn:
        self.console.print(view(self._stage))
        raise _Taken


async def picture() -> str:
    """The picture as it is today."""
    async with stage() as made:
        camera = _Camera(made)
        try:
            await Story(made, camera).tell()
        except _Taken:
            svg = camera.console.export_svg(
                title="make demo", theme=MONOKAI, code_format=_FORM, unique_id="demo"
            )
            return "".join(f"{line.strip()}\n" for line in svg.splitlines() if line.strip())
    raise AssertionError(f"no line of the story begins with {LAST!r}")


if __name__ == "__main__":
    FILE.write_text(asyncio.run(picture()), "utf-8")
