"""A driver that does not answer: nothing else stands still, and nothing that was handed on is taken away."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest

from deviceplugin.simulator.kubelet.kubelet import AdmissionError
from tests.component.conftest import Begin
from tests.component.world import NEVER, TUNED, World, allocate_request, slot, vfio

DEADLINE, REMOVE_DEADLINE = 2.0, 1.5
HASTY = f"""
import sys
from deviceplugin import allocation
from deviceplugin.host import node
allocation.DEADLINE, node.REMOVE_DEADLINE = {DEADLINE}, {REMOVE_DEADLINE}
from deviceplugin.cli import main
sys.exit(main())
"""
"""An agent that gives up sooner than usual, since tests don't have all day."""
FOREIGN = "11111111-1111-4111-8111-111111111111"


@contextmanager
def removal_hangs(world: World, *devices: str) -> Iterator[None]:
    """Their groups are free, and the driver keeps whoever removes them waiting."""
    held = [world.node.open_device(device) for device in devices]
    try:
        yield
    finally:
        for fd in held:
            os.close(fd)


HANGING = """
import os, sys, time
from deviceplugin.host import mdev
read = mdev._read
def patiently(path):
    while os.path.exists(os.path.realpath(path) + ".hangs"):
        time.sleep(0.05)
    return read(path)
mdev._read = patiently
from deviceplugin.cli import main
sys.exit(main())
"""
"""An agent whose reads of a file wait for as long as another with ``.hangs`` behind its name is there."""


def hang(world: World, parent: str, type_id: str) -> None:
    """Have the driver keep whoever reads this count waiting."""
    count = (world.node.paths.type(parent, type_id) / "available_instances").resolve()
    count.with_name(f"{count.name}.hangs").touch()


async def begin_hasty(begin: Begin, config: str) -> World:
    world = await begin(config=config, agent=False)
    await world.start_agent(code=HASTY)
    await world.offers(mdpy_hd=4, mtty_1=24)
    return world


async def test_a_device_that_waits_to_be_undone_is_handed_to_nobody(begin: Begin) -> None:
    world = await begin_hasty(begin, NEVER)
    world.node.fault("slow-create", parent="mdpy", seconds=0.3)
    request = asyncio.create_task(world.admit({vfio("mdpy-hd"): 3}, name="refused"))
    await world.until(lambda: len(world.devices) == 2)
    first, _ = sorted(world.devices)
    with removal_hangs(world, first):
        world.node.fault("fail-create", parent="mdpy", errno=errno.EIO)
        with pytest.raises(AdmissionError):
            await request
        world.node.clear_faults()
        (mine,) = world.ids(await world.run_pod("mdpy-hd", name="next"))
        await world.says("device of a failed request stays", device=first)
        await world.until(lambda: len(world.devices) == 1, "the rest is undone")
        assert mine in world.devices


async def test_a_request_is_answered_in_time_however_long_its_undoing_takes(begin: Begin) -> None:
    world = await begin_hasty(begin, NEVER)
    world.node.fault("slow-create", parent="mdpy", seconds=0.3)
    began = time.monotonic()
    request = asyncio.create_task(world.admit({vfio("mdpy-hd"): 3}, name="refused"))
    await world.until(lambda: len(world.devices) == 2)
    with removal_hangs(world, *world.devices):
        # The third is refused, and hangs when it is tried again.
        world.node.fault("fail-create", parent="mdpy", errno=errno.EIO, times=1)
        world.node.fault("slow-create", parent="mdpy", seconds=30)
        with pytest.raises(AdmissionError, match="took more than"):
            await request
        assert time.monotonic() - began < DEADLINE + 1
        world.node.clear_faults()


async def test_a_proof_that_took_too_long_is_none(begin: Begin) -> None:
    world = await begin_hasty(begin, TUNED)
    with pytest.raises(AdmissionError):
        await world.kubelet.admit(world.spec({vfio("mdpy-hd"): 2}), reject_after_allocate=True)
    slow, _ = sorted(world.devices)
    with removal_hangs(world, slow):
        await world.until(lambda: slow not in world.devices, "a removal that hangs")
        pod = await world.run_pod("mdpy-hd", name="next")
        (mine,) = world.ids(pod)
        await world.says("device not removed", device=slow, reason="failed")
        await asyncio.sleep(1)
        assert mine in world.devices


async def test_an_agent_starts_and_ends_beside_a_card_that_hangs(begin: Begin) -> None:
    world = await begin(config=NEVER, agent=False)
    hang(world, "mdpy", "mdpy-hd")
    await world.start_agent(code=HANGING)
    await world.offers(mtty_1=24, mbochs_small=64)
    await world.says("a card does not answer", card="mdpy")
    world.signal_agent(signal.SIGTERM)
    await world.agent_ends()


async def test_a_card_that_hangs_holds_up_no_refusal_of_another(begin: Begin) -> None:
    world = await begin(config=NEVER, agent=False)
    await world.start_agent(code=HANGING)
    await world.offers(mdpy_hd=4, mtty_1=24)
    ids = [slot(vfio("mtty-1"), index) for index in range(24)]
    async with world.plugin(vfio("mtty-1")) as plugin:
        await plugin.Allocate(allocate_request(ids[:23]))
        hang(world, "mdpy", "mdpy-hd")
        world.create("mtty", "mtty-1", FOREIGN)
        began = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError, match="no parent could take"):
            await plugin.Allocate(allocate_request(ids[23:]))
        assert time.monotonic() - began < 4


async def test_a_parent_that_comes_back_is_noticed_while_another_hangs(begin: Begin) -> None:
    world = await begin(config=NEVER, agent=False)
    await world.start_agent(code=HANGING)
    await world.offers(mdpy_hd=4, mtty_1=24)
    world.node.unregister("mtty")
    await world.offers(mtty_1=0)
    hang(world, "mdpy", "mdpy-hd")
    world.node.register("mtty")
    await world.offers(mtty_1=24)
