"""Devices that come late, and devices that go so that others can come."""

from __future__ import annotations

import asyncio
import errno
import time
import uuid
from pathlib import Path
from typing import cast

import pytest

from deviceplugin.errors import HostError, NoRoom
from deviceplugin.host import mdev
from deviceplugin.host.node import Node
from deviceplugin.inventory.placement import Seat
from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.snapshot import Device
from deviceplugin.ledger import Ledger
from deviceplugin.simulator.node.description import load
from deviceplugin.simulator.node.kernel import SimulatedKernel
from tests import parts

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

    async def find(self, uuid: str) -> Device | None:  # noqa: ARG002
        return None

    async def remove_unused(self, uuid: str) -> bool:
        self.removed.append(uuid)
        return True


@pytest.mark.parametrize("handed_over", [False, True])
async def test_a_late_device_is_removed_unless_it_was_handed_over_in_between(handed_over: bool) -> None:
    node, ledger = Hanging(), Ledger(time.monotonic)
    moved = asyncio.Event()
    maker = parts.maker(cast("Node", node), ledger, on_late=moved.set)
    creating = asyncio.create_task(maker._create(SEAT, UUID, keep=False))
    await asyncio.sleep(0)
    creating.cancel()
    await asyncio.wait({creating})
    moved.clear()
    assert maker.is_late(UUID) == SEAT
    async with asyncio.timeout(60):
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
    maker = parts.maker(cast("Node", Hanging()), ledger)
    await maker.remove_used(Resource(name="a.b/c", types=("type",)), UUID)
    ledger.vanished([UUID], held=())
    assert not ledger.pulled


async def test_room_that_nobody_told_of_is_looked_for_before_a_request_is_refused(tmp_path: Path) -> None:
    kernel = SimulatedKernel.build(tmp_path / "node", load("samples"))
    foreign = [str(uuid.uuid4()) for _ in range(4)]
    for device in foreign:
        mdev.create(kernel, "mdpy", "mdpy-hd", device)
    node = parts.node(kernel)
    await node.rescan()
    maker = parts.maker(node, Ledger(time.monotonic))
    resource = Resource(name="a.b/c", types=("mdpy-hd",))
    with pytest.raises(NoRoom, match="is full"):
        await maker.make(resource, [UUID], made=[])
    kernel.write(kernel.paths.remove(foreign[0]), "1")
    made = await maker.make(resource, [UUID], made=[])
    assert made[UUID].type == "mdpy-hd"


@pytest.mark.parametrize("remembered", [False, True])
async def test_a_request_that_cards_refuse_for_long_ends_before_its_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remembered: bool
) -> None:
    node = parts.node(SimulatedKernel.build(tmp_path / "node", load("s390")))
    await node.rescan()
    passed, tried = 0.0, 0

    async def refuse(parent: str, type_id: str, uuid: str) -> Device:  # noqa: ARG001
        nonlocal passed, tried
        passed += 1.0
        tried += 1
        raise HostError(f"{parent}: EIO") from OSError(errno.EIO, "")

    monkeypatch.setattr(node, "create", refuse)
    maker = parts.maker(node, Ledger(time.monotonic), clock=lambda: passed)
    resource = Resource(name="a.b/c", types=("vfio_ccw-io",))
    with pytest.raises(NoRoom) as refusal:
        await maker.make(resource, [UUID], made=[], keep=remembered)
    if remembered:
        # What the kubelet gave a container already has more time, and no other card than these.
        assert tried >= len(node.snapshot.cards) - 1
        return
    assert str(refusal.value).endswith("EIO; there was no time to try any others")
    # The sixth second of a request is its last.
    assert 1 < tried < 6
