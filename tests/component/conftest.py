"""The whole agent as a process, over real sockets, on a simulated node."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.component.world import TUNED, World


class Begin(Protocol):
    """Makes a world; the agent and the kubelet run already unless told otherwise."""

    async def __call__(
        self,
        node: str | Path = "samples",
        *,
        text: str | None = None,
        config: str = TUNED,
        agent: bool = True,
        kubelet: bool = True,
        **options: Any,
    ) -> World: ...


@pytest.fixture
async def begin() -> AsyncIterator[Begin]:
    """Worlds that end with the test: nothing may have gone wrong in them that a node would suffer from."""
    # A socket's path ends at 107 bytes, and pytest's directories are too deep for that.
    directory = Path(tempfile.mkdtemp(prefix="mdev-", dir="/tmp"))
    worlds: list[World] = []

    async def begin_one(
        node: str | Path = "samples",
        *,
        text: str | None = None,
        config: str = TUNED,
        agent: bool = True,
        kubelet: bool = True,
        **options: Any,
    ) -> World:
        place = directory / str(len(worlds))
        place.mkdir()
        world = World(place, node, config=config, text=text, kubelet=options)
        worlds.append(world)
        if kubelet:
            await world.kubelet.start()
        if agent:
            await world.start_agent()
        return world

    yield begin_one
    wrong = [problem for world in worlds for problem in await world.end()]
    logs = "".join(world.raw_log for world in worlds)
    shutil.rmtree(directory)
    print(logs)
    assert not wrong, "\n".join(wrong)
