"""The README's picture: what the demo shows today."""

from __future__ import annotations

import pytest


async def test_the_picture_shows_what_the_demo_shows() -> None:
    pytest.importorskip("rich")
    from tests.documents.picture import FILE, picture

    assert await picture() == FILE.read_text("utf-8"), "make picture writes it anew"
