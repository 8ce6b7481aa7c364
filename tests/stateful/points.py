"""The places at which an agent can be stopped, and how a test says which one is next.

An order is a file that the launched agent looks for at each place; so one that runs already can be told.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

KERNEL = (
    "before create",
    "after create",
    "before remove",
    "after remove",
    "before attribute",
    "after attribute",
    "before claim",
    "after claim",
    "before listening to events",
    "events received",
)
START = ("stale sockets removed", "socket made", "before Register", "after Register", "options asked")
STREAM = ("before a list is sent", "after a list was sent", "a stream ended")
REQUESTS = (
    "preference asked",
    "preference worked out",
    "Allocate asked",
    "Allocate worked out",
    "PreStartContainer asked",
    "PreStartContainer worked out",
)
MEMORY = ("before List", "after List", "before the checkpoint is read", "after the checkpoint was read")
POINTS = (*KERNEL, *START, *STREAM, *REQUESTS, *MEMORY)

Action = Literal["kill", "delay"]


@dataclass(frozen=True, slots=True)
class Order:
    """What is to happen at a place when it is reached for the ``nth`` time from now on."""

    point: str
    nth: int = 1
    action: Action = "kill"
    seconds: float = 0.0


def give(directory: Path, order: Order | None) -> None:
    """Have the agent of that directory obey this order, and no earlier one."""
    path = directory / "order"
    if order is None:
        path.unlink(missing_ok=True)
        return
    aside = directory / "order.new"
    aside.write_text(json.dumps(asdict(order)))
    aside.rename(path)


class Points:
    """The agent's side: what was ordered, and how often its place was reached."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "order"
        self._version: tuple[int, int] | None = None
        self._order: Order | None = None
        self._left = 0

    def reached(self, point: str) -> Order | None:
        """The order that is to be carried out now."""
        try:
            status = Path(self._path).stat()
            version = (status.st_ino, status.st_mtime_ns)
            if version != self._version:
                self._order = Order(**json.loads(self._path.read_text()))
                self._version, self._left = version, self._order.nth
        except FileNotFoundError:
            return None
        if self._order is None or self._order.point != point:
            return None
        self._left -= 1
        return self._order if self._left == 0 else None
