"""An agent whose clock a test moves, so that nobody has to wait for what happens after a while.

What the agent asks for the time is ahead by as many seconds as a file says, and so is its event loop.
"""

from __future__ import annotations

import mmap
import selectors
import struct
import time
from pathlib import Path

LOOK = 0.02
"""Seconds after which an event loop that waits looks at the clock again."""


def program(path: Path) -> str:
    """What Python has to run as such an agent."""
    return f"from tests.component.clock import agent; agent({str(path)!r})"


def put_ahead(path: Path, seconds: float) -> None:
    """Have the clock be ahead so far."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.write(struct.pack("d", seconds))


def agent(path: str) -> None:
    """Run the command with such a clock. Nothing of it may have been loaded before."""
    with Path(path).open("rb") as file:
        ahead = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    monotonic, selector = time.monotonic, selectors.DefaultSelector
    select = selector.select

    def look(self: selectors.DefaultSelector, timeout: float | None = None) -> object:
        return select(self, LOOK if timeout is None else min(LOOK, timeout))

    time.monotonic = lambda: monotonic() + struct.unpack_from("d", ahead)[0]
    selector.select = look  # type: ignore[method-assign, assignment]
    from deviceplugin.cli import main

    main()
