"""Waiting for what the machine does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 120.0
"""Seconds; far more than anything takes, since a machine without KVM in a busy one is slow."""


def wait_until(condition: Callable[[], bool], what: str, *, patience: float = PATIENCE) -> None:
    """Return as soon as ``condition()`` holds.

    Raises:
        AssertionError: it did not within ``patience`` seconds; ``what`` says what was awaited.
    """
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {patience:g} s"
        time.sleep(0.05)
