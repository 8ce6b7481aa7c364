"""Several nodes on one kernel, and a node that was renamed: an agent keeps to its own node's devices."""

from __future__ import annotations

import grpc
import pytest

from deviceplugin.simulator.kubelet.kubelet import Pod, StartError
from tests.component.conftest import Begin
from tests.component.world import TUNED, World, allocate_request, slot, vfio

MTTY = vfio("mtty-1")


async def neighbours(begin: Begin, config: str = TUNED) -> tuple[World, World]:
    """Two kubelets and two agents of different node names, on one kernel."""
    one, other = await begin(agent=False, config=config), await begin(agent=False, config=config)
    other.kernel = other.node = one.node
    other.options = one.options
    await one.start_agent(node_name="one")
    await other.start_agent(node_name="other")
    for world in (one, other):
        await world.offers(mtty_1=24)
    return one, other


@pytest.mark.parametrize(
    "adopt", ["", "resources: [{name: a.b/c, types: [mtty-1], max: 0, adoptExisting: {}}]"]
)
async def test_no_agent_touches_what_another_nodes_agent_made(begin: Begin, adopt: str) -> None:
    one, other = await neighbours(begin, f"{TUNED}\n{adopt}")
    pod = await other.run_pod("mtty-1")
    (device,) = other.ids(pod)
    # It takes room on both, and is a slot of its own node alone.
    for world, count in ((one, 23), (other, 24)):
        await world.offers(mtty_1=count)
    assert device not in one.kubelet.devices(MTTY)
    # One's reclaim is at work: it takes a device of its own back, and the other's not.
    own = await one.run_pod("mtty-1")
    (mine,) = one.ids(own)
    await one.kubelet.delete(own)
    await one.says("device removed", device=mine)
    await one.offers(mtty_1=23)
    async with one.plugin(MTTY) as plugin:
        with pytest.raises(grpc.aio.AioRpcError, match="was never offered"):
            await plugin.Allocate(allocate_request([device]))
    assert device in other.devices
    assert not one.logged("device removed", device=device)
    assert len(one.logged("there are devices here that this plugin made under another node's name")) == 1
    if adopt:
        assert one.kubelet.allocatable("a.b/c") == 0
    await other.kubelet.delete(pod)
    await other.says("device removed", device=device)


async def renamed(begin: Begin) -> tuple[World, Pod, str]:
    """A node with a running pod, whose agent came back with another name."""
    world = await begin(agent=False)
    await world.start_agent(node_name="old-name")
    await world.offers(mtty_1=24)
    pod = await world.run_pod("mtty-1")
    (device,) = world.ids(pod)
    await world.stop_agent()
    await world.start_agent(node_name="new-name")
    await world.offers(mtty_1=23)
    return world, pod, device


async def test_a_renamed_nodes_pod_runs_on_and_its_device_is_offered_to_nobody(begin: Begin) -> None:
    world, pod, device = await renamed(begin)
    listed = world.kubelet.devices(MTTY)
    assert listed[device][0] is False, "it is listed, and Unhealthy"
    async with world.plugin(MTTY) as plugin:
        with pytest.raises(grpc.aio.AioRpcError, match="under another node's name"):
            await plugin.Allocate(allocate_request([device]))
    await world.kubelet.restart_container(pod, "c")
    assert device in world.devices
    # Gone with its pod, it is still not this agent's to remove.
    other = await world.run_pod("mtty-1", name="other")
    (mine,) = world.ids(other)
    assert mine == slot(MTTY, node_name="new-name")
    await world.kubelet.delete(pod)
    await world.kubelet.delete(other)
    await world.says("device removed", device=mine)
    assert device in world.devices
    assert not world.logged("device removed", device=device)


async def test_a_renamed_nodes_device_that_vanished_is_not_made_again(begin: Begin) -> None:
    world, pod, device = await renamed(begin)
    world.remove(device)
    await world.offers(mtty_1=24)
    with pytest.raises(StartError, match="under another node's name, is gone; delete the pod"):
        await world.kubelet.restart_container(pod, "c")
    assert device not in world.devices
