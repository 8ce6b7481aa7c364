"""The demo: the story on a stage, shown as well as the terminal allows."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from deviceplugin.simulator.demo.show import Plain, Show
from deviceplugin.simulator.demo.stage import Stage, stage
from deviceplugin.simulator.demo.story import Story


async def perform(write: Callable[[str], object], *, plain: bool) -> None:
    """Tell the story once.

    Args:
        write: prints a line.
        plain: in plain lines even on a terminal.

    Raises:
        WentWrong: something happened otherwise than told.
    """
    _end_on_signals()
    async with stage() as made, _show(made, write, plain=plain) as show:
        await Story(made, show).tell()


@asynccontextmanager
async def _show(made: Stage, write: Callable[[str], object], *, plain: bool) -> AsyncIterator[Show]:
    if plain or not _is_live():
        yield Plain(write)
        return
    # Imported here, since rich is an extra.
    from deviceplugin.simulator.demo.screen import screen

    async with screen(made) as show:
        yield show


def _is_live() -> bool:
    """Whether somebody looks at a terminal that can be drawn on, and rich is there to do it."""
    return (
        sys.stdout.isatty()
        and os.environ.get("TERM", "dumb") != "dumb"
        and importlib.util.find_spec("rich") is not None
    )


def _end_on_signals() -> None:
    """Have a signal end the story as Ctrl-C does, so that what it started is ended too."""
    task = asyncio.current_task()
    if task is None:
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
