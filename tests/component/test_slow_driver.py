"""A driver that takes its time holds up nobody else, and what it makes too late is taken away again."""

from __future__ import annotations

import asyncio
import errno
import time

import grpc.aio
import pytest

from deviceplugin.simulator.kubelet.kubelet import AdmissionError
from tests.component.conftest import Begin
from tests.component.world import BACK_OFF, NEVER, allocate_request, slot, vfio

DEADLINE = 6.0
"""Seconds: the kubelet's sync loop waits for an Allocate, and stops doing anything else."""


async def test_a_create_that_hangs_is_answered_in_time_and_cleaned_up_when_it_comes(begin: Begin) -> None:
    world = await begin(config=NEVER, agent=False)
    await world.start_agent(moved_clock=True)
    await world.offers(mdpy_hd=4, mdpy_vga=4, mtty_1=24, mbochs_large=4)
    world.node.fault("slow-create", parent="mdpy", seconds=11.0, times=1)
    async with world.plugin(vfio("mtty-1")) as mtty, world.plugin(vfio("mdpy-vga")) as vga:
        hanging = asyncio.create_task(world.admit("mdpy-hd"))
        await world.until(lambda: world.creates_under_way)
        # The other card serves, every stream goes on, and the kubelet's other questions are answered.
        await mtty.Allocate(allocate_request([slot(vfio("mtty-1"), 7)]))
        await world.offers(mtty_1=24, mtty_2=11)
        assert not hanging.done()
        world.time_passes(DEADLINE)
        with pytest.raises(AdmissionError, match="the node took more than 6 s to answer"):
            await hanging
        # Nobody else is made to wait for the card that hangs.
        with pytest.raises(grpc.aio.AioRpcError, match="its card has not yet finished an earlier create"):
            await vga.Allocate(allocate_request([slot(vfio("mdpy-vga"))]))
        # Nor is anybody sent to it.
        await world.offers(mdpy_hd=0, mdpy_vga=0, mtty_1=24)
        assert world.creates_under_way
    await world.says("device of a failed request removed", device=slot(vfio("mdpy-hd")))
    await world.until(lambda: {device.type for device in world.devices.values()} == {"mtty-1"})
    await world.offers(mdpy_hd=4)
    await world.run_pod({vfio("mdpy-hd"): 2}, name="next")


async def test_a_slow_card_holds_up_no_allocation_on_another(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mdpy_hd=4, mtty_1=24)
    world.node.fault("slow-create", parent="mdpy", seconds=3.0, times=1)
    async with world.plugin(vfio("mdpy-hd")) as slow, world.plugin(vfio("mtty-1")) as quick:
        waiting = asyncio.ensure_future(slow.Allocate(allocate_request([slot(vfio("mdpy-hd"))])))
        await world.until(lambda: world.creates_under_way)
        began = time.monotonic()
        await quick.Allocate(allocate_request([slot(vfio("mtty-1"))]))
        took = time.monotonic() - began
        assert not waiting.done()
        print(f"beside a slow create: {took * 1000:.0f} ms")
        await waiting


async def test_a_kubelet_that_gives_up_waiting_leaves_nothing_behind(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mdpy_hd=4)
    world.node.fault("slow-create", parent="mdpy", seconds=0.6, times=1)
    async with world.plugin(vfio("mdpy-hd")) as plugin:
        with pytest.raises(grpc.aio.AioRpcError, match="Deadline"):
            await plugin.Allocate(allocate_request([slot(vfio("mdpy-hd"))]), timeout=0.2)
        await world.says("device of a failed request removed")
        await world.offers(mdpy_hd=4)
        assert not world.devices
        await plugin.Allocate(allocate_request([slot(vfio("mdpy-hd"))]))
        assert len(world.devices) == 1


async def test_a_device_that_is_still_being_made_goes_to_nobody_else(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mdpy_hd=4)
    world.node.fault("slow-create", parent="mdpy", seconds=2, times=1)
    async with world.plugin(vfio("mdpy-hd")) as plugin:
        with pytest.raises(grpc.aio.AioRpcError, match="Deadline"):
            await plugin.Allocate(allocate_request([slot(vfio("mdpy-hd"))]), timeout=0.2)
        with pytest.raises(grpc.aio.AioRpcError, match="is still being made on mdpy for an earlier request"):
            await plugin.Allocate(allocate_request([slot(vfio("mdpy-hd"))]))
        await world.says("device of a failed request removed")


async def test_a_create_that_fails_late_is_forgotten_when_the_card_is_tried_again(begin: Begin) -> None:
    world = await begin(config=NEVER, agent=False)
    await world.start_agent(moved_clock=True)
    await world.offers(mdpy_hd=4)
    world.node.fault("fail-create", parent="mdpy", errno=errno.EIO, times=1)
    world.node.fault("slow-create", parent="mdpy", seconds=0.6, times=1)
    async with world.plugin(vfio("mdpy-hd")) as plugin:
        with pytest.raises(grpc.aio.AioRpcError, match="Deadline"):
            await plugin.Allocate(allocate_request([slot(vfio("mdpy-hd"))]), timeout=0.2)
        await world.until(lambda: not world.node.state.devices)
        await world.says("card refuses a type that it counts as free", card="mdpy")
        world.time_passes(BACK_OFF)
        await world.offers(mdpy_hd=1)
        await plugin.Allocate(allocate_request([slot(vfio("mdpy-hd"))]))
        await world.offers(mdpy_hd=4)


async def test_the_same_device_asked_for_twice_at_once_is_made_once(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mdpy_hd=4)
    world.node.fault("slow-create", parent="mdpy", seconds=0.3, times=1)
    ids = [slot(vfio("mdpy-hd"), index) for index in range(2)]
    async with world.plugin(vfio("mdpy-hd")) as plugin:
        answers = await asyncio.gather(
            plugin.Allocate(allocate_request(ids)),
            plugin.Allocate(allocate_request(ids[::-1])),
            plugin.Allocate(allocate_request(ids[1:])),
        )
    assert set(world.devices) == set(ids)
    assert len(world.logged("device created")) == 2
    assert answers[0] == answers[1]


async def test_many_requests_at_once_all_fit_or_are_told_why_not(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24, mtty_2=12)
    async with world.plugin(vfio("mtty-1")) as one, world.plugin(vfio("mtty-2")) as two:
        results = await asyncio.gather(
            *(one.Allocate(allocate_request([slot(vfio("mtty-1"), i)])) for i in range(24)),
            *(two.Allocate(allocate_request([slot(vfio("mtty-2"), i)])) for i in range(12)),
            return_exceptions=True,
        )
    ports = sum(int(device.type[-1]) for device in world.devices.values())
    assert ports >= 23
    assert sum(not isinstance(result, BaseException) for result in results) == len(world.devices)
