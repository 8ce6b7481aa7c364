"""How many examples a fuzz test tries, and the bad input that several of them share.

``make test`` tries few, ``make test-fuzz`` ten thousand of each; MDEV_FUZZ_EXAMPLES says another number.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FEW = 30
EXAMPLES = int(os.environ.get("MDEV_FUZZ_EXAMPLES", FEW))

fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    # A failure is told by its example; what ten thousand passed leave behind is of no use.
    database=None,
)
"""Each fuzz test bears it."""

NASTY = (
    *("", ".", "..", "../..", "../../etc/passwd", "/etc/passwd", "a/b", "a//b", "a/", "/", "\0", "a\0b"),
    *("\n", "a\n", " a", "-a", "--help", "%s", "{}", "$(id)", "`id`", ";", "*", "~", "CON", "\ufeff"),
    *("\u202e", "\u2028", "é", "٣", "\x1b[2J", "\udc80", "\ud800", "0", "-1", "1e999", "9" * 400, "x" * 5000),
)
"""Texts that programs have stumbled over."""

texts = st.sampled_from(NASTY) | st.text(max_size=40)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def mutated(valid: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """One of these with some pieces cut out, doubled or replaced."""
    bits = (
        b"",
        b"\0",
        b"\xff",
        b"\n",
        b"  ",
        b"- ",
        b": ",
        b"{",
        b"]",
        b"&a ",
        b"*a",
        b"!!int ",
        b"'",
        b"9" * 30,
    )
    edits = st.lists(
        st.tuples(
            st.floats(0, 1),
            st.integers(0, 12),
            st.sampled_from(bits) | st.binary(max_size=6),
            st.booleans(),
        ),
        min_size=1,
        max_size=4,
    )

    def edit(text: bytes, changes: list[tuple[float, int, bytes, bool]]) -> bytes:
        for place, length, piece, doubled in changes:
            begin = int(place * len(text))
            kept = text[begin : begin + length] if doubled else b""
            text = text[:begin] + kept + piece + kept + text[begin + length :]
        return text

    return st.builds(edit, st.sampled_from(valid), edits)


def is_one_sentence(text: str) -> bool:
    """Whether it is something to show to a person: short, printable and on one line."""
    return 0 < len(text) < 1000 + 5000 and text.splitlines() == [text]
