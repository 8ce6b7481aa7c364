"""How a story is told: in plain lines here, in a live view in ``screen``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Show(Protocol):
    """Somebody tells, somebody follows; each call returns when the next may come."""

    async def chapter(self, title: str) -> None:
        """A part of the story begins."""
        ...

    async def say(self, line: str) -> None:
        """Something happened."""
        ...

    async def quote(self, line: str) -> None:
        """What somebody else wrote: the agent's log, an environment."""
        ...


class Plain:
    """Tells in plain lines, as fast as it goes."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._chapter = 0

    async def chapter(self, title: str) -> None:
        self._chapter += 1
        self._write(f"{self._chapter}. {title}")

    async def say(self, line: str) -> None:
        self._write(f"   {line}")

    async def quote(self, line: str) -> None:
        self._write(f"     | {line}")
