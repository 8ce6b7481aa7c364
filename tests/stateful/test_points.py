"""At each place where an agent can end, one ends, and the next one takes everything up."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest

from tests.stateful.history import History, history, pod
from tests.stateful.node import CONFIGURATIONS
from tests.stateful.nursery import Nursery
from tests.stateful.points import POINTS, Order

SERIAL = "x.dev/any-serial"


@pytest.fixture
async def nursery() -> AsyncIterator[Nursery]:
    one = Nursery()
    yield one
    await one.close()


def one_of(resource: str) -> int:
    """The index of a resource in the second configuration."""
    return CONFIGURATIONS[1][1].index(resource)


async def _live_until_killed(one: History) -> None:
    """Pods come and go, agents and streams too, until the agent has died of the order."""
    for number in itertools.count():
        assert number < 20, "the place was never reached"
        await one.kubelet_up()
        if number % 2:
            await one.end_stream(SERIAL)
        await one.bring(pod(f"p{number}", {SERIAL: 1}))
        for life in one.lives[1:]:
            await one.start(life)
            await one.delete(life)
        for _ in range(40):
            if not one.agent_runs:
                return
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("point", POINTS)
async def test_an_agent_killed_there_leaves_nothing_that_the_next_one_does_not_mend(
    nursery: Nursery, point: str
) -> None:
    async with history(nursery, configuration=1) as one:
        await one.listened_to()
        await one.bring(pod("before", {SERIAL: 1}))
        await one.start(one.lives[-1])
        await one.agent_down()
        one.order(Order(point))
        await one.agent_up()

        await _live_until_killed(one)

        one.check()
        assert one.promises.killed == [point]
        await one.fill(one_of(SERIAL))
        assert [life.pod.spec.name for life in one.lives] == ["before"]
        await one.finish()
