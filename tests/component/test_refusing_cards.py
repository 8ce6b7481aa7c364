"""Cards that refuse what their counts say is free, seen by pods and the administrator."""

from __future__ import annotations

import errno

import pytest

from deviceplugin.simulator.kubelet.kubelet import AdmissionError
from tests.component.conftest import Begin
from tests.component.test_seen_from_outside import ask, started, value
from tests.component.world import BACK_OFF, NEVER, World

TWO = """
models:
  gpu:
    driver: gpu
    bus: pci
    pools: {memory: 8}
    types:
    - {id: large, takes: {memory: 4}}
    - {id: small, takes: {memory: 1}}
cards:
- {model: gpu, address: "0000:01:00.0"}
- {model: gpu, address: "0000:02:00.0"}
"""
DEAD, GOOD = "0000:01:00.0", "0000:02:00.0"
LARGE, SMALL = "vfio.dev/large", "vfio.dev/small"
FUNCTIONS = """
models:
  big:
    driver: nvidia
    bus: pci
    vendor: 0x10de
    device: 0x2235
    vfs: 32
    pools: {framebuffer: 48}
    attributes:
      nvidia/vgpu_params: {access: rw, initial: "\\n", chops: true}
    types:
    - id: nvidia-905
      name: NVIDIA BIG-4Q
      description: num_heads=4, frl_config=60, framebuffer=4096M, max_resolution=7680x4320, max_instance=12
      takes: {framebuffer: 4}
      max: 12
cards:
- {model: big, address: "0000:10:00.0", numa: 0, repeat: 4}
- {model: big, address: "0000:90:00.0", numa: 1, repeat: 4}
"""
"""Twelve on each of eight cards with 32 functions."""
BIG = "vfio.dev/nvidia-905"


async def refuses(world: World, name: str, resource: str) -> str:
    with pytest.raises(AdmissionError) as refused:
        await world.run_pod({resource: 1}, name=name)
    return str(refused.value)


async def test_a_card_that_refuses_is_not_offered_after_the_first_pod_that_it_cost(begin: Begin) -> None:
    world = await begin(text=TWO, config=NEVER)
    await world.until(lambda: world.allocatable(LARGE) == {LARGE: 4})
    world.node.fault("fail-create", parent=DEAD, errno=errno.EINVAL)
    for number in range(2):
        await world.run_pod({LARGE: 1}, name=f"good-{number}")
    await world.until(lambda: world.allocatable(LARGE) == {LARGE: 2})
    for number in range(25):
        await refuses(world, f"failed-{number}", LARGE)
    # Whatever the kubelet did not stop came to the agent, and the card was asked once.
    assert len(world.logged("card refuses a type that it counts as free: it is not offered for now")) == 1
    assert world.allocatable(LARGE) == {LARGE: 2}


async def test_a_card_that_refuses_one_type_goes_on_taking_another(begin: Begin) -> None:
    world = await begin(text=TWO, config=NEVER)
    await world.until(lambda: world.allocatable(LARGE, SMALL) == {LARGE: 4, SMALL: 16})
    for card in (DEAD, GOOD):
        world.node.fault("fail-create", parent=card, type="large", errno=errno.ENOSPC)
    why = await refuses(world, "failed", LARGE)
    assert f"large on {DEAD}: ENOSPC" in why
    assert f"large on {GOOD}: ENOSPC" in why
    await world.until(lambda: world.allocatable(LARGE, SMALL) == {LARGE: 0, SMALL: 16})
    await world.run_pod({SMALL: 1}, name="small")


async def test_an_answer_that_says_nothing_of_room_is_not_remembered(begin: Begin) -> None:
    world = await begin(text=TWO, config=NEVER)
    await world.until(lambda: world.allocatable(LARGE) == {LARGE: 4})
    world.node.fault("fail-create", errno=errno.EAGAIN)
    await refuses(world, "failed", LARGE)
    world.node.clear_faults()
    for number in range(4):
        await world.run_pod({LARGE: 1}, name=f"pod-{number}")
    assert not world.logged("card refuses a type that it counts as free: it is not offered for now")


async def test_a_card_that_works_again_is_tried_with_one_device_and_then_offered_whole(begin: Begin) -> None:
    world, port = await started(begin, text=TWO, config=NEVER, moved_clock=True)
    await world.until(lambda: world.allocatable(SMALL) == {SMALL: 16})
    world.node.fault("fail-create", errno=errno.EIO)
    await refuses(world, "failed", SMALL)
    await world.until(lambda: world.allocatable(SMALL) == {SMALL: 0})
    _, page = await ask(port, "/metrics")
    assert value(page, "mdev_refusals_total", card=DEAD, errno="EIO") == 1
    assert value(page, "mdev_refused_since_timestamp_seconds", card=DEAD, type="small", errno="EIO") > 0
    world.node.clear_faults()
    world.time_passes(BACK_OFF)
    await world.until(lambda: world.allocatable(SMALL) == {SMALL: 2})
    await world.run_pod({SMALL: 1}, name="try")
    # One card is whole again, and the other one may be tried.
    await world.until(lambda: world.allocatable(SMALL) == {SMALL: 9})
    assert len(world.logged("card counts as refusing a type no more")) == 1


@pytest.mark.parametrize("seconds", [0.0, 0.25, 1.0])
async def test_a_dead_card_of_eight_costs_no_pod(begin: Begin, seconds: float) -> None:
    world = await begin(text=FUNCTIONS, config=NEVER)
    await world.until(lambda: world.allocatable(BIG) == {BIG: 96})
    dead = world.node.node.cards[0]
    for parent in dead.parents:
        world.node.fault("fail-create", parent=parent, errno=errno.EIO)
        if seconds:
            world.node.fault("slow-create", parent=parent, seconds=seconds)
    for number in range(3):
        await world.run_pod({BIG: 1}, name=f"pod-{number}")
    await world.until(lambda: world.allocatable(BIG) == {BIG: 84})
    assert not {device.parent for device in world.devices.values()}.intersection(dead.parents)


async def test_what_many_functions_of_a_card_refused_is_told_in_a_short_sentence(begin: Begin) -> None:
    world = await begin(text=FUNCTIONS, config=NEVER)
    await world.until(lambda: world.allocatable(BIG) == {BIG: 96})
    world.node.fault("fail-create", errno=errno.EIO)
    why = await refuses(world, "failed", BIG)
    assert "functions of 0000:" in why
    assert why.count("EIO") <= 8
