"""Whoever can reach the agent's sockets and is not the kubelet: whatever they do, the kubelet is served."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.api import deviceplugin_v1beta1_pb2_grpc as rpc
from deviceplugin.kubelet.service import MAX_GUESTS
from deviceplugin.simulator.kubelet.plugins import Version
from tests.component.conftest import Begin
from tests.component.test_seen_from_outside import ask, becomes, started
from tests.component.world import NEVER, PATIENCE, World, allocate_request, slot, vfio

MTTY = vfio("mtty-1")
VERSIONS = pytest.mark.parametrize("version", ["1.36", "1.37"])
CONNECTIONS = 48
STREAMS = 64
"""Of each connection."""
MIB = 1 << 20
GROWTH = 64 * MIB
"""What they may make the agent grow by; the chart's limit leaves it three times as much."""


@pytest.fixture
async def calm(begin: Begin) -> World:
    """A world in which all is said; gRPC itself logs what strangers do wrong."""
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24, mtty_2=12)
    await world.says("registered", resource=MTTY)
    # Twice the kubelet was asked what it believes: the agent knows that it has the list.
    await world.until(lambda: world.kubelet.calls["GetAllocatableResources"] > 1)
    return world


def process(world: World) -> Path:
    assert world._agent is not None
    return Path(f"/proc/{world._agent.pid}")


def memory(world: World) -> int:
    return int((process(world) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors(world: World) -> int:
    return len(list((process(world) / "fd").iterdir()))


async def serves(world: World) -> None:
    """A pod gets its device while whoever is in the way still is."""
    async with asyncio.timeout(PATIENCE):
        pod = await world.run_pod("mtty-1", name=f"pod-{time.monotonic()}")
    await world.kubelet.delete(pod)


@contextlib.asynccontextmanager
async def stranger(path: Path) -> AsyncIterator[grpc.aio.Channel]:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(f"unix:{path}", options=options) as channel:
        yield channel


async def told(
    stream: grpc.aio.UnaryStreamCall[pb.Empty, pb.ListAndWatchResponse],
) -> pb.ListAndWatchResponse:
    """The next list of a stream."""
    message = await stream.read()
    assert isinstance(message, pb.ListAndWatchResponse)
    return message


@contextlib.contextmanager
def silent(path: Path, count: int) -> Iterator[list[socket.socket]]:
    """Connections that say nothing."""
    clients = []
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(PATIENCE)
            with contextlib.suppress(OSError):
                client.connect(str(path))
            clients.append(client)
        yield clients


async def test_sockets_are_their_owners_alone(calm: World) -> None:
    for name in calm.sockets():
        status = (calm.kubelet.plugin_directory / name).lstat()
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o600
        assert status.st_uid == os.geteuid()


async def test_a_stranger_who_comes_and_goes_does_not_make_the_agent_register_again(calm: World) -> None:
    before = calm.socket(MTTY)
    for _ in range(20):
        async with stranger(before) as channel:
            stream = rpc.DevicePluginStub(channel).ListAndWatch(pb.Empty())
            assert len((await told(stream)).devices) == 24
            stream.cancel()
    await serves(calm)
    assert calm.socket(MTTY) == before
    assert len(calm.logged("registered", resource=MTTY)) == 1
    assert not calm.logged("kubelet stopped listening")


@contextlib.asynccontextmanager
async def between_register_and_the_kubelets_call(world: World, version: str) -> AsyncIterator[Path]:
    """The kubelet is a new one that has been told of the socket, and calls when the block ends."""
    before = world.sockets()
    world.kubelet.hang_registration()
    await world.kubelet.kill()
    await world.kubelet.start()
    registrations = world.kubelet.calls["Register"]
    prefix = world.socket(MTTY).name.rsplit("-", 1)[0]

    def fresh() -> list[str]:
        return [name for name in world.sockets() - before if name.startswith(prefix)]

    await world.until(lambda: fresh() and world.kubelet.calls["Register"] > registrations, version)
    (name,) = fresh()
    yield world.kubelet.plugin_directory / name
    world.kubelet.hang_registration(on=False)


@VERSIONS
async def test_strangers_who_ask_for_the_list_before_the_kubelet_and_hang_up_move_nothing(
    begin: Begin, version: Version
) -> None:
    world = await begin(config=NEVER, version=version)
    await world.offers(mtty_1=24)
    await world.says("registered", resource=MTTY)
    async with contextlib.AsyncExitStack() as strangers:
        async with between_register_and_the_kubelets_call(world, version) as path:
            streams = []
            for _ in range(5):
                plugin = rpc.DevicePluginStub(await strangers.enter_async_context(stranger(path)))
                streams += [plugin.ListAndWatch(pb.Empty()) for _ in range(20)]
            await asyncio.gather(*(told(stream) for stream in streams))
        await world.offers(mtty_1=24)
        ended = len(world.logged("kubelet stopped listening", resource=MTTY))
        for stream in streams:
            stream.cancel()
            await asyncio.sleep(0)
    await serves(world)
    looks = world.kubelet.calls["GetAllocatableResources"]
    await world.until(lambda: world.kubelet.calls["GetAllocatableResources"] > looks + 3)
    assert world.socket(MTTY) == path
    assert len(world.logged("kubelet stopped listening", resource=MTTY)) == ended
    await world.offers(mtty_1=24)


@VERSIONS
async def test_strangers_who_listen_for_ever_do_not_hide_that_the_kubelet_hung_up(
    begin: Begin, version: Version
) -> None:
    world = await begin(config=NEVER, version=version)
    await world.offers(mtty_1=24)
    await world.says("registered", resource=MTTY)
    async with contextlib.AsyncExitStack() as strangers:
        async with between_register_and_the_kubelets_call(world, version) as path:
            plugin = rpc.DevicePluginStub(await strangers.enter_async_context(stranger(path)))
            streams = [plugin.ListAndWatch(pb.Empty()) for _ in range(5)]
            await asyncio.gather(*(told(stream) for stream in streams))
        await world.offers(mtty_1=24)
        await world.kubelet.end_stream(MTTY)
        await world.until(lambda: world.socket(MTTY) != path, "another registration")
        await world.offers(mtty_1=24)
    await serves(world)


@VERSIONS
async def test_many_connections_before_the_kubelets_leave_room_for_it(begin: Begin, version: Version) -> None:
    world = await begin(config=NEVER, version=version)
    await world.offers(mtty_1=24)
    await world.says("registered", resource=MTTY)
    async with contextlib.AsyncExitStack() as strangers:
        async with between_register_and_the_kubelets_call(world, version) as path:
            held = []
            for _ in range(CONNECTIONS - 1):
                channel = await strangers.enter_async_context(stranger(path))
                begin_call: grpc.aio.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(
                    "/v1beta1.DevicePlugin/Allocate"
                )
                held.append(begin_call())
            await asyncio.gather(*(call.wait_for_connection() for call in held))
        await world.offers(mtty_1=24)
        await serves(world)
        for call in held:
            call.cancel()


@VERSIONS
@pytest.mark.parametrize("resource", [MTTY, "other.dev/x"])
async def test_a_stranger_who_registers_the_agents_own_socket_takes_nothing_away(
    begin: Begin, version: Version, resource: str
) -> None:
    world = await begin(config=NEVER, version=version)
    await world.offers(mtty_1=24)
    await world.says("registered", resource=MTTY)
    for _ in range(3):
        async with stranger(world.kubelet.registration_socket) as channel:
            request = pb.RegisterRequest(
                version="v1beta1", endpoint=world.socket(MTTY).name, resource_name=resource
            )
            with contextlib.suppress(grpc.aio.AioRpcError):
                await rpc.RegistrationStub(channel).Register(request)
    await world.offers(mtty_1=24)
    await serves(world)


async def test_a_storm_of_calls_that_are_taken_back_leaves_the_kubelet_its_turn(calm: World) -> None:
    path = calm.socket(MTTY)
    before = memory(calm)
    async with stranger(path) as channel:
        plugin = rpc.DevicePluginStub(channel)
        for number in range(500):
            call = (
                plugin.ListAndWatch(pb.Empty()) if number % 2 else plugin.GetDevicePluginOptions(pb.Empty())
            )
            await asyncio.sleep(0)
            call.cancel()
        await serves(calm)
    assert memory(calm) < before + GROWTH
    assert calm.socket(MTTY) == path


async def test_strangers_see_the_list_move_as_the_kubelet_does(calm: World) -> None:
    async with stranger(calm.socket(MTTY)) as channel:
        stream = rpc.DevicePluginStub(channel).ListAndWatch(pb.Empty())
        assert sum(device.health == "Healthy" for device in (await told(stream)).devices) == 24
        async with asyncio.timeout(PATIENCE):
            await calm.run_pod("mtty-2")
            while sum(device.health == "Healthy" for device in (await told(stream)).devices) != 22:
                pass
        stream.cancel()


async def test_a_thousand_lists_that_nobody_reads_are_refused_but_for_a_few(calm: World) -> None:
    before = memory(calm)
    path = calm.socket(MTTY)
    async with stranger(path) as channel:
        plugin = rpc.DevicePluginStub(channel)
        streams = [plugin.ListAndWatch(pb.Empty()) for _ in range(1000)]
        ends = [asyncio.ensure_future(stream.code()) for stream in streams]
        await calm.until(lambda: sum(end.done() for end in ends) == 1000 - MAX_GUESTS, "all others end")
        # Some of them before the agent could say how many there may be on a connection.
        refusals = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE}
        assert {end.result() for end in ends if end.done()} <= refusals
        await serves(calm)
        assert memory(calm) < before + GROWTH
        for stream in streams:
            stream.cancel()
    await serves(calm)
    assert calm.socket(MTTY) == path


async def test_connections_are_few_and_those_that_say_nothing_end(calm: World) -> None:
    path = calm.socket(MTTY)
    before = descriptors(calm)
    with silent(path, 300) as clients:
        await serves(calm)
        assert descriptors(calm) <= before + CONNECTIONS + 8  # A pod's request opens some, too.
        for client in clients:  # All of them are hung up on, within seconds.
            while await asyncio.to_thread(_read, client):
                pass
    await calm.until(lambda: descriptors(calm) <= before + 4, "descriptors are given back")
    await serves(calm)
    assert calm.socket(MTTY) == path


def _read(client: socket.socket) -> bytes:
    try:
        return client.recv(4096)
    except ConnectionError:
        return b""


async def test_requests_that_never_come_to_an_end_hold_up_nobody(calm: World) -> None:
    path = calm.socket(MTTY)
    before = memory(calm)
    async with contextlib.AsyncExitStack() as stack:
        held = []
        for _ in range(CONNECTIONS - 1):  # The kubelet has the last one.
            channel = await stack.enter_async_context(stranger(path))
            begin: grpc.aio.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(
                "/v1beta1.DevicePlugin/Allocate"
            )
            held += [begin() for _ in range(STREAMS)]
        await asyncio.gather(*(call.wait_for_connection() for call in held))
        await serves(calm)
        assert memory(calm) < before + GROWTH
        for call in held:
            call.cancel()
    assert calm.socket(MTTY) == path


async def test_huge_requests_are_refused(calm: World) -> None:
    before = memory(calm)
    async with stranger(calm.socket(MTTY)) as channel:
        plugin = rpc.DevicePluginStub(channel)
        huge = allocate_request(["x" * (8 * MIB)])
        many = pb.PreferredAllocationRequest(
            container_requests=[
                pb.ContainerPreferredAllocationRequest(
                    available_deviceIDs=[slot(MTTY, index) for index in range(10_000)],
                    must_include_deviceIDs=[slot(MTTY, index) for index in range(10_000)],
                    allocation_size=10_000,
                )
            ]
        )
        for _ in range(8):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await plugin.Allocate(huge)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        asked = [asyncio.ensure_future(plugin.GetPreferredAllocation(many)) for _ in range(50)]
        await serves(calm)
        await asyncio.gather(*asked)
    assert memory(calm) < before + GROWTH


async def test_many_requests_for_known_devices_leave_the_kubelet_its_turn(calm: World) -> None:
    async with stranger(calm.socket(MTTY)) as channel:
        plugin = rpc.DevicePluginStub(channel)
        ids = [slot(MTTY, index) for index in range(4)]
        under_way = [
            asyncio.ensure_future(
                plugin.Allocate(allocate_request([ids[number % 4]]))
                if number % 2
                else plugin.PreStartContainer(pb.PreStartContainerRequest(devices_ids=[ids[number % 4]]))
            )
            for number in range(400)
        ]
        await serves(calm)
        await asyncio.gather(*under_way, return_exceptions=True)
    await serves(calm)
    assert set(calm.devices) <= {slot(MTTY, index) for index in range(24)}


async def test_what_a_stranger_had_made_is_removed_like_any_device_of_no_pod(begin: Begin) -> None:
    world = await begin()
    await world.offers(mtty_1=24)
    async with world.plugin(MTTY) as plugin:
        await plugin.Allocate(allocate_request([slot(MTTY, index) for index in range(24)]))
    await world.offers(mtty_1=24)  # What exists is offered, so the kubelet can give it to pods.
    await serves(world)
    await world.until(lambda: not world.devices, "all are removed")


async def test_the_device_of_a_running_vm_is_nobody_elses(calm: World) -> None:
    pod = await calm.run_pod("mtty-1")
    (device,) = calm.ids(pod)
    calm.mark(device)
    with calm.vm(device):
        async with calm.plugin(MTTY) as plugin:
            with pytest.raises(grpc.aio.AioRpcError, match="still held by the VM"):
                await plugin.Allocate(allocate_request([device]))
            await plugin.PreStartContainer(pb.PreStartContainerRequest(devices_ids=[device]))
        assert calm.is_marked(device)


@pytest.mark.parametrize("text", [b"", b"GET /metrics", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
async def test_half_open_clients_of_the_port_keep_no_scraper_out(begin: Begin, text: bytes) -> None:
    world, port = await started(begin, config=NEVER)
    await becomes(port, "/readyz", 200)
    before = descriptors(world)
    clients = []
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE))
            client.sendall(text)
            clients.append(client)
        for page in ("/healthz", "/readyz", "/metrics"):
            assert (await ask(port, page))[0] == 200
        assert descriptors(world) < before + 20
        await serves(world)


async def test_a_link_in_the_place_of_the_checkpoint_is_not_followed(begin: Begin) -> None:
    world = await begin(agent=False, kubelet=False)
    world.kubelet.plugin_directory.mkdir(parents=True, exist_ok=True)
    secret = world.directory / "secret"
    secret.write_text('{"Data": {"PodDeviceEntries": "what nobody may read"}}')
    link = world.kubelet.plugin_directory / "kubelet_internal_checkpoint"
    link.symlink_to(secret)
    await world.start_agent()
    event = await world.says("begins without what the kubelet remembers")
    assert "Too many levels of symbolic links" in str(event["reason"])
    assert "what nobody may read" not in world.raw_log
    link.unlink()
    await world.kubelet.start()
    await world.offers(mtty_1=24)


async def test_old_sockets_that_are_links_are_taken_away_and_what_they_lead_to_stays(begin: Begin) -> None:
    world = await begin(agent=False, kubelet=False)
    world.kubelet.plugin_directory.mkdir(parents=True, exist_ok=True)
    target = world.directory / "target"
    target.write_text("untouched")
    link = world.kubelet.plugin_directory / "mdev-01234567-89abcdef.sock"
    link.symlink_to(target)
    await world.start_agent()
    await world.until(lambda: not link.is_symlink())
    assert target.read_text() == "untouched"


async def test_a_checkpoint_that_names_what_can_be_no_device_keeps_nobody_from_being_served(
    begin: Begin,
) -> None:
    world = await begin(agent=False, kubelet=False)
    world.kubelet.plugin_directory.mkdir(parents=True, exist_ok=True)
    names = ["../../../x", "/etc", "a\0b", "\ud800", "x" * 5000, ""]
    entry = {"PodUID": "u", "ContainerName": "c", "ResourceName": MTTY, "DeviceIDs": {"-1": names}}
    file = world.kubelet.plugin_directory / "kubelet_internal_checkpoint"
    file.write_text(json.dumps({"Data": {"PodDeviceEntries": [entry]}}))
    await world.start_agent()
    await world.says("not registered, will try again")
    file.unlink()
    await world.kubelet.start()
    await world.offers(mtty_1=24)
    await serves(world)
