"""The end of ``run``, when all that is the agent's has ended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest

from deviceplugin.cli import run

if TYPE_CHECKING:
    from deviceplugin.agent import Agent


class Leaving:
    """An agent that leaves something running, as gRPC does with calls whose server has ended."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def run(self, _ended: asyncio.Event) -> None:
        self.left = asyncio.create_task(asyncio.sleep(self._seconds))


def test_what_grpc_leaves_ends_by_itself_since_it_complains_of_being_cancelled() -> None:
    agent = Leaving(0.1)
    asyncio.run(run._until_told(cast("Agent", agent)))
    assert agent.left.done()
    assert not agent.left.cancelled()


def test_what_never_ends_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "LAST_MOMENT", 0.01)
    agent = Leaving(3600)
    asyncio.run(run._until_told(cast("Agent", agent)))
    assert agent.left.cancelled()
