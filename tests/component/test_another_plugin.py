"""Another plugin registers a resource of the agent's; sooner or later the agent has it again, and says so."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.api import deviceplugin_v1beta1_pb2_grpc as rpc
from deviceplugin.kubelet.agreement import LAST_PAUSE
from deviceplugin.simulator.kubelet.plugins import Version
from tests.component.conftest import Begin
from tests.component.test_seen_from_outside import ask, becomes, started, value
from tests.component.world import NEVER, PATIENCE, World, vfio

MTTY = vfio("mtty-1")
VERSIONS = pytest.mark.parametrize("version", ["1.36", "1.37"])
SOON = LAST_PAUSE + PATIENCE
"""Seconds: two attempts of the agent are no further apart than the first of these."""


class Other(rpc.DevicePluginServicer):
    """A plugin that lists one device, and is told when it is asked for it."""

    def __init__(self, *devices: str) -> None:
        self.devices = devices
        self.allocated = 0

    async def GetDevicePluginOptions(  # noqa: N802
        self, request: pb.Empty, context: object
    ) -> pb.DevicePluginOptions:
        del request, context
        return pb.DevicePluginOptions()

    async def ListAndWatch(  # noqa: N802
        self, request: pb.Empty, context: Any
    ) -> AsyncIterator[pb.ListAndWatchResponse]:
        del request, context
        yield pb.ListAndWatchResponse(devices=[pb.Device(ID=each, health="Healthy") for each in self.devices])
        await asyncio.Event().wait()

    async def GetPreferredAllocation(  # noqa: N802
        self, request: pb.PreferredAllocationRequest, context: object
    ) -> pb.PreferredAllocationResponse:
        raise NotImplementedError

    async def PreStartContainer(  # noqa: N802
        self, request: pb.PreStartContainerRequest, context: object
    ) -> pb.PreStartContainerResponse:
        raise NotImplementedError

    async def Allocate(self, request: pb.AllocateRequest, context: object) -> pb.AllocateResponse:  # noqa: N802
        del request, context
        self.allocated += 1
        return pb.AllocateResponse(container_responses=[pb.ContainerAllocateResponse(envs={"OTHER": "1"})])


@contextlib.asynccontextmanager
async def serving(world: World, other: Other, name: str = "other.sock") -> AsyncIterator[None]:
    """The other plugin, whose end is an abrupt one."""
    server = grpc.aio.server()
    rpc.add_DevicePluginServicer_to_server(other, server)
    server.add_insecure_port(f"unix:{world.kubelet.plugin_directory / name}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)


async def register(world: World, name: str = "other.sock", resource: str = MTTY) -> None:
    """Register as the other plugin does; a kubelet that knows it already refuses."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"unix:{world.kubelet.registration_socket}", options=options) as to:
        request = pb.RegisterRequest(version="v1beta1", endpoint=name, resource_name=resource)
        with contextlib.suppress(grpc.aio.AioRpcError):
            await rpc.RegistrationStub(to).Register(request)


async def listed(world: World, *devices: str) -> None:
    await world.kubelet.wait_for(lambda: world.kubelet.devices(MTTY).keys() == set(devices), timeout=PATIENCE)


async def is_ours_again(world: World) -> None:
    await world.says("the kubelet believes this agent's list again", within=SOON, resource=MTTY)
    await world.offers(mtty_1=24, within=SOON)
    for number in range(3):
        pod = await world.run_pod("mtty-1", name=f"after-{number}")
        assert world.ids(pod) <= world.devices.keys()
        assert "OTHER" not in world.handed(pod).envs
        await world.kubelet.delete(pod)


@VERSIONS
async def test_a_plugin_that_comes_and_goes_leaves_the_resource_as_it_was(
    begin: Begin, version: Version
) -> None:
    world, port = await started(begin, config=NEVER, version=version)
    await becomes(port, "/readyz", 200)
    async with serving(world, Other("42")):
        await register(world)
        await listed(world, "42")
    said = await world.says("another plugin may have this resource", resource=MTTY)
    assert said["level"] == "warning"
    await is_ours_again(world)
    await becomes(port, "/readyz", 200)
    page = (await ask(port, "/metrics"))[1]
    assert value(page, "mdev_another_plugin", resource=MTTY) == 0
    assert value(page, "mdev_another_plugin_seen_total", resource=MTTY) >= 1
    assert value(page, "mdev_another_plugin_seen_total", resource=vfio("mtty-2")) == 0


@VERSIONS
async def test_while_another_plugin_lives_pods_get_devices_of_ours(begin: Begin, version: Version) -> None:
    world = await begin(config=NEVER, version=version)
    await world.offers(mtty_1=24)
    other = Other("42")
    async with serving(world, other):
        await register(world)
        await is_ours_again(world)
    assert other.allocated == 0
    await world.offers(mtty_1=24, within=SOON)


@VERSIONS
async def test_a_plugin_that_insists_is_named_and_answered_at_growing_intervals(
    begin: Begin, version: Version
) -> None:
    world, port = await started(begin, config=NEVER, version=version)
    await becomes(port, "/readyz", 200)

    async def insist() -> None:
        number = 0
        async with contextlib.AsyncExitStack() as others:
            while True:
                # A name of its own each time: a kubelet from 1.37 on takes none twice.
                name = f"other-{number}.sock"
                await others.enter_async_context(serving(world, Other("42"), name))
                await register(world, name)
                number += 1
                await asyncio.sleep(0.3)

    insisting = asyncio.create_task(insist())
    saying = f"{MTTY}: the kubelet believes 1 device of another plugin"
    await becomes(port, "/readyz", 503, saying=saying)
    assert value((await ask(port, "/metrics"))[1], "mdev_another_plugin", resource=MTTY) == 1
    before = len(world.logged("registered", resource=MTTY))
    await asyncio.sleep(8)
    # After 0.5, 1, 2 and 4 seconds, and so on.
    assert len(world.logged("registered", resource=MTTY)) - before <= 6
    assert len(world.logged("another plugin may", resource=MTTY)) <= 6
    insisting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await insisting
    await is_ours_again(world)
    await becomes(port, "/readyz", 200)


@VERSIONS
async def test_a_list_that_moves_meanwhile_does_not_hide_it(begin: Begin, version: Version) -> None:
    world = await begin(config=NEVER, version=version)
    await world.offers(mtty_1=24)
    # The agent knows that the kubelet has its list.
    await world.until(lambda: world.kubelet.calls["GetAllocatableResources"] > 1)
    async with serving(world, Other("42")):
        await register(world)
        await listed(world, "42")
        looks = world.kubelet.calls["GetAllocatableResources"]
        await world.until(lambda: world.kubelet.calls["GetAllocatableResources"] > looks)
        # The kubelet takes it, from a plugin that it does not call.
        await world.run_pod("mtty-2")
    await is_ours_again_but(world, 22)


async def is_ours_again_but(world: World, count: int) -> None:
    await world.offers(mtty_1=count, within=SOON)
    await world.until(lambda: len(world.logged("registered", resource=MTTY)) > 1, within=SOON)
    await world.offers(mtty_1=count, within=SOON)
    pod = await world.run_pod("mtty-1", name="after")
    assert world.ids(pod) <= world.devices.keys()


async def test_a_kubelet_that_can_not_be_asked_is_taken_at_its_word(begin: Begin) -> None:
    world = await begin(config=NEVER, agent=False)
    world.kubelet.forget_allocatable()
    await world.start_agent("--log-level", "debug")
    await world.offers(mtty_1=24)
    await world.says("the kubelet can't be asked what it believes")
    await world.run_pod("mtty-1")
    assert len(world.logged("registered", resource=MTTY)) == 1
    assert len(world.logged("the kubelet can't be asked what it believes")) == 1
