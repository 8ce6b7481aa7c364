"""What the agent offers follows what the kernel says, whoever changed it."""

from __future__ import annotations

import asyncio
import uuid

from deviceplugin.simulator.node.vm import VirtualMachine
from tests.component.conftest import Begin
from tests.component.world import NEVER, World, vfio

GOAL = 0.1
"""Seconds in which the lists are to be right, on a machine that has nothing else to do."""


async def settles(world: World, what: str, **counts: int) -> None:
    seconds = await world.offers(**counts)
    print(f"{what}: offered after {seconds * 1000:.0f} ms (goal {GOAL * 1000:.0f})")


async def test_each_type_is_a_resource_and_counts_what_fits(begin: Begin) -> None:
    world = await begin()
    await world.offers(
        mtty_1=24, mtty_2=12, mdpy_vga=4, mdpy_xga=4, mdpy_hd=4,
        mbochs_small=64, mbochs_medium=16, mbochs_large=4,
    )  # fmt: skip


async def test_a_device_made_and_removed_by_somebody_else_moves_its_siblings(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mbochs_small=64, mbochs_medium=16, mbochs_large=4, mtty_1=24)
    foreign = str(uuid.uuid4())
    world.create("mbochs", "mbochs-large", foreign)
    await settles(world, "made", mbochs_small=48, mbochs_medium=12, mbochs_large=3, mtty_1=24)
    world.remove(foreign)
    await settles(world, "removed", mbochs_small=64, mbochs_medium=16, mbochs_large=4)


async def test_a_burst_of_changes_ends_in_the_right_count(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24, mtty_2=12)
    devices = [str(uuid.uuid4()) for _ in range(20)]
    for device in devices:
        world.create("mtty", "mtty-1", device)
    for device in devices[:15]:
        world.remove(device)
    await settles(world, "burst", mtty_1=19, mtty_2=9)


async def test_lost_events_are_made_up_for(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24)
    # Between the two the listener sees a gap; what the first told is looked up all the same.
    world.node.lose_events()
    world.create("mtty", "mtty-2", str(uuid.uuid4()))
    world.node.lose_events()
    await settles(world, "after a loss", mtty_1=22, mtty_2=11)


async def test_a_parent_that_leaves_has_nothing_healthy_and_comes_back(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mdpy_vga=4, mtty_1=24)
    world.node.unregister("mdpy")
    await settles(world, "gone", mdpy_vga=0, mdpy_xga=0, mdpy_hd=0, mtty_1=24)
    assert world.kubelet.capacity(vfio("mdpy-vga")) == 4
    world.node.register("mdpy")
    await settles(world, "back", mdpy_vga=4, mdpy_xga=4, mdpy_hd=4)


async def test_a_parent_that_leaves_takes_its_devices_with_it_and_no_id_disappears(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mdpy_vga=4)
    await world.run_pod({vfio("mdpy-vga"): 2})
    world.node.unregister("mdpy")
    await settles(world, "gone with devices", mdpy_vga=0)
    assert world.kubelet.capacity(vfio("mdpy-vga")) == 4


async def test_a_parent_that_can_not_leave_yet_offers_nothing_new(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mdpy_vga=4)
    pod = await world.run_pod("mdpy-vga")
    (device,) = world.ids(pod)
    vm = VirtualMachine(world.node, device)
    leaving = asyncio.create_task(asyncio.to_thread(world.node.unregister, "mdpy"))
    # No event tells of it before it is over: only the next look at everything does.
    await world.until(lambda: world.node.state.away)
    world.node.lose_events()
    await world.kubelet.wait_for(lambda: world.kubelet.allocatable(vfio("mdpy-vga")) <= 1, 5)
    vm.stop()
    await leaving
    await world.offers(mdpy_vga=0)


async def test_types_that_appear_later_get_their_endpoint_then(begin: Begin) -> None:
    world = await begin(agent=False, config=NEVER)
    world.node.unregister("mdpy")
    await world.start_agent()
    await world.offers(mtty_1=24)
    assert world.kubelet.capacity(vfio("mdpy-vga")) == 0
    world.node.register("mdpy")
    await settles(world, "new types", mdpy_vga=4, mdpy_xga=4, mdpy_hd=4)


async def test_a_node_without_any_type_waits_for_one(begin: Begin) -> None:
    world = await begin(agent=False, config=NEVER)
    for parent in ("mtty", "mdpy", "mbochs"):
        world.node.unregister(parent)
    await world.start_agent()
    await world.says("this node has no mediated device type yet")
    world.node.register("mtty")
    await world.offers(mtty_1=24)


async def test_virtual_functions_do_not_overstate_their_card(begin: Begin) -> None:
    world = await begin("nvidia-a2", config=NEVER)
    # 16 functions say one each of every type; the card holds 16, 8, 4, 2 or 1.
    await world.offers(nvidia_744=16, nvidia_745=8, nvidia_746=4, nvidia_747=2, nvidia_748=1)
    await world.run_pod({vfio("nvidia-746"): 1})
    # Only types of the same size go beside it now.
    await world.offers(nvidia_746=4, nvidia_751=3, nvidia_754=3, nvidia_744=0, nvidia_748=0)
    await world.run_pod({vfio("nvidia-746"): 3}, name="more")
    await world.offers(nvidia_746=4, nvidia_751=0, nvidia_744=0)


async def test_a_homogeneous_card_offers_only_what_it_carries(begin: Begin) -> None:
    world = await begin("nvidia-t4", config=NEVER)
    await world.offers(nvidia_230=32, nvidia_231=16, nvidia_234=2)
    pod = await world.run_pod("nvidia-231")
    # One card carries a 2Q now, so it takes seven more of these; the other is free for anything.
    await world.offers(nvidia_230=16, nvidia_231=16, nvidia_234=1)
    (device,) = world.ids(pod)
    other = "0000:af:00.0" if world.devices[device].parent == "0000:3b:00.0" else "0000:3b:00.0"
    world.node.unregister(other)
    await settles(world, "other card gone", nvidia_230=0, nvidia_231=8, nvidia_234=0)
    world.remove(device)
    await settles(world, "device gone", nvidia_230=16, nvidia_231=8, nvidia_234=1)


async def test_a_count_that_means_nothing_is_capped_and_that_is_said(begin: Begin) -> None:
    world = await begin("s390", config=NEVER)
    await world.says("vfio.dev/vfio_ap-passthrough: the driver counts 65536 instances; 1024 are offered")
    await world.kubelet.wait_for(lambda: world.kubelet.allocatable("vfio.dev/vfio_ap-passthrough") == 1024)
    # Hundreds of parents with one device each add up.
    await world.kubelet.wait_for(lambda: world.kubelet.allocatable("vfio.dev/vfio_ccw-io") == 200)
    world.node.unregister("0.0.0100")
    world.node.unregister("0.0.0101")
    seconds = await world.until(lambda: world.kubelet.allocatable("vfio.dev/vfio_ccw-io") == 198)
    print(f"two of 200 parents left: offered after {seconds * 1000:.0f} ms")
    assert len(world.logged("vfio.dev/vfio_ap-passthrough: the driver counts")) == 1


async def test_a_maximum_is_a_quota_on_the_node(begin: Begin) -> None:
    config = f"resources: [{{name: example.com/serial, types: [mtty-1], max: 3}}]\n{NEVER}"
    world = await begin(config=config)
    await world.kubelet.wait_for(lambda: world.kubelet.allocatable("example.com/serial") == 3)
    await world.run_pod({"example.com/serial": 3})
    await world.offers(mtty_1=21)
    assert world.kubelet.allocatable("example.com/serial") == 3


async def test_foreign_devices_take_room_and_are_not_offered(begin: Begin) -> None:
    world = await begin(agent=False, config=NEVER)
    foreign = str(uuid.uuid4())
    world.create("mdpy", "mdpy-hd", foreign)
    await world.start_agent()
    await world.offers(mdpy_hd=3, mdpy_vga=3)
    assert foreign not in world.kubelet.devices(vfio("mdpy-hd"))


async def test_the_same_ids_are_offered_after_a_restart(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24)
    before = world.kubelet.devices(vfio("mtty-1"))
    await world.stop_agent()
    await world.offers(mtty_1=0)
    await world.start_agent()
    await world.offers(mtty_1=24)
    assert world.kubelet.devices(vfio("mtty-1")) == before


async def test_each_slot_names_its_numa_node(begin: Begin) -> None:
    world = await begin("nvidia-t4", config=NEVER)
    await world.offers(nvidia_230=32)
    nodes = [node for _, node in world.kubelet.devices(vfio("nvidia-230")).values()]
    assert sorted(nodes, key=str) == [0] * 16 + [1] * 16
