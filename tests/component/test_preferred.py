"""Which devices the kubelet is advised to take."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.api import deviceplugin_v1beta1_pb2_grpc as rpc
from deviceplugin.simulator.kubelet.kubelet import AdmissionError, ContainerSpec, PodSpec
from tests.component.conftest import Begin
from tests.component.world import NEVER, allocate_request, slot, vfio

Q = vfio("nvidia-230")


async def preferred(
    plugin: rpc.DevicePluginAsyncStub, available: Sequence[str], size: int, required: Sequence[str] = ()
) -> list[str]:
    container = pb.ContainerPreferredAllocationRequest(
        available_deviceIDs=available, must_include_deviceIDs=required, allocation_size=size
    )
    answer: pb.PreferredAllocationResponse = await plugin.GetPreferredAllocation(
        pb.PreferredAllocationRequest(container_requests=[container])
    )
    return list(answer.container_responses[0].deviceIDs)


async def test_what_exists_and_was_never_used_comes_first(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24)
    ids = [slot(vfio("mtty-1"), index) for index in range(6)]
    async with world.plugin(vfio("mtty-1")) as plugin:
        await plugin.Allocate(allocate_request(ids[4:6]))
        await plugin.PreStartContainer(pb.PreStartContainerRequest(devices_ids=ids[4:5]))
        await world.offers(mtty_1=24, mtty_2=11)
        # Fresh, then not yet made, and what somebody used last: it has to be made anew.
        assert await preferred(plugin, ids[::-1], 1) == [ids[5]]
        assert await preferred(plugin, ids, 3) == [ids[5], ids[0], ids[1]]
        assert await preferred(plugin, ids, 6) == [ids[5], *ids[:4], ids[4]]


async def test_devices_of_one_request_share_a_numa_node(begin: Begin) -> None:
    world = await begin("nvidia-t4", config=NEVER)
    await world.offers(nvidia_230=32)
    near, far = ([slot(Q, index, numa_node=node) for index in range(4)] for node in (0, 1))
    mixed = [device for pair in zip(near, far, strict=True) for device in pair]
    async with world.plugin(Q) as plugin:
        assert set(await preferred(plugin, mixed, 4)) in (set(near), set(far))
        assert set(await preferred(plugin, mixed, 3, far[3:])) <= set(far)
        # One node has too few: all that is left comes from the other.
        assert set(await preferred(plugin, [*near[:1], *far], 5)) == {near[0], *far}
        await plugin.Allocate(allocate_request(far[:1]))
        await world.offers(nvidia_230=32, nvidia_234=1)
        assert set(await preferred(plugin, mixed, 3)) <= set(far)


async def test_nonsense_is_answered_too(begin: Begin) -> None:
    world = await begin(config=NEVER)
    async with world.plugin(vfio("mtty-1")) as plugin:
        own = slot(vfio("mtty-1"))
        assert await preferred(plugin, [], 3) == []
        assert await preferred(plugin, [own], -5) == []
        assert await preferred(plugin, [own], 2**31 - 1) == [own]
        assert await preferred(plugin, [own, own], 2) == [own]
        assert await preferred(plugin, ["x" * 10000, "", own, "é"], 1) != []
        assert await preferred(plugin, [own], 1, ["required, but not available"])
        empty = await plugin.GetPreferredAllocation(pb.PreferredAllocationRequest())
        assert not empty.container_responses
    assert not world.devices


async def test_a_pods_devices_come_from_one_card_of_the_kubelets_choice(begin: Begin) -> None:
    world = await begin("nvidia-t4", config=NEVER, topology="none")
    await world.offers(nvidia_230=32)
    pod = await world.run_pod({Q: 5})
    assert len({world.devices[device].parent for device in world.ids(pod)}) == 1
    assert not world.logged("device is on another NUMA node")


async def test_the_fresh_device_of_a_rejected_pod_is_taken_by_the_next(begin: Begin) -> None:
    world = await begin("nvidia-t4", config=NEVER, topology="none", seed=3)
    await world.offers(nvidia_230=32)
    spec = PodSpec("unlucky", containers=(ContainerSpec("c", {Q: 2}),))
    with pytest.raises(AdmissionError):
        await world.kubelet.admit(spec, reject_after_allocate=True)
    left = set(world.devices)
    await world.until(lambda: world.allocatable(vfio("nvidia-234")) == {vfio("nvidia-234"): 1})
    pod = await world.admit({Q: 3})
    assert left < world.ids(pod)


async def test_where_one_numa_node_is_wanted_a_request_that_fits_one_is_admitted_and_a_larger_one_refused(
    begin: Begin,
) -> None:
    world = await begin("nvidia-t4", config=NEVER, topology="single-numa-node")
    await world.offers(nvidia_230=32)
    with pytest.raises(AdmissionError, match="TopologyAffinityError"):
        await world.admit({Q: 17}, name="too large")
    assert not world.devices
    on = []
    for name in ("first", "second"):
        pod = await world.run_pod({Q: 16}, name=name)
        on.append({world.node.node.card_of[world.devices[device].parent].numa for device in world.ids(pod)})
    assert sorted(on, key=str) == [{0}, {1}]
