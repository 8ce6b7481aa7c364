"""Devices that come late, and devices that go so that others can come."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, cast

import pytest

from deviceplugin.inventory.placement import Seat
from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.snapshot import Device
from deviceplugin.ledger import Ledger
from deviceplugin.making import Maker

if TYPE_CHECKING:
    from deviceplugin.host.node import Node

UUID = "6d646576-0000-8000-8000-000000000001"
SEAT = Seat("parent", "card", "type", aligned=True)


class Hanging:
    """A node whose driver takes as long as it is told to."""

    def __init__(self) -> None:
        self.goes_on = asyncio.Event()
        self.removed: list[str] = []

    async def create(self, parent: str, type_id: str, uuid: str) -> Device:
        await self.goes_on.wait()
        return Device(uuid, type_id, parent, 1)

    async def remove_unused(self, uuid: str) -> bool:
        self.removed.append(uuid)
        return True


@pytest.mark.parametrize("handed_over", [False, True])
async def test_a_late_device_is_removed_unless_it_was_handed_over_in_between(handed_over: bool) -> None:
    node, ledger = Hanging(), Ledger(time.monotonic)
    moved = asyncio.Event()
    maker = Maker(cast("Node", node), ledger, on_late=moved.set)
    creating = asyncio.create_task(maker._create(SEAT, UUID, keep=False))
    await asyncio.sleep(0)
    creating.cancel()
    await asyncio.wait({creating})
    moved.clear()
    assert maker.is_late(UUID) == SEAT
    async with asyncio.timeout(5):
        async with ledger.lock(UUID):
            node.goes_on.set()
            await moved.wait()
            if handed_over:
                ledger.handed_over(UUID, 1)
        await asyncio.gather(*maker._background)
    assert node.removed == ([] if handed_over else [UUID])


async def test_a_device_that_is_removed_to_be_renewed_was_not_pulled() -> None:
    ledger = Ledger(time.monotonic)
    ledger.handed_over(UUID, 1)
    await Maker(cast("Node", Hanging()), ledger).remove_used(Resource(name="a.b/c", types=("type",)), UUID)
    ledger.vanished([UUID], held=())
    assert not ledger.pulled
