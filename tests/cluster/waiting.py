"""Waiting for what a cluster does in its own time: a check is repeated until it holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from tests.cluster.commands import Refused

PATIENCE = 60.0
"""Seconds; several times what a kubelet takes at most, which tells the node's status every ten."""
_PAUSE = 0.2

T = TypeVar("T")


class Never(Exception):
    """What is waited for will not come any more; the message says why."""


def eventually(check: Callable[[], T], *, within: float = PATIENCE) -> T:
    """What ``check()`` returns, as soon as it raises neither AssertionError nor Refused.

    What else it raises, Never for instance, ends the waiting.

    Raises:
        AssertionError: it still did after ``within`` seconds; the last reason is told.
    """
    deadline = time.monotonic() + within
    while True:
        try:
            return check()
        except (AssertionError, Refused) as reason:
            if time.monotonic() >= deadline:
                raise AssertionError(f"not within {within:g} s: {reason}") from reason
        time.sleep(_PAUSE)


def until(condition: Callable[[], bool], what: str, *, within: float = PATIENCE) -> None:
    """Return as soon as ``condition()`` holds; ``what`` says what is awaited."""

    def holds() -> None:
        assert condition(), what

    eventually(holds, within=within)
