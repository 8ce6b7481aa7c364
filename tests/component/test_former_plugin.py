"""Taking over from another plugin: what the kubelet remembers of it is listed, and its pods run on."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.api import deviceplugin_v1beta1_pb2_grpc as rpc
from deviceplugin.simulator.kubelet.checkpointfile import Entry
from deviceplugin.simulator.kubelet.kubelet import AdmissionError, Pod, StartError
from tests.component.conftest import Begin
from tests.component.world import NEVER, World, allocate_request, vfio

T4 = vfio("nvidia-230")
MTTY = vfio("mtty-1")


class FormerPlugin(rpc.DevicePluginServicer):
    """Calls its devices by IOMMU groups, as KubeVirt's own plugin does."""

    def __init__(self, world: World, numa_node: int | None) -> None:
        self._ended = world.kubelet.wait_for(lambda: False, timeout=None)
        self._numa_node = numa_node

    async def GetDevicePluginOptions(self, _request: Any, _context: Any) -> pb.DevicePluginOptions:  # noqa: N802
        return pb.DevicePluginOptions()

    async def ListAndWatch(  # noqa: N802
        self, _request: Any, _context: Any
    ) -> AsyncIterator[pb.ListAndWatchResponse]:
        nodes = [] if self._numa_node is None else [pb.NUMANode(ID=self._numa_node)]
        topology = pb.TopologyInfo(nodes=nodes) if nodes else None
        yield pb.ListAndWatchResponse(devices=[pb.Device(ID="42", health="Healthy", topology=topology)])
        await self._ended

    async def Allocate(self, _request: Any, _context: Any) -> pb.AllocateResponse:  # noqa: N802
        node = pb.DeviceSpec(host_path="/dev/vfio/42", container_path="/dev/vfio/42", permissions="mrw")
        return pb.AllocateResponse(container_responses=[pb.ContainerAllocateResponse(devices=[node])])

    async def GetPreferredAllocation(  # noqa: N802
        self, _request: Any, _context: Any
    ) -> pb.PreferredAllocationResponse:
        return pb.PreferredAllocationResponse()

    async def PreStartContainer(self, _request: Any, _context: Any) -> pb.PreStartContainerResponse:  # noqa: N802
        return pb.PreStartContainerResponse()


@contextlib.asynccontextmanager
async def former_plugin(world: World, resource: str, numa_node: int | None) -> AsyncIterator[None]:
    """Another plugin that serves a resource, and ends."""
    socket = world.kubelet.plugin_directory / "former.sock"
    server = grpc.aio.server()
    rpc.add_DevicePluginServicer_to_server(FormerPlugin(world, numa_node), server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    registration = f"unix:{world.kubelet.plugin_directory / 'kubelet.sock'}"
    async with grpc.aio.insecure_channel(registration) as channel:
        await rpc.RegistrationStub(channel).Register(
            pb.RegisterRequest(version="v1beta1", endpoint=socket.name, resource_name=resource)
        )
    await world.kubelet.wait_for(lambda: world.kubelet.allocatable(resource) == 1)
    yield
    await server.stop(0)


async def taken_over(begin: Begin, resource: str, numa_node: int | None, node: str) -> tuple[World, Pod]:
    """A pod runs with the other plugin's device, and the agent has come in its place."""
    world = await begin(node, config=NEVER, agent=False, topology="single-numa-node")
    async with former_plugin(world, resource, numa_node):
        pod = await world.run_pod({resource: 1}, name="old")
    await world.start_agent()
    await world.kubelet.wait_for(lambda: world.kubelet.allocatable(resource) > 1)
    return world, pod


@pytest.mark.parametrize("numa_node", [0, 1, None])
@pytest.mark.parametrize(("resource", "node"), [(T4, "nvidia-t4"), (MTTY, "samples")])
async def test_a_kubelet_that_restarts_neither_crashes_nor_loses_the_other_plugins_pod(
    begin: Begin, resource: str, node: str, numa_node: int | None
) -> None:
    world, pod = await taken_over(begin, resource, numa_node, node)
    assert world.kubelet.devices(resource)["42"][0] is False
    await world.kubelet.kill()
    await world.kubelet.start()
    await world.kubelet.wait_for(lambda: world.kubelet.allocatable(resource) > 1)
    await world.kubelet.readmit(pod)
    assert (pod.phase, world.kubelet.crashes) == ("Running", [])
    # Pods go on getting devices beside it.
    assert "42" not in world.ids(await world.run_pod({resource: 1}, name="new"))


async def test_no_container_is_started_with_what_is_not_known(begin: Begin) -> None:
    world, pod = await taken_over(begin, MTTY, None, "samples")
    with pytest.raises(StartError, match=r"'42' is of another plugin that had this .*delete the pod"):
        await world.kubelet.restart_container(pod, "c")
    async with world.plugin(MTTY) as plugin:
        with pytest.raises(grpc.aio.AioRpcError, match="'42' is of another plugin"):
            await plugin.Allocate(allocate_request(["42"]))
        with pytest.raises(grpc.aio.AioRpcError, match="'43' was never offered"):
            await plugin.Allocate(allocate_request(["43"]))
    # The way out that the message names works, and the ID stays in the list while the agent lives.
    await world.kubelet.delete(pod)
    await world.run_pod("mtty-1", name="anew")
    assert world.kubelet.devices(MTTY)["42"][0] is False
    assert len(world.logged(f"{MTTY}: the kubelet remembers devices of another plugin")) == 1


async def test_after_a_reboot_the_other_plugins_pod_is_failed_for_good(begin: Begin) -> None:
    world, pod = await taken_over(begin, T4, 0, "nvidia-t4")
    await world.kubelet.reboot()
    await world.kubelet.wait_for(lambda: world.kubelet.allocatable(T4) > 1)
    with pytest.raises(AdmissionError, match="no longer healthy"):
        await world.kubelet.readmit(pod)


async def test_what_turns_up_later_is_listed_too_and_two_resources_may_have_the_same(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24, mtty_2=12)
    pods = {name: await world.run_pod(name, name=name) for name in ("mtty-1", "mtty-2")}
    for name, pod in pods.items():
        world.kubelet.know(
            Entry(pod_uid=pod.uid, container="d", resource=vfio(name), devices={"0": ()}, response=b"")
        )
    await world.kubelet.write_checkpoint()
    world.excused = True  # What is remembered and not listed is what this is about.
    for name in pods:
        await world.kubelet.end_stream(vfio(name))
    await world.kubelet.wait_for(
        lambda: all(world.kubelet.devices(vfio(name)).get("0") == (False, None) for name in pods)
    )


async def test_a_resource_that_is_discovered_later_begins_with_what_is_remembered(begin: Begin) -> None:
    world = await begin(config=f"discovery: {{include: [mdpy-hd]}}\n{NEVER}", agent=False)
    async with former_plugin(world, MTTY, None):
        await world.run_pod({MTTY: 1}, name="old")
    world.configure(NEVER)
    world.node.unregister("mtty")
    await world.start_agent()
    await world.offers(mdpy_hd=4)
    assert world.kubelet.allocatable(MTTY) == 0
    world.node.register("mtty")
    await world.offers(mtty_1=24)
    assert world.kubelet.devices(MTTY)["42"] == (False, None)
    assert not world.kubelet.crashes
