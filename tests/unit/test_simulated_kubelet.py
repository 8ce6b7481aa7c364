# ruff: noqa: N802 - the names on the wire

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import stat
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import grpc
import pytest

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.api import deviceplugin_v1beta1_pb2_grpc as rpc
from deviceplugin.api import podresources_v1_pb2 as pods_pb
from deviceplugin.api import podresources_v1_pb2_grpc as pods_rpc
from deviceplugin.simulator.kubelet.kubelet import (
    AdmissionError,
    ContainerSpec,
    PodSpec,
    SimulatedKubelet,
    StartError,
)
from deviceplugin.simulator.kubelet.podlister import RateLimit

RESOURCE = "vfio.dev/mtty-1"
NUMA = {"a": 0, "b": 0, "c": 1, "d": 1}


class FakePlugin(rpc.DevicePluginServicer):
    """A plugin for one resource that answers whatever a test tells it to."""

    def __init__(self, kubelet: SimulatedKubelet, endpoint: str = "fake.sock") -> None:
        self.kubelet = kubelet
        self.endpoint = endpoint
        self.options = pb.DevicePluginOptions()
        self.devices: dict[str, tuple[bool, int | None]] = dict.fromkeys("abc", (True, None))
        self.preferred: list[str] | None = None
        self.error: str | None = None
        self.empty_answer = False
        self.gate: asyncio.Event = asyncio.Event()
        self.gate.set()
        self.ended = asyncio.Event()
        self._send: set[asyncio.Queue[None]] = set()
        self._server: grpc.aio.Server | None = None

    async def serve(self) -> None:
        self._server = grpc.aio.server()
        rpc.add_DevicePluginServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix:{self.kubelet.plugin_directory / self.endpoint}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)

    async def register(self, *, resource: str = RESOURCE, version: str = "v1beta1") -> None:
        request = pb.RegisterRequest(version=version, endpoint=self.endpoint, resource_name=resource)
        await dial(
            self.kubelet.registration_socket,
            lambda channel: rpc.RegistrationStub(channel).Register(request, timeout=60),
        )

    async def send(self, **changed: tuple[bool, int | None]) -> None:
        self.devices |= changed
        before = self.kubelet.list_messages(RESOURCE).count
        for queue in self._send:
            queue.put_nowait(None)
        await self.kubelet.wait_for(lambda: self.kubelet.list_messages(RESOURCE).count > before)

    async def GetDevicePluginOptions(self, _request: Any, _context: Any) -> pb.DevicePluginOptions:
        return self.options

    async def ListAndWatch(self, _request: Any, _context: Any) -> AsyncIterator[pb.ListAndWatchResponse]:
        queue: asyncio.Queue[None] = asyncio.Queue()
        self._send.add(queue)
        try:
            while True:
                yield pb.ListAndWatchResponse(
                    devices=[
                        pb.Device(
                            ID=name,
                            health="Healthy" if healthy else "Unhealthy",
                            topology=None if node is None else pb.TopologyInfo(nodes=[pb.NUMANode(ID=node)]),
                        )
                        for name, (healthy, node) in self.devices.items()
                    ]
                )
                await queue.get()
        finally:
            self._send.discard(queue)
            self.ended.set()

    async def GetPreferredAllocation(self, _request: Any, context: Any) -> pb.PreferredAllocationResponse:
        await self._fail(context)
        answer = pb.ContainerPreferredAllocationResponse(deviceIDs=self.preferred)
        return pb.PreferredAllocationResponse(container_responses=[answer])

    async def Allocate(self, request: pb.AllocateRequest, context: Any) -> pb.AllocateResponse:
        await self.gate.wait()
        await self._fail(context)
        assert len(request.container_requests) == 1
        if self.empty_answer:
            return pb.AllocateResponse()
        ids = sorted(request.container_requests[0].devices_ids)
        answer = pb.ContainerAllocateResponse(envs={"IDS": ",".join(ids)})
        return pb.AllocateResponse(container_responses=[answer])

    async def PreStartContainer(self, _request: Any, context: Any) -> pb.PreStartContainerResponse:
        await self._fail(context)
        return pb.PreStartContainerResponse()

    async def _fail(self, context: Any) -> None:
        if self.error is not None:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, self.error)


async def dial(path: Path, call: Callable[[grpc.aio.Channel], Awaitable[Any]]) -> Any:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"unix:{path}", options=options) as channel:
        return await call(channel)


async def listed(kubelet: SimulatedKubelet, timeout: float = 5) -> dict[str, dict[str, list[list[str]]]]:  # noqa: ASYNC109
    """The device IDs of each entry of List, by pod and container."""
    request = pods_pb.ListPodResourcesRequest()
    response = await dial(
        kubelet.pod_resources_socket,
        lambda channel: pods_rpc.PodResourcesListerStub(channel).List(request, timeout=timeout),
    )
    return {
        pod.name: {
            container.name: [sorted(entry.device_ids) for entry in container.devices]
            for container in pod.containers
        }
        for pod in response.pod_resources
    }


def pod(name: str = "vm", count: int = 1) -> PodSpec:
    return PodSpec(name, containers=[ContainerSpec("app", {RESOURCE: count})])


def allocations(kubelet: SimulatedKubelet) -> list[set[str]]:
    return [set(call.devices) for call in kubelet.log if call.method == "Allocate"]


def checkpoint(kubelet: SimulatedKubelet) -> Any:
    return json.loads(kubelet.checkpoint.path.read_text())["Data"]


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="k") as directory:
        yield Path(directory)


@pytest.fixture
async def kubelet(root: Path) -> AsyncIterator[SimulatedKubelet]:
    async with SimulatedKubelet(root, list_empty_for=0) as kubelet:
        yield kubelet
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:  # What gRPC has for a call of its own ends a moment later.
        _, left = await asyncio.wait(left, timeout=60)
    assert not left


@pytest.fixture
async def plugin(kubelet: SimulatedKubelet) -> AsyncIterator[FakePlugin]:
    async with running(FakePlugin(kubelet)) as plugin:
        yield plugin


@contextlib.asynccontextmanager
async def running(plugin: FakePlugin) -> AsyncIterator[FakePlugin]:
    await plugin.serve()
    try:
        yield plugin
    finally:
        await plugin.stop()


async def ready(plugin: FakePlugin, **options: bool) -> None:
    """Register and wait for the first list."""
    plugin.options = pb.DevicePluginOptions(**options)
    await plugin.register()
    await plugin.kubelet.wait_for(lambda: plugin.kubelet.list_messages(RESOURCE).count)


# Registration


async def test_a_registered_plugin_s_devices_become_allocatable(
    kubelet: SimulatedKubelet, plugin: FakePlugin
) -> None:
    plugin.devices = {"a": (True, 1), "b": (False, None)}
    await ready(plugin)
    assert (kubelet.capacity(RESOURCE), kubelet.allocatable(RESOURCE)) == (2, 1)
    assert kubelet.devices(RESOURCE) == {"a": (True, 1), "b": (False, None)}
    assert kubelet.calls == {"Register": 1, "GetDevicePluginOptions": 1, "ListAndWatch": 1}


@pytest.mark.parametrize(
    ("resource", "version", "endpoint", "complaint"),
    [
        (RESOURCE, "v1beta2", "fake.sock", "not supported"),
        ("mtty", "v1beta1", "fake.sock", "invalid"),
        ("a/b/c", "v1beta1", "fake.sock", "invalid"),
        ("Vfio.dev/x", "v1beta1", "fake.sock", "invalid"),
        ("vfio.dev/x_", "v1beta1", "fake.sock", "invalid"),
        ("vfio.dev/" + "x" * 64, "v1beta1", "fake.sock", "invalid"),
        ("kubernetes.io/x", "v1beta1", "fake.sock", "invalid"),
        ("requests.vfio.dev/x", "v1beta1", "fake.sock", "invalid"),
        (RESOURCE, "v1beta1", "fake#1.sock", "can't be dialled"),
        (RESOURCE, "v1beta1", "x" * 107, "exceeds 107 bytes"),
    ],
)
async def test_a_wrong_registration_is_refused(
    kubelet: SimulatedKubelet, resource: str, version: str, endpoint: str, complaint: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=complaint):
        await FakePlugin(kubelet, endpoint).register(resource=resource, version=version)
    assert "GetDevicePluginOptions" not in kubelet.calls


async def test_a_plugin_that_does_not_serve_yet_can_not_register(root: Path) -> None:
    async with SimulatedKubelet(root, dial_timeout=0.1) as kubelet:
        with pytest.raises(grpc.aio.AioRpcError, match="failed to dial"):
            await FakePlugin(kubelet).register()


async def test_registration_is_refused_and_hangs_on_request(
    kubelet: SimulatedKubelet, plugin: FakePlugin
) -> None:
    kubelet.refuse_registration("no")
    with pytest.raises(grpc.aio.AioRpcError, match="no"):
        await plugin.register()
    kubelet.refuse_registration(None)
    kubelet.hang_registration()
    register = asyncio.create_task(plugin.register())
    await kubelet.wait_for(lambda: kubelet.calls["Register"] == 2)
    assert not register.done()
    kubelet.hang_registration(on=False)
    await register


# Streams


@pytest.mark.parametrize("who", ["kubelet", "plugin"])
async def test_the_end_of_a_stream_turns_all_devices_unhealthy(
    kubelet: SimulatedKubelet, plugin: FakePlugin, who: str
) -> None:
    await ready(plugin)
    await (kubelet.end_stream(RESOURCE) if who == "kubelet" else plugin.stop())
    await kubelet.wait_for(lambda: kubelet.allocatable(RESOURCE) == 0)
    assert kubelet.capacity(RESOURCE) == 3
    async with asyncio.timeout(60):
        await plugin.ended.wait()
    assert kubelet.calls["ListAndWatch"] == 1


@pytest.mark.parametrize(("version", "left"), [("1.36", 0), ("1.37", 3)])
async def test_the_end_of_an_old_stream_hits_the_newer_registration_in_1_36_only(
    root: Path, version: Literal["1.36", "1.37"], left: int
) -> None:
    async with (
        SimulatedKubelet(root, version=version) as kubelet,
        running(FakePlugin(kubelet, "old.sock")) as old,
        running(FakePlugin(kubelet, "new.sock")) as new,
    ):
        await ready(old)
        await new.register()
        await kubelet.wait_for(lambda: kubelet.list_messages(RESOURCE).count == 2)
        await old.stop()
        if left:
            await new.send()
        else:
            await kubelet.wait_for(lambda: kubelet.allocatable(RESOURCE) == 0)
            await asyncio.wait_for(new.ended.wait(), 5)
        assert kubelet.allocatable(RESOURCE) == left


async def test_in_1_37_the_end_of_the_newer_leaves_the_older_registration(root: Path) -> None:
    async with (
        SimulatedKubelet(root, version="1.37") as kubelet,
        running(FakePlugin(kubelet, "old.sock")) as old,
        running(FakePlugin(kubelet, "new.sock")) as new,
    ):
        await ready(old)
        await new.register()
        await kubelet.wait_for(lambda: kubelet.list_messages(RESOURCE).count == 2)
        await new.stop()
        await kubelet.wait_for(lambda: kubelet.plugins.streams == 1)
        await kubelet.admit(pod())
        assert kubelet.allocatable(RESOURCE) == 3
        await old.stop()
        await kubelet.wait_for(lambda: kubelet.allocatable(RESOURCE) == 0)


@pytest.mark.parametrize("version", ["1.36", "1.37"])
async def test_1_37_refuses_a_socket_that_is_connected_already(
    root: Path, version: Literal["1.36", "1.37"]
) -> None:
    async with SimulatedKubelet(root, version=version) as kubelet, running(FakePlugin(kubelet)) as plugin:
        await ready(plugin)
        if version == "1.36":
            await plugin.register()
        else:
            with pytest.raises(grpc.aio.AioRpcError, match="device plugin already connected"):
                await plugin.register()


async def test_a_plugin_that_is_gone_for_long_is_forgotten(root: Path) -> None:
    async with SimulatedKubelet(root, forget_after=0) as kubelet, running(FakePlugin(kubelet)) as plugin:
        await ready(plugin)
        await plugin.stop()
        await kubelet.wait_for(lambda: kubelet.capacity(RESOURCE) == 0)


async def test_an_allocated_device_that_vanishes_counts_as_a_crash(
    kubelet: SimulatedKubelet, plugin: FakePlugin
) -> None:
    await ready(plugin)
    await kubelet.admit(pod(count=3))
    await plugin.send(a=(False, None))
    assert kubelet.crashes == []
    del plugin.devices["a"]
    await plugin.send()
    assert len(kubelet.crashes) == 1


async def test_a_device_that_vanishes_during_its_own_allocate_counts_as_a_crash(
    kubelet: SimulatedKubelet, plugin: FakePlugin
) -> None:
    await ready(plugin)
    plugin.gate.clear()
    admission = asyncio.create_task(kubelet.admit(pod(count=3)))
    await kubelet.wait_for(lambda: kubelet.calls["Allocate"])
    assert await listed(kubelet) == {}
    plugin.devices.clear()
    await plugin.send()
    plugin.gate.set()
    await admission
    assert len(kubelet.crashes) == 1


# Admission


async def test_pods_get_different_devices_until_none_is_left(
    kubelet: SimulatedKubelet, plugin: FakePlugin
) -> None:
    await ready(plugin)
    first = await kubelet.admit(pod("first", 2))
    await kubelet.admit(pod("second"))
    assert kubelet.held(RESOURCE) == {"a", "b", "c"}
    with pytest.raises(AdmissionError, match="requested number of devices unavailable") as failure:
        await kubelet.admit(pod("third"))
    assert failure.value.reason == "UnexpectedAdmissionError"
    await kubelet.force_delete(first)
    await kubelet.admit(pod("fourth", 2))


async def test_the_plugin_s_words_end_up_in_the_pod_s_status(
    kubelet: SimulatedKubelet, plugin: FakePlugin
) -> None:
    await ready(plugin)
    plugin.error = "No parent has room."
    with pytest.raises(AdmissionError) as failure:
        await kubelet.admit(pod())
    assert failure.value.message == (
        "Allocate failed due to rpc error: code = ResourceExhausted desc = No parent has room., "
        "which is unexpected"
    )
    assert kubelet.held(RESOURCE) == set()
    assert await listed(kubelet) == {}


async def test_an_empty_answer_fails_the_admission(kubelet: SimulatedKubelet, plugin: FakePlugin) -> None:
    await ready(plugin)
    plugin.empty_answer = True
    with pytest.raises(AdmissionError, match="no containers return"):
        await kubelet.admit(pod())


async def test_what_an_init_container_had_is_offered_again(
    kubelet: SimulatedKubelet, plugin: FakePlugin
) -> None:
    await ready(plugin, get_preferred_allocation_available=True)
    plugin.preferred = []
    spec = PodSpec(
        "vm",
        containers=[ContainerSpec("app", {RESOURCE: 1}), ContainerSpec("init", {RESOURCE: 2}, init=True)],
    )
    await kubelet.admit(spec)
    for_init, for_app = allocations(kubelet)
    assert len(for_init) == 2
    assert for_app < for_init
    assert kubelet.calls["GetPreferredAllocation"] == 1
    assert kubelet.held(RESOURCE) == for_init
    assert await listed(kubelet) == {"vm": {"app": [sorted(for_app)]}}


async def test_a_sidecar_keeps_what_it_has(kubelet: SimulatedKubelet, plugin: FakePlugin) -> None:
    await ready(plugin)
    spec = PodSpec(
        "vm",
        containers=[
            ContainerSpec("side", {RESOURCE: 1}, init=True, restartable=True),
            ContainerSpec("app", {RESOURCE: 1}),
        ],
    )
    await kubelet.admit(spec)
    for_side, for_app = allocations(kubelet)
    assert for_side != for_app
    assert await listed(kubelet) == {"vm": {"side": [list(for_side)], "app": [list(for_app)]}}


async def test_the_plugin_s_preference_counts_within_what_was_offered(
    kubelet: SimulatedKubelet, plugin: FakePlugin
) -> None:
    await ready(plugin, get_preferred_allocation_available=True)
    plugin.preferred = ["b", "nonsense"]
    await kubelet.admit(pod())
    assert allocations(kubelet) == [{"b"}]
    plugin.error = "I can't choose."
    with pytest.raises(AdmissionError, match="I can't choose"):
        await kubelet.admit(pod())
    assert kubelet.calls["Allocate"] == 1


async def test_devices_are_taken_from_as_few_numa_nodes_as_possible(
    kubelet: SimulatedKubelet, plugin: FakePlugin
) -> None:
    plugin.devices = {name: (True, node) for name, node in NUMA.items()} | {"e": (True, None)}
    await ready(plugin, get_preferred_allocation_available=True)
    plugin.preferred = ["d"]
    await kubelet.admit(pod("one", 2))
    assert allocations(kubelet) == [{"a", "b"}]
    assert "GetPreferredAllocation" not in kubelet.calls
    assert sorted((await listed(kubelet))["one"]["app"]) == [["a"], ["b"]]
    assert set(checkpoint(kubelet)["PodDeviceEntries"][0]["DeviceIDs"]) == {"0"}
    await kubelet.admit(pod("two"))
    assert allocations(kubelet)[1] == {"d"}


async def test_the_order_of_ids_is_random_but_repeatable(root: Path) -> None:
    orders = set()
    for seed in (1, 1, 2, 3):
        kubelet = SimulatedKubelet(root, seed=seed)
        async with kubelet, running(FakePlugin(kubelet)) as plugin:
            plugin.devices = {str(number): (True, None) for number in range(20)}
            await ready(plugin)
            await kubelet.admit(pod(count=20))
            orders.add(kubelet.log[-1].devices)
        kubelet.checkpoint.path.unlink()
    assert len(orders) == 3


async def test_a_pod_turned_down_after_allocate_leaves_its_device_with_the_plugin(
    kubelet: SimulatedKubelet, plugin: FakePlugin
) -> None:
    await ready(plugin)
    with pytest.raises(AdmissionError, match="OutOfcpu"):
        await kubelet.admit(pod(), reject_after_allocate=True)
    assert kubelet.calls["Allocate"] == 1
    assert await listed(kubelet) == {}
    assert kubelet.held(RESOURCE) == set()


# Starts


async def test_containers_start_after_pre_start_with_what_allocate_said(
    kubelet: SimulatedKubelet, plugin: FakePlugin
) -> None:
    await ready(plugin, pre_start_required=True)
    admitted = await kubelet.admit(pod(count=3))
    plugin.error = "not now"
    with pytest.raises(StartError, match="not now"):
        await kubelet.start_containers(admitted)
    plugin.error = None
    answers = await kubelet.start_containers(admitted)
    assert answers["app"].envs == {"IDS": "a,b,c"}
    assert await kubelet.restart_container(admitted, "app") == answers["app"]
    await kubelet.start_containers(admitted)
    assert (kubelet.calls["PreStartContainer"], kubelet.calls["Allocate"]) == (3, 1)


async def test_pre_start_is_skipped_between_a_kubelet_s_start_and_registration(
    kubelet: SimulatedKubelet, plugin: FakePlugin
) -> None:
    await ready(plugin, pre_start_required=True)
    admitted = await kubelet.admit(pod())
    await kubelet.stop()
    await kubelet.start()
    answer = await kubelet.restart_container(admitted, "app")
    assert answer.envs["IDS"] in "abc"
    assert "PreStartContainer" not in kubelet.calls


@pytest.mark.parametrize("pre_start", [False, True])
async def test_a_kubelet_that_lost_its_memory_allocates_again_unless_pre_start_comes_first(
    kubelet: SimulatedKubelet, plugin: FakePlugin, pre_start: Literal[False, True]
) -> None:
    await ready(plugin)
    admitted = await kubelet.admit(pod())
    await kubelet.damage_checkpoint("missing")
    await kubelet.stop()
    await kubelet.start()
    async with running(FakePlugin(kubelet, "again.sock")) as again:
        await ready(again, pre_start_required=pre_start)
        if pre_start:
            with pytest.raises(StartError, match="no devices found"):
                await kubelet.start_containers(admitted)
        else:
            await kubelet.start_containers(admitted)
            assert kubelet.calls["Allocate"] == 2
            again.devices.clear()
            await again.send()


async def test_a_kubelet_that_dies_during_allocate_fails_the_admission(
    kubelet: SimulatedKubelet, plugin: FakePlugin
) -> None:
    await ready(plugin)
    plugin.gate.clear()
    admission = asyncio.create_task(kubelet.admit(pod()))
    await kubelet.wait_for(lambda: kubelet.calls["Allocate"])
    await kubelet.kill()
    with pytest.raises(AdmissionError, match="Cancel"):
        await admission
    await kubelet.start()
    assert kubelet.held(RESOURCE) == set()


async def test_a_plugin_that_never_answers_is_given_up_in_the_end(root: Path) -> None:
    async with SimulatedKubelet(root, call_timeout=0.1) as kubelet, running(FakePlugin(kubelet)) as plugin:
        await ready(plugin)
        plugin.gate.clear()
        with pytest.raises(AdmissionError, match="no answer to Allocate"):
            await kubelet.admit(pod())


async def test_a_container_can_not_start_while_its_plugin_is_gone(
    kubelet: SimulatedKubelet, plugin: FakePlugin
) -> None:
    await ready(plugin, pre_start_required=True)
    admitted = await kubelet.admit(pod())
    await plugin.stop()
    await kubelet.wait_for(lambda: kubelet.allocatable(RESOURCE) == 0)
    with pytest.raises(StartError, match="has been stopped"):
        await kubelet.start_containers(admitted)


# The end of pods, the checkpoint


async def test_a_frozen_checkpoint_is_not_written_any_more(
    kubelet: SimulatedKubelet, plugin: FakePlugin
) -> None:
    await ready(plugin)
    await kubelet.damage_checkpoint("frozen")
    await kubelet.admit(pod())
    assert checkpoint(kubelet)["PodDeviceEntries"] is None
    await kubelet.damage_checkpoint(None)
    assert len(checkpoint(kubelet)["PodDeviceEntries"]) == 1


async def test_the_checkpoint_stays_stale_until_a_list_comes(
    kubelet: SimulatedKubelet, plugin: FakePlugin
) -> None:
    await ready(plugin)
    admitted = await kubelet.admit(pod(count=3))
    entry = checkpoint(kubelet)["PodDeviceEntries"][0]
    assert uuid.UUID(entry["PodUID"])
    assert sorted(entry["DeviceIDs"]["-1"]) == ["a", "b", "c"]
    assert (entry["ContainerName"], entry["ResourceName"]) == ("app", RESOURCE)
    response = pb.ContainerAllocateResponse.FromString(base64.b64decode(entry["AllocResp"]))
    assert response.envs == {"IDS": "a,b,c"}
    assert sorted(checkpoint(kubelet)["RegisteredDevices"][RESOURCE]) == ["a", "b", "c"]
    assert stat.S_IMODE(kubelet.checkpoint.path.stat().st_mode) == 0o600

    await kubelet.delete(admitted, linger=0)
    await plugin.send()
    await kubelet.damage_checkpoint(None)
    assert checkpoint(kubelet)["PodDeviceEntries"] == [entry], "nobody asked: still in memory"
    assert await listed(kubelet) == {}
    assert checkpoint(kubelet)["PodDeviceEntries"] == [entry], "forgotten, but not written"
    await kubelet.damage_checkpoint(None)
    assert checkpoint(kubelet)["PodDeviceEntries"] is None


async def test_a_pod_that_is_deleted_stays_listed_until_its_containers_stopped(
    kubelet: SimulatedKubelet, plugin: FakePlugin
) -> None:
    await ready(plugin)
    admitted = await kubelet.admit(pod())
    await kubelet.start_containers(admitted)
    stopped = asyncio.Event()
    deletion = asyncio.create_task(kubelet.delete(admitted, containers_stop=stopped.wait(), linger=0))
    await kubelet.wait_for(lambda: admitted.phase == "Terminating")
    assert "vm" in await listed(kubelet)
    stopped.set()
    await deletion
    assert await listed(kubelet) == {}


@pytest.mark.parametrize("damage", ["corrupt", "missing", "unreadable"])
async def test_a_damaged_checkpoint_costs_the_kubelet_its_memory(
    kubelet: SimulatedKubelet, plugin: FakePlugin, damage: Literal["corrupt", "missing", "unreadable"]
) -> None:
    await ready(plugin)
    await kubelet.admit(pod())
    await kubelet.damage_checkpoint(damage)
    with pytest.raises((OSError, ValueError)):
        checkpoint(kubelet)
    await kubelet.stop()
    await kubelet.start()
    assert kubelet.held(RESOURCE) == set()
    await kubelet.damage_checkpoint(None)
    assert checkpoint(kubelet) == {"PodDeviceEntries": None, "RegisteredDevices": {}}


# Restarts


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_a_kubelet_that_ends_leaves_its_sockets_and_breaks_streams(
    kubelet: SimulatedKubelet, plugin: FakePlugin, end: str
) -> None:
    await ready(plugin)
    await getattr(kubelet, end)()
    assert kubelet.registration_socket.is_socket()
    assert kubelet.pod_resources_socket.is_socket()
    await asyncio.wait_for(plugin.ended.wait(), 5)
    with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
        await plugin.register()
    with pytest.raises(RuntimeError):
        await kubelet.admit(pod())
    await kubelet.start()
    assert not (kubelet.plugin_directory / plugin.endpoint).exists()
    assert kubelet.checkpoint.path.exists()


async def test_a_restarted_kubelet_knows_its_allocations_and_lists_them_late(root: Path) -> None:
    kubelet = SimulatedKubelet(root, list_empty_for=0)
    async with kubelet, running(FakePlugin(kubelet)) as plugin:
        await ready(plugin)
        await kubelet.admit(pod("one"))
        await kubelet.admit(pod("two"))
        kubelet.delay_list(after=0.3, empty_for=0.3, partial_for=0.3)
        await kubelet.kill()
        await kubelet.start()
        assert (kubelet.capacity(RESOURCE), len(kubelet.held(RESOURCE))) == (0, 2)
        with pytest.raises(AdmissionError, match="no healthy devices present"):
            await kubelet.admit(pod("three"))
        with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
            await listed(kubelet)
        await kubelet.wait_for(lambda: kubelet.list_state == "empty")
        assert len(await listed(kubelet)) == 0
        await kubelet.wait_for(lambda: kubelet.list_state == "part")
        assert len(await listed(kubelet)) == 1
        await kubelet.wait_for(lambda: kubelet.list_state == "all")
        assert len(await listed(kubelet)) == 2


async def test_without_an_api_server_list_stays_empty_and_nothing_is_forgotten(root: Path) -> None:
    kubelet = SimulatedKubelet(root, list_empty_for=0)
    async with kubelet, running(FakePlugin(kubelet)) as plugin:
        await ready(plugin)
        gone = await kubelet.admit(pod())
        kubelet.set_api_server(up=False)
        await kubelet.kill()
        await kubelet.start()
        assert await listed(kubelet) == {}
        await kubelet.force_delete(gone)
        await listed(kubelet)
        assert len(kubelet.held(RESOURCE)) == 1
        kubelet.set_api_server(up=True)
        await kubelet.wait_for(lambda: kubelet.sources_ready)
        assert kubelet.held(RESOURCE) == set()


async def test_after_a_reboot_a_pod_comes_back_without_allocate_if_its_device_is_healthy(
    kubelet: SimulatedKubelet, plugin: FakePlugin
) -> None:
    await ready(plugin, pre_start_required=True)
    early, late = await kubelet.admit(pod("early")), await kubelet.admit(pod("late"))
    await kubelet.start_containers(late)
    await plugin.stop()
    await kubelet.reboot()
    with pytest.raises(AdmissionError, match="no healthy devices present"):
        await kubelet.readmit(early)
    assert early.phase == "Failed"
    async with running(FakePlugin(kubelet, "again.sock")) as again:
        await ready(again, pre_start_required=True)
        await kubelet.readmit(late)
        await kubelet.start_containers(late)
        await again.send(**dict.fromkeys(kubelet.held(RESOURCE), (False, None)))
        with pytest.raises(AdmissionError, match="no longer healthy"):
            await kubelet.readmit(late)
    assert (kubelet.calls["Allocate"], kubelet.calls["PreStartContainer"]) == (2, 2)
    assert kubelet.pods == ()


# List


async def test_list_can_be_throttled_failed_and_hung(kubelet: SimulatedKubelet) -> None:
    kubelet.throttle(1)
    with pytest.raises(grpc.aio.AioRpcError, match="RESOURCE_EXHAUSTED"):
        await listed(kubelet)
    kubelet.fail_list(grpc.StatusCode.INTERNAL)
    with pytest.raises(grpc.aio.AioRpcError, match="INTERNAL"):
        await listed(kubelet)
    kubelet.fail_list(None)
    kubelet.hang_list()
    with pytest.raises(grpc.aio.AioRpcError, match="DEADLINE_EXCEEDED"):
        await listed(kubelet, timeout=0.1)
    kubelet.hang_list(on=False)
    assert await listed(kubelet) == {}


async def test_more_than_the_rate_limit_allows_is_turned_down(kubelet: SimulatedKubelet) -> None:
    now = 0.0
    kubelet.limit_list(RateLimit(lambda: now))

    async def granted() -> int:
        results = await asyncio.gather(*(listed(kubelet) for _ in range(15)), return_exceptions=True)
        refused = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
        assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        return 15 - len(refused)

    assert await granted() == 10
    now = 0.055
    assert await granted() == 5
    now = 10
    assert await granted() == 10


async def test_waiting_ends_with_the_deadline_and_shows_the_condition_s_own_error(
    kubelet: SimulatedKubelet, plugin: FakePlugin
) -> None:
    with pytest.raises(TimeoutError):
        await kubelet.wait_for(lambda: False, timeout=0.01)
    waiting = asyncio.create_task(kubelet.wait_for(lambda: 1 // (1 - kubelet.capacity(RESOURCE) // 3) > 1))
    await asyncio.sleep(0)
    await ready(plugin)
    with pytest.raises(ZeroDivisionError):
        await waiting
