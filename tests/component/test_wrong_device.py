"""No container starts with a device that is another's, or that is not ready."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from deviceplugin.simulator.kubelet.kubelet import ContainerSpec, PodSpec, StartError
from tests.component.conftest import Begin
from tests.component.world import NEVER, allocate_request, slot, vfio

FOREIGN = "11111111-1111-4111-8111-111111111111"
PREPARED = """
discovery: {include: []}
resources: [{name: a.b/c, types: [nvidia-222], attributes: {nvidia/vgpu_params: frame_rate_limiter=0}}]
"""
ONLY = """
models:
  model:
    driver: driver
    instances: 2
    types: [{id: only}]
cards:
- {model: model, address: card}
"""
BUSY_ONCE = """
import sys
from deviceplugin.simulator.node.kernel import SimulatedKernel
open_group, calls = SimulatedKernel.open_group, []
def busy_once(self, group):
    calls.append(group)
    if len(calls) == 1:
        raise OSError(16, "EBUSY")
    return open_group(self, group)
SimulatedKernel.open_group = busy_once
from deviceplugin.cli import main
sys.exit(main())
"""
SLOW_ATTRIBUTES = """
import sys, time
from deviceplugin.simulator.node.kernel import SimulatedKernel
write = SimulatedKernel.write
def slow(self, path, text):
    if str(path).endswith("vgpu_params"):
        time.sleep(30)
    return write(self, path, text)
SimulatedKernel.write = slow
from deviceplugin.cli import main
sys.exit(main())
"""


async def test_a_device_that_could_not_be_prepared_is_not_handed_out_later(begin: Begin) -> None:
    config = "discovery: {include: []}\nresources: [{name: a.b/c, types: [only], attributes: {nosuch: x}}]"
    world = await begin(text=ONLY, agent=False, config=f"{NEVER}\n{config}")
    await world.start_agent(code=BUSY_ONCE)
    async with world.plugin("a.b/c") as plugin:
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError, match="attribute 'nosuch' refused"):
                await plugin.Allocate(allocate_request([slot("a.b/c")]))


async def test_a_repair_that_a_kill_cut_short_is_finished(begin: Begin) -> None:
    world = await begin(node="nvidia-t4", config=NEVER + PREPARED)
    await world.until(lambda: world.kubelet.allocatable("a.b/c"))
    pod = await world.run_pod({"a.b/c": 1})
    (device,) = world.ids(pod)
    group = world.devices[device].group
    await world.kill_agent()
    await world.beside(lambda: world.node.reboot(first_group=group))
    await world.start_agent(code=SLOW_ATTRIBUTES)
    await world.kubelet.reboot()
    await world.until(lambda: world.kubelet.allocatable("a.b/c"))
    await world.kubelet.readmit(pod)
    start = asyncio.create_task(world.kubelet.start_containers(pod))
    await world.until(lambda: device in world.devices)
    await world.kill_agent()
    with pytest.raises(StartError):
        await start
    await world.kubelet.wait_for(lambda: not world.kubelet.allocatable("a.b/c"))
    await world.start_agent()
    await world.until(lambda: world.kubelet.allocatable("a.b/c"))
    await world.kubelet.start_containers(pod)
    params = (world.node.paths.device(device) / "nvidia/vgpu_params").read_text()
    assert "frame_rate_limiter=0" in params


async def test_devices_that_swapped_their_groups_start_no_container(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24, mdpy_hd=4)
    containers = (
        ContainerSpec("prepare", {vfio("mtty-1"): 2}, init=True),
        ContainerSpec("vm", {vfio("mtty-1"): 1}),
    )
    pod = await world.kubelet.admit(PodSpec("vm", containers=containers))
    await world.kill_agent()
    await world.beside(lambda: world.node.reboot(first_group=0))
    # Has group 0 when the first device is repaired, and not any more when the second is.
    world.create("mdpy", "mdpy-hd", FOREIGN)
    world.node.fault("slow-create", parent="mtty", seconds=0.5)
    await world.start_agent()
    await world.until(lambda: len(world.devices) == 2)
    world.remove(FOREIGN)
    await world.kubelet.reboot()
    await world.offers(mtty_1=24)
    await world.kubelet.readmit(pod)
    with pytest.raises(StartError, match="delete the pod"):
        await world.kubelet.start_containers(pod)


async def test_an_init_container_never_gets_a_group_that_its_device_had_before(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24, mdpy_hd=4)
    world.create("mdpy", "mdpy-hd", FOREIGN)
    await world.offers(mdpy_hd=3)
    plugins, asked = world.kubelet.plugins, []
    allocate = plugins.allocate

    async def allocate_amid_trouble(resource: str, ids: list[str]) -> object:
        asked.append(resource)
        if len(asked) == 2:
            # The device of the init container is on group 1; now 0 is free, and this stream flaps too.
            world.remove(FOREIGN)
            await world.kubelet.end_stream(vfio("mdpy-hd"))
        return await allocate(resource, ids)

    plugins.allocate = allocate_amid_trouble  # type: ignore[method-assign, assignment]
    containers = (
        ContainerSpec("prepare", {vfio("mtty-1"): 1}, init=True),
        ContainerSpec("vm", {vfio("mtty-1"): 1}),
    )
    pod = await world.kubelet.admit(PodSpec("vm", containers=containers))
    (device,) = world.devices.values()
    answers = await world.kubelet.start_containers(pod)
    for answer in answers.values():
        assert str(world.kernel.paths.group(device.group or 0)) in [node.host_path for node in answer.devices]


async def test_a_node_that_is_called_otherwise_keeps_what_its_pods_have(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24)
    pod = await world.run_pod("mtty-1")
    (device,) = world.ids(pod)
    await world.stop_agent()
    await world.start_agent(node_name="other")
    await world.offers(mtty_1=23)
    assert not world.kubelet.devices(vfio("mtty-1"))[device][0], "it is listed, for no other pod to have"
    await world.kubelet.restart_container(pod, "c")
    assert not world.kubelet.crashes
