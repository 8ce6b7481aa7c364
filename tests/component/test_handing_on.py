"""A device goes from one container to another: as it is if nobody used it, made anew if somebody did."""

from __future__ import annotations

import errno
import time

import grpc
import pytest

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.simulator.kubelet.kubelet import AdmissionError, ContainerSpec, PodSpec
from tests.component.conftest import Begin
from tests.component.world import NEVER, World, allocate_request, slot, vfio


async def test_an_init_containers_device_is_offered_again_as_it_is(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24)
    spec = PodSpec(
        "vm",
        containers=(
            ContainerSpec("prepare", {vfio("mtty-1"): 2}, init=True),
            ContainerSpec("vm", {vfio("mtty-1"): 1}),
        ),
    )
    pod = await world.kubelet.admit(spec)
    assert len(world.devices) == 2
    (own,) = world.ids(pod, "vm")
    assert own in world.ids(pod, "prepare")
    answers = await world.kubelet.start_containers(pod)
    group = f"/dev/vfio/{world.devices[own].group}"
    assert group in {node.container_path for node in answers["prepare"].devices}
    assert group in {node.container_path for node in answers["vm"].devices}
    assert not world.logged("used device removed")


async def test_a_device_of_a_pod_that_was_rejected_goes_to_the_next_as_it_is(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24)
    with pytest.raises(AdmissionError, match="OutOfcpu"):
        await world.kubelet.admit(
            PodSpec("unlucky", containers=(ContainerSpec("c", {vfio("mtty-1"): 1}),)),
            reject_after_allocate=True,
        )
    (device,) = world.devices
    world.mark(device)
    pod = await world.run_pod("mtty-1", name="lucky")
    assert world.ids(pod) == {device}
    assert world.is_marked(device)


async def served_again(world: World) -> str:
    """Have one pod after another get the same device of a node with room for one."""
    pod = await world.run_pod("only")
    (device,) = world.ids(pod)
    world.mark(device)
    await world.kubelet.force_delete(pod)
    return device


ONLY_ONE = """
models:
  m: {driver: d, instances: 1, types: [{id: only}]}
cards:
- {model: m, address: card}
"""


async def test_a_used_device_is_made_anew_for_the_next_pod(begin: Begin) -> None:
    world = await begin(text=ONLY_ONE, config=NEVER)
    await world.offers(only=1)
    device = await served_again(world)
    pod = await world.run_pod("only", name="next")
    assert world.ids(pod) == {device}
    assert not world.is_marked(device)


async def test_a_used_device_is_not_handed_on_while_the_old_vm_has_it(begin: Begin) -> None:
    world = await begin(text=ONLY_ONE, config=NEVER)
    await world.offers(only=1)
    device = await served_again(world)
    with world.vm(device):
        with pytest.raises(AdmissionError, match="still held by the VM that had it before"):
            await world.admit("only", name="too early")
        assert world.is_marked(device)
    await world.run_pod("only", name="in time")
    assert not world.is_marked(device)


async def test_a_device_found_at_start_counts_as_used(begin: Begin) -> None:
    world = await begin(text=ONLY_ONE, config=NEVER)
    await world.offers(only=1)
    pod = await world.admit("only")
    (device,) = world.ids(pod)
    world.mark(device)
    await world.kubelet.force_delete(pod)
    await world.kill_agent()
    await world.start_agent()
    await world.says("registered")
    await world.until(lambda: len(world.logged("registered")) == 2)
    await world.offers(only=1)
    await world.run_pod("only", name="next")
    assert not world.is_marked(device)


async def test_a_device_that_lived_through_a_lost_stream_counts_as_used(begin: Begin) -> None:
    world = await begin(text=ONLY_ONE, config=NEVER)
    await world.offers(only=1)
    pod = await world.admit("only")
    (device,) = world.ids(pod)
    world.mark(device)
    await world.kubelet.kill()
    await world.kubelet.start()
    # A container that starts now does so without PreStartContainer.
    await world.offers(only=1)
    await world.kubelet.force_delete(pod)
    await world.run_pod("only", name="next")
    assert not world.is_marked(device)


async def test_a_device_that_moved_to_another_card_when_it_was_renewed_is_a_new_one(begin: Begin) -> None:
    world = await begin("s390", config=NEVER)
    resource = vfio("vfio_ccw-io")
    (device,) = ids = [slot(resource)]
    async with world.plugin(resource) as plugin:
        await plugin.Allocate(allocate_request(ids))
        for _ in range(10):
            await plugin.PreStartContainer(pb.PreStartContainerRequest(devices_ids=ids))
            await plugin.Allocate(allocate_request(ids))
            world.mark(device)
            # By then the looks are over at the card that it was on and at the one that it is on.
            began = time.monotonic()
            await world.until(lambda: time.monotonic() - began > 0.15)
            await plugin.Allocate(allocate_request(ids))
            assert world.is_marked(device), "an unused device was made anew"


async def test_what_can_not_be_undone_since_something_holds_it_goes_to_nobody(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mdpy_hd=4)
    first, _ = ids = [slot(vfio("mdpy-hd"), index) for index in range(2)]
    world.node.fault("slow-create", parent="mdpy", seconds=0.5)
    async with world.plugin(vfio("mdpy-hd")) as plugin:
        request = plugin.Allocate(allocate_request(ids))
        await world.until(lambda: first in world.devices)
        world.node.fault("fail-create", parent="mdpy", errno=errno.EIO)
        with world.vm(first):
            with pytest.raises(grpc.aio.AioRpcError, match="EIO"):
                await request
            await world.says("device of a failed request stays", device=first)
            world.node.clear_faults()
            with pytest.raises(grpc.aio.AioRpcError, match="is still held by the VM"):
                await plugin.Allocate(allocate_request([first]))
        await plugin.Allocate(allocate_request([first]))
