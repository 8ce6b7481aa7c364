"""Running other programs: kubectl, helm, and what reaches a node."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

DEADLINE = 120.0
"""Seconds that a program may take; none of those here takes half of it."""


class Refused(Exception):
    """A program that did not succeed; the message has its command and what it said."""


def run(command: Sequence[str], *, given: str = "", within: float = DEADLINE) -> str:
    """What a program prints.

    Args:
        given: its standard input.

    Raises:
        Refused: it failed, or did not end within so many seconds.
    """
    shown = " ".join(command)
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=within, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Refused(f"{shown}: did not end within {within:g} s") from error
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise Refused(f"{shown}: ended with {done.returncode}: {said}")
    return done.stdout
