"""Before a container starts its devices are there, or the start fails with a reason."""

from __future__ import annotations

import asyncio
import errno

import grpc.aio
import pytest

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.simulator.kubelet.checkpointfile import Damage
from deviceplugin.simulator.kubelet.kubelet import AdmissionError, ContainerSpec, Pod, PodSpec, StartError
from tests.component.conftest import Begin
from tests.component.world import NEVER, World, allocate_request, slot, vfio


async def reboot(world: World, *, first_group: int | None) -> None:
    """The node goes down and comes up: agent, devices and kubelet are gone, the checkpoint is not."""
    await world.kill_agent()
    await asyncio.to_thread(lambda: world.node.reboot(first_group=first_group))
    await world.start_agent()
    await world.kubelet.reboot()


async def test_a_device_that_vanished_is_made_again(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24, mtty_2=12)
    pod = await world.admit({vfio("mtty-1"): 2})
    before = dict(world.devices)
    for device in before:
        world.remove(device)
    await world.offers(mtty_2=12)
    await world.kubelet.start_containers(pod)
    assert world.devices.keys() == before.keys()
    assert world.logged("device made again before a container starts")
    await world.offers(mtty_2=11)


async def admitted_and_lost_its_group(world: World) -> tuple[Pod, int | None]:
    """A pod whose device was removed by hand before its start, and the group that another has taken since."""
    await world.offers(mtty_1=24)
    pod = await world.admit("mtty-1")
    (device,) = world.ids(pod)
    group = world.devices[device].group
    world.remove(device)
    async with world.plugin(vfio("mtty-1")) as plugin:
        await plugin.Allocate(allocate_request([slot(vfio("mtty-1"), 9)]))
    return pod, group


async def test_a_device_whose_group_changed_meanwhile_fails_the_start_clearly(begin: Begin) -> None:
    world = await begin(config=NEVER)
    pod, old = await admitted_and_lost_its_group(world)
    with pytest.raises(StartError, match=rf"but the kubelet would give the container .*/vfio/{old}\b"):
        await world.kubelet.start_containers(pod)
    with pytest.raises(StartError, match="delete the pod so that it is allocated anew"):
        await world.kubelet.start_containers(pod)
    # It was made again, and stays until the pod is gone.
    assert world.ids(pod) <= world.devices.keys()


async def test_after_a_reboot_the_same_group_lets_the_container_start(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24)
    pod = await world.run_pod({vfio("mtty-1"): 1})
    (device,) = world.ids(pod)
    group = world.devices[device].group
    await reboot(world, first_group=group)
    await world.offers(mtty_1=24)
    allocations = world.kubelet.calls["Allocate"]
    await world.kubelet.readmit(pod)
    await world.kubelet.start_containers(pod)
    assert world.kubelet.calls["Allocate"] == allocations
    assert world.devices[device].group == group


async def test_after_a_reboot_another_group_fails_the_start_clearly(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24)
    pod = await world.run_pod({vfio("mtty-1"): 1})
    await reboot(world, first_group=77)
    await world.offers(mtty_1=24)
    await world.kubelet.readmit(pod)
    with pytest.raises(StartError, match=r"is .*/vfio/77 now, but the kubelet would give"):
        await world.kubelet.start_containers(pod)
    # The way out that the message names works.
    await world.kubelet.force_delete(pod)
    await world.run_pod("mtty-1", name="anew")


async def test_after_a_reboot_the_slots_that_pods_hold_are_healthy_first(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mdpy_hd=4, mdpy_vga=4)
    async with world.plugin(vfio("mdpy-vga")) as plugin:
        await plugin.Allocate(allocate_request([slot(vfio("mdpy-vga"), 0)]))
    await world.offers(mdpy_hd=3)
    pods = [await world.run_pod("mdpy-hd", name=f"p{number}") for number in range(3)]
    held = set().union(*(world.ids(pod) for pod in pods))
    await reboot(world, first_group=0)
    await world.offers(mdpy_hd=4)
    healthy = {uuid for uuid, (well, _) in world.kubelet.devices(vfio("mdpy-hd")).items() if well}
    assert held <= healthy
    for pod in pods:
        await world.kubelet.readmit(pod)


async def test_a_repair_for_which_there_is_no_room_says_so(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mdpy_hd=4)
    pod = await world.admit("mdpy-hd")
    (device,) = world.ids(pod)
    world.remove(device)
    world.node.fault("fail-create", parent="mdpy", errno=errno.EIO)
    with pytest.raises(StartError, match="mdpy: EIO"):
        await world.kubelet.start_containers(pod)
    world.node.clear_faults()
    await world.kubelet.start_containers(pod)
    assert device in world.devices


async def test_a_repair_may_take_longer_than_an_allocation(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mdpy_hd=4)
    pod = await world.admit("mdpy-hd")
    (device,) = world.ids(pod)
    world.remove(device)
    await world.offers(mdpy_hd=4)
    world.node.fault("slow-create", parent="mdpy", seconds=7)
    await world.kubelet.start_containers(pod)
    assert set(world.devices) == {device}


HURRIED = """
from deviceplugin import allocation, cli
allocation.START_DEADLINE = 1.0
cli.main()
"""


async def test_a_repair_that_hangs_is_answered_in_time_and_its_device_stays_for_the_next_try(
    begin: Begin,
) -> None:
    world = await begin(config=NEVER, agent=False)
    await world.start_agent(code=HURRIED)
    await world.offers(mdpy_hd=4)
    pod = await world.admit("mdpy-hd")
    (device,) = world.ids(pod)
    world.remove(device)
    await world.offers(mdpy_hd=4)
    world.node.fault("slow-create", parent="mdpy", seconds=3)
    with pytest.raises(StartError, match="the node took more than 1 s"):
        await world.kubelet.start_containers(pod)
    with pytest.raises(StartError, match="is still being made on mdpy"):
        await world.kubelet.start_containers(pod)
    await world.says("device came after all and stays", device=device)
    await world.kubelet.start_containers(pod)
    assert set(world.devices) == {device}
    assert not world.logged("device of a failed request removed")


async def test_after_a_reboot_every_pod_finds_its_group_whichever_starts_first(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mdpy_hd=4)
    pods = [await world.run_pod("mdpy-hd", name=f"p{number}") for number in range(3)]
    before = {uuid: device.group for uuid, device in world.devices.items()}
    await world.kill_agent()
    await world.beside(lambda: world.node.reboot(first_group=0))
    await world.start_agent()
    await world.kubelet.reboot()
    await world.offers(mdpy_hd=4, mdpy_vga=1)
    for pod in reversed(pods):
        await world.kubelet.readmit(pod)
        await world.kubelet.start_containers(pod)
    assert {uuid: device.group for uuid, device in world.devices.items()} == before


async def test_after_a_reboot_the_room_of_remembered_devices_is_not_offered_to_others(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mdpy_hd=4)
    pod = await world.run_pod({vfio("mdpy-hd"): 4})
    await world.kill_agent()
    await world.beside(world.node.reboot)
    await world.start_agent()
    await world.until(lambda: world.devices.keys() == world.ids(pod))
    await world.kubelet.reboot()
    await world.offers(mdpy_hd=4, mdpy_vga=0)


async def test_what_was_made_again_for_a_pod_that_is_gone_is_taken_back(begin: Begin) -> None:
    world = await begin()
    await world.offers(mdpy_hd=4, mdpy_vga=4)
    pod = await world.run_pod("mdpy-hd")
    await world.kill_agent()
    await world.beside(world.node.reboot)
    await world.kubelet.force_delete(pod)
    await world.start_agent()
    await world.says("device made again that the kubelet remembers")
    await world.until(lambda: not world.devices)
    await world.offers(mdpy_hd=4, mdpy_vga=4)


OWN = ("--pod", "system/agent")
"""What tells the agent which pod it runs in."""


async def rebooted_without_agent(world: World) -> tuple[Pod, str]:
    """A pod that the kubelet has failed after a reboot, since no agent was there, and its device."""
    await world.offers(mdpy_hd=4, mdpy_vga=4)
    pod = await world.run_pod("mdpy-hd")
    (device,) = world.ids(pod)
    await world.kill_agent()
    await world.beside(world.node.reboot)
    await world.kubelet.reboot()
    with pytest.raises(AdmissionError, match="no healthy devices present"):
        await world.kubelet.readmit(pod)
    return pod, device


async def test_what_a_pod_had_that_a_reboot_ended_is_not_made_again(begin: Begin) -> None:
    world = await begin(config=NEVER)
    _, device = await rebooted_without_agent(world)
    await world.kubelet.start_containers(await world.kubelet.admit(PodSpec("agent", "system")))
    await world.start_agent(*OWN)
    # Nothing removes devices here: the room is there at once since nothing has taken it.
    await world.offers(mdpy_hd=4, mdpy_vga=4)
    assert await world.says("devices not made again", devices=[device])
    assert not world.devices
    await world.kubelet.start_containers(await world.admit({vfio("mdpy-hd"): 4}, name="next"))
    await world.offers(mdpy_hd=4, mdpy_vga=0)


async def test_until_the_kubelet_names_the_agent_s_pod_all_that_it_remembers_is_made_again(
    begin: Begin,
) -> None:
    world = await begin(config=NEVER)
    _, device = await rebooted_without_agent(world)
    await world.kubelet.start_containers(await world.kubelet.admit(PodSpec("another", "system")))
    await world.start_agent(*OWN)
    await world.until(lambda: set(world.devices) == {device})
    await world.offers(mdpy_hd=4, mdpy_vga=3)


async def test_what_a_pod_has_of_which_the_kubelet_still_knows_is_made_again(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mdpy_hd=4)
    await world.kubelet.start_containers(await world.kubelet.admit(PodSpec("agent", "system")))
    (device,) = world.ids(await world.run_pod("mdpy-hd"))
    await world.kill_agent()
    world.remove(device)
    await world.start_agent(*OWN)
    await world.until(lambda: set(world.devices) == {device})
    await world.offers(mdpy_hd=4, mdpy_vga=3)


async def test_an_agent_that_is_there_before_the_kubelet_starts_saves_the_pods_of_a_reboot(
    begin: Begin,
) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24)
    pod = await world.run_pod("mtty-1")
    (device,) = world.ids(pod)
    await world.kill_agent()
    await world.kubelet.kill()
    await world.beside(lambda: world.node.reboot(first_group=0))
    await world.start_agent()
    await world.until(lambda: set(world.devices) == {device})
    await world.kubelet.reboot()
    await world.offers(mtty_1=24)
    await world.kubelet.readmit(pod)
    await world.kubelet.start_containers(pod)
    assert set(world.devices) == {device}


async def test_what_was_made_again_is_renewed_for_another_pod(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24)
    (device,) = ids = list(world.ids(await world.run_pod("mtty-1")))
    await world.kill_agent()
    await world.beside(world.node.reboot)
    await world.start_agent()
    await world.until(lambda: len(world.logged("registered", resource=vfio("mtty-1"))) == 2)
    world.mark(device)
    async with world.plugin(vfio("mtty-1")) as plugin:
        await plugin.Allocate(allocate_request(ids))
    assert not world.is_marked(device)


async def test_a_start_marks_the_device_as_used(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24)
    (device,) = ids = [slot(vfio("mtty-1"))]
    async with world.plugin(vfio("mtty-1")) as plugin:
        await plugin.Allocate(allocate_request(ids))
        world.mark(device)
        await plugin.Allocate(allocate_request(ids))
        assert world.is_marked(device)
        await plugin.PreStartContainer(pb.PreStartContainerRequest(devices_ids=ids))
        assert world.is_marked(device)
        await plugin.Allocate(allocate_request(ids))
        assert not world.is_marked(device)


async def test_a_device_that_is_made_again_at_a_start_is_used_from_then_on(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24)
    pod = await world.admit("mtty-1")
    (device,) = ids = list(world.ids(pod))
    world.remove(device)
    async with world.plugin(vfio("mtty-1")) as plugin:
        await plugin.PreStartContainer(pb.PreStartContainerRequest(devices_ids=ids))
        world.mark(device)
        await plugin.Allocate(allocate_request(ids))
        assert not world.is_marked(device)


async def test_a_container_that_restarts_in_its_place_keeps_its_device(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24)
    pod = await world.run_pod("mtty-1")
    (device,) = world.ids(pod)
    world.mark(device)
    await world.kubelet.restart_container(pod, "c")
    await world.kill_agent()
    await world.start_agent()
    await world.offers(mtty_1=24)
    await world.until(lambda: len(world.logged("registered", resource=vfio("mtty-1"))) == 2)
    await world.kubelet.restart_container(pod, "c")
    assert world.is_marked(device)


@pytest.mark.parametrize(
    ("damage", "says"),
    [("corrupt", "checkpoint .* can't be understood"), ("missing", "did not rewrite its checkpoint")],
)
async def test_a_damaged_checkpoint_fails_the_start_of_a_device_nobody_remembers(
    begin: Begin, damage: Damage, says: str
) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24)
    pod = await world.run_pod("mtty-1")
    await world.kill_agent()
    await world.start_agent()
    await world.until(lambda: len(world.logged("registered", resource=vfio("mtty-1"))) == 2)
    await world.offers(mtty_1=24)
    await world.kubelet.damage_checkpoint(damage)
    with pytest.raises(StartError, match=says):
        await world.kubelet.restart_container(pod, "c")
    await world.kubelet.damage_checkpoint(None)
    await world.kubelet.restart_container(pod, "c")


async def test_a_missing_checkpoint_lets_no_container_start_with_another_devices_node(begin: Begin) -> None:
    world = await begin(config=NEVER)
    pod, _ = await admitted_and_lost_its_group(world)
    await world.kubelet.damage_checkpoint("missing")
    with pytest.raises(StartError, match="did not rewrite its checkpoint"):
        await world.kubelet.start_containers(pod)
    await world.kubelet.damage_checkpoint(None)
    with pytest.raises(StartError, match="delete the pod so that it is allocated anew"):
        await world.kubelet.start_containers(pod)


async def test_a_checkpoint_that_says_nothing_of_a_device_lets_no_container_start_with_it(
    begin: Begin,
) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24)
    async with world.plugin(vfio("mtty-1")) as plugin:
        with pytest.raises(grpc.aio.AioRpcError, match="does not say what the containers get"):
            await plugin.PreStartContainer(pb.PreStartContainerRequest(devices_ids=[slot(vfio("mtty-1"))]))


async def test_an_init_containers_start_uses_up_the_device_and_the_pod_still_starts(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24)
    spec = PodSpec(
        "vm",
        containers=(
            ContainerSpec("one", {vfio("mtty-1"): 1}, init=True),
            ContainerSpec("two", {vfio("mtty-1"): 1}, init=True),
            ContainerSpec("vm", {vfio("mtty-1"): 1}),
        ),
    )
    pod = await world.kubelet.admit(spec)
    (device,) = world.devices
    world.mark(device)
    await world.kubelet.start_containers(pod)
    assert world.is_marked(device)


async def test_a_pod_that_is_readmitted_before_the_agent_is_there_is_rejected_by_the_kubelet(
    begin: Begin,
) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24)
    pod = await world.run_pod("mtty-1")
    await world.kill_agent()
    await asyncio.to_thread(world.node.reboot)
    await world.kubelet.reboot()
    with pytest.raises(AdmissionError, match="no healthy devices present"):
        await world.kubelet.readmit(pod)
    await world.start_agent()
    await world.offers(mtty_1=24)


async def test_a_start_for_devices_that_were_never_offered_is_refused(begin: Begin) -> None:
    world = await begin(config=NEVER)
    async with world.plugin(vfio("mtty-1")) as plugin:
        for ids in ([], [slot(vfio("mtty-2"))], ["x"]):
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await plugin.PreStartContainer(pb.PreStartContainerRequest(devices_ids=ids))
            assert failure.value.code() in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT}
    assert not world.devices


async def test_nothing_is_made_for_whom_the_kubelet_does_not_name(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24)
    pod = await world.admit("mtty-1")
    (device,) = world.ids(pod)
    world.remove(device)
    await world.offers(mtty_1=24)
    nobodys = [slot(vfio("mtty-1"), index) for index in (20, 21)]
    assert device not in nobodys
    async with world.plugin(vfio("mtty-1")) as plugin:
        for wanted in ([nobodys[0]], nobodys, [device, nobodys[1]]):
            with pytest.raises(grpc.aio.AioRpcError, match="does not say what the containers get"):
                await plugin.PreStartContainer(pb.PreStartContainerRequest(devices_ids=wanted))
    assert world.devices.keys() <= {device}
    assert {made["device"] for made in world.logged("device created")} == {device}
    await world.kubelet.start_containers(pod)
