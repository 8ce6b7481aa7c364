"""The end of an agent, asked for or not: nothing is cut off, nothing is lost, nothing leaks."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import threading
import time
import uuid

import pytest

from deviceplugin.simulator.kubelet.kubelet import AdmissionError, StartError
from tests.component.conftest import Begin
from tests.component.world import NEVER, vfio

QUICK = "reclaim: {grace: 500ms, interval: 100ms}"
PATIENT = """
import sys
from deviceplugin.kubelet import service
service.FINISH = 3600.0
from deviceplugin.cli import main
sys.exit(main())
"""
"""An agent that, should anything be under way, waits far too long for it."""


async def test_an_idle_agent_ends_at_once_and_takes_its_sockets_with_it(begin: Begin) -> None:
    world = await begin(agent=False)
    await world.start_agent(code=PATIENT)
    await world.offers(mdpy_hd=4)
    pod = await world.run_pod({vfio("mdpy-hd"): 2})
    took = await world.stop_agent()
    print(f"ended after {took * 1000:.0f} ms")
    assert not world.sockets()
    assert set(world.devices) == world.ids(pod)


async def test_an_interrupt_ends_it_as_well(begin: Begin) -> None:
    world = await begin()
    await world.offers(mdpy_hd=4)
    world.signal_agent(signal.SIGINT)
    await world.agent_ends()
    assert not world.sockets()


async def test_an_agent_without_a_kubelet_ends_at_once(begin: Begin) -> None:
    world = await begin(kubelet=False)
    await world.says("starting")
    await world.stop_agent()


async def test_an_agent_whose_kubelet_hangs_ends_at_once(begin: Begin) -> None:
    world = await begin(agent=False)
    world.kubelet.hang_registration()
    await world.start_agent()
    await world.kubelet.wait_for(lambda: world.kubelet.calls["Register"] >= 8)
    await world.stop_agent()
    assert not world.sockets()
    world.kubelet.hang_registration(on=False)


async def test_an_end_amid_changes_on_the_node_is_a_quiet_one(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24)
    ended = threading.Event()

    def stir() -> None:
        while not ended.is_set():
            device = str(uuid.uuid4())
            for parent, type_id in (("mtty", "mtty-1"), ("mdpy", "mdpy-hd"), ("mbochs", "mbochs-small")):
                world.create(parent, type_id, device)
                world.remove(device)

    stirring = asyncio.create_task(asyncio.to_thread(stir))
    try:
        for _ in range(4):
            await world.stop_agent()
            await world.start_agent()
            await world.until(lambda: len(world.sockets()) == 8)
    finally:
        ended.set()
        await stirring
    assert "Traceback" not in world.raw_log


async def test_an_allocate_under_way_is_not_cut_off(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mdpy_hd=4, mtty_1=24)
    world.node.fault("slow-create", parent="mdpy", seconds=1.5, times=1)
    admission = asyncio.create_task(world.admit("mdpy-hd"))
    await world.until(lambda: world.creates_under_way)
    took = await world.stop_agent()
    print(f"with an Allocate under way ended after {took:.2f} s")
    pod = await admission
    assert set(world.devices) == world.ids(pod)
    assert not world.sockets()


async def test_a_start_under_way_is_not_cut_off(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mdpy_hd=4)
    pod = await world.admit("mdpy-hd")
    (device,) = world.ids(pod)
    world.remove(device)
    world.node.fault("slow-create", parent="mdpy", seconds=1.0, times=1)
    start = asyncio.create_task(world.kubelet.start_containers(pod))
    await world.until(lambda: world.creates_under_way)
    await world.stop_agent()
    await start
    assert device in world.devices


async def test_a_create_that_hangs_does_not_keep_it(begin: Begin) -> None:
    world = await begin(config=QUICK)
    await world.offers(mdpy_hd=4)
    world.node.fault("slow-create", parent="mdpy", seconds=30, times=1)
    admission = asyncio.create_task(world.admit("mdpy-hd"))
    await world.until(lambda: world.creates_under_way)
    took = await world.stop_agent()
    print(f"with a create that hangs ended after {took:.2f} s")
    # It may hang up, as its list ends, before it has read the answer.
    with pytest.raises(AdmissionError):
        await admission
    assert [said for said in world.logged("request refused") if "the agent ends" in said["event"]]
    assert not world.sockets()
    # What became of the create is for the next agent to clear up.
    await world.start_agent()
    await world.offers(mdpy_hd=4)
    await world.until(lambda: not world.node.state.devices)


@pytest.mark.parametrize("seed", range(3))
async def test_an_end_that_is_asked_for_at_any_moment_of_the_start_goes_well(begin: Begin, seed: int) -> None:
    world = await begin(agent=False)
    moments = random.Random(seed)
    for _ in range(2):
        began = len(world.logged("starting"))
        await world.start_agent()
        await world.until(lambda: len(world.logged("starting")) > began)
        begun, pause = time.monotonic(), moments.uniform(0.005, 0.06)
        await world.until(lambda: time.monotonic() - begun > pause)
        await world.stop_agent()
        assert not world.sockets()


@pytest.mark.parametrize("seed", range(4))
async def test_a_kill_at_any_moment_costs_no_pod_its_device_and_leaks_nothing(
    begin: Begin, seed: int
) -> None:
    world = await begin(config=QUICK, seed=seed)
    moments = random.Random(seed)
    await world.offers(mdpy_hd=4, mtty_1=24)
    kept = await world.run_pod({vfio("mdpy-hd"): 1, vfio("mtty-1"): 2}, name="kept")
    for device in world.ids(kept):
        world.mark(device)
    for number in range(3):
        admission = asyncio.create_task(world.run_pod({vfio("mtty-1"): 8}, name=f"p{number}"))
        begun, pause = time.monotonic(), moments.uniform(0.0, 0.04)
        await world.until(lambda: time.monotonic() - begun > pause)
        await world.kill_agent()
        with contextlib.suppress(AdmissionError, StartError):
            await admission
        for pod in world.kubelet.pods:
            if pod is not kept:
                await world.kubelet.force_delete(pod)
        await world.start_agent()
        await world.offers(mtty_1=24)
    await world.until(
        lambda: world.devices.keys() == world.ids(kept), "only the running pod's devices are left"
    )
    assert all(world.is_marked(device) for device in world.ids(kept))
    await world.offers(mtty_1=24, mtty_2=11, mdpy_vga=3)
    await world.until(lambda: len(world.sockets()) == 8)


async def test_a_kill_in_the_middle_of_an_allocate_leaves_what_the_next_agent_takes_back(
    begin: Begin,
) -> None:
    world = await begin(text=TWO, config=QUICK)
    await world.offers(thing=8)
    world.node.fault("slow-create", parent="second", seconds=30, times=1)
    admission = asyncio.create_task(world.admit({vfio("thing"): 8}))
    await world.until(lambda: len(world.devices) == 4 and world.creates_under_way)
    await world.kill_agent()
    with pytest.raises(AdmissionError):
        await admission
    assert len(world.devices) == 4
    await world.start_agent()
    await world.until(lambda: not world.devices)
    await world.offers(thing=8)
    await world.run_pod({vfio("thing"): 8}, name="next")


TWO = """
models:
  m: {driver: d, pools: {p: 4}, types: [{id: thing, takes: {p: 1}}]}
cards:
- {model: m, address: first}
- {model: m, address: second}
"""


async def test_a_kill_in_the_middle_of_a_removal_is_got_over(begin: Begin) -> None:
    world = await begin(config=QUICK)
    await world.offers(mtty_1=24, mtty_2=12)
    pod = await world.run_pod({vfio("mtty-1"): 20})
    await world.kubelet.delete(pod)
    await world.says("device removed")
    await world.kill_agent()
    await world.start_agent()
    await world.until(lambda: not world.devices)
    await world.offers(mtty_1=24, mtty_2=12)


async def test_two_agents_by_mistake_do_each_other_and_the_pods_no_harm(begin: Begin) -> None:
    # A kubelet before that may take the end of the first for the end of the second, and says nothing of it.
    world = await begin(config=QUICK, version="1.37")
    await world.offers(mdpy_hd=4)
    pod = await world.run_pod("mdpy-hd")
    first, world._agent = world._agent, None
    await world.start_agent()
    await world.until(lambda: len(world.logged("starting")) == 2)
    await world.until(lambda: len(world.logged("registered", resource=vfio("mdpy-hd"))) >= 2)
    second, world._agent = world._agent, first
    await world.stop_agent()
    world._agent = second
    await world.offers(mdpy_hd=4)
    assert set(world.devices) == world.ids(pod)
