"""The device plugins that a simulated kubelet knows: registration, their lists of devices, calls to them.

After ``pkg/kubelet/cm/devicemanager/plugin/v1beta1`` of Kubernetes v1.36 and v1.37. The two differ in how
they find a plugin again when its stream ends: by its resource, which hits whoever registered for it last,
or by its socket.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import grpc

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.api import deviceplugin_v1beta1_pb2_grpc as rpc
from deviceplugin.simulator.kubelet.changes import Changes
from deviceplugin.simulator.kubelet.plugin import Call, Plugin, PluginError, is_cancelled
from deviceplugin.simulator.kubelet.registration import objection

Version = Literal["1.36", "1.37"]
T = TypeVar("T")

PRE_START_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class ListedDevice:
    healthy: bool
    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ListMessages:
    """The lists that came for a resource since the kubelet started."""

    count: int = 0
    last: float = 0.0
    """When the last one came, on the monotonic clock."""


@dataclass(slots=True)
class RegistrationFaults:
    refuse: str | None = None
    hang: bool = False


class Plugins(rpc.RegistrationServicer):
    """Everything that a kubelet knows of plugins between its start and its end."""

    def __init__(
        self,
        directory: Path,
        *,
        version: Version,
        changes: Changes,
        faults: RegistrationFaults,
        log: list[Call],
        on_list: Callable[[str], Awaitable[None]],
        dial_timeout: float,
        call_timeout: float,
        forget_after: float,
    ) -> None:
        self._directory = directory
        self._by_path = version == "1.37"
        self._changes = changes
        self._faults = faults
        self._log = log
        self._on_list = on_list
        self._dial_timeout = dial_timeout
        self._call_timeout = call_timeout
        self._forget_after = forget_after
        self._listed: dict[str, dict[str, ListedDevice]] = {}
        self._messages: dict[str, ListMessages] = {}
        self._clients: dict[str, Plugin] = {}
        self._endpoints: dict[str, Plugin] = {}
        self._watches: dict[Plugin, asyncio.Task[None]] = {}
        self._closing = False

    # What is known

    def remember(self, resource: str) -> None:
        """Know a resource from the checkpoint: no devices until its plugin registers again."""
        self._listed.setdefault(resource, {})

    def listed(self, resource: str) -> dict[str, ListedDevice] | None:
        """The devices of a resource, or None if the kubelet does not know it (any more)."""
        plugin = self._endpoints.get(resource)
        stopped_at = plugin.stopped_at if plugin else None
        if stopped_at is not None and time.monotonic() - stopped_at > self._forget_after:
            return None
        return self._listed.get(resource)

    @property
    def registered(self) -> dict[str, list[str]]:
        """The healthy devices of each resource, as the checkpoint has them."""
        return {
            resource: [device for device, state in devices.items() if state.healthy]
            for resource, devices in self._listed.items()
        }

    @property
    def healthy(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """The healthy devices of each resource that is not forgotten, with their NUMA nodes."""
        return {
            resource: {device: state.nodes for device, state in devices.items() if state.healthy}
            for resource in self._listed
            if (devices := self.listed(resource)) is not None
        }

    def options(self, resource: str) -> pb.DevicePluginOptions | None:
        """What the plugin wants to be asked; None if it has not registered since the kubelet's start."""
        plugin = self._endpoints.get(resource)
        return plugin.options if plugin else None

    def messages(self, resource: str) -> ListMessages:
        return self._messages.get(resource, ListMessages())

    # Registration

    async def Register(  # noqa: N802 - the name on the wire
        self, request: pb.RegisterRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.Empty:
        self._log.append(Call("Register", request.resource_name))
        self._changes.notify()
        await self._changes.wait_for(lambda: not self._faults.hang, timeout=None)
        refusal = self._faults.refuse or objection(request, self._directory)
        if refusal is None:
            try:
                await self._connect(request.resource_name, self._directory / request.endpoint)
            except PluginError as error:
                refusal = str(error)
        if refusal is not None:
            await context.abort(grpc.StatusCode.UNKNOWN, refusal)
        return pb.Empty()

    async def _connect(self, resource: str, path: Path) -> None:
        key = str(path) if self._by_path else resource
        if self._by_path and key in self._clients:
            raise PluginError(f"device plugin already connected: {path}")
        # Without a pool of its own, a channel would share the dead connection of an earlier socket here.
        channel = grpc.aio.insecure_channel(f"unix:{path}", options=[("grpc.use_local_subchannel_pool", 1)])
        plugin = Plugin(
            resource,
            key,
            channel,
            rpc.DevicePluginStub(channel),
            changes=self._changes,
            log=self._log,
            call_timeout=self._call_timeout,
        )
        self._clients[key] = plugin
        try:
            async with asyncio.timeout(self._dial_timeout):
                await channel.channel_ready()
                plugin.options = await plugin.call("GetDevicePluginOptions", pb.Empty())
            plugin.check_open()
        except BaseException as error:
            if self._clients.get(key) is plugin:
                del self._clients[key]
            await plugin.close()
            if isinstance(error, TimeoutError):
                raise PluginError(f"failed to dial device plugin: no answer on {path}") from None
            if isinstance(error, grpc.aio.UsageError):
                raise PluginError(f"failed to dial device plugin: disconnected meanwhile on {path}") from None
            raise
        self._endpoints[resource] = plugin
        self._listed.setdefault(resource, {})
        self._log.append(Call("ListAndWatch", resource))
        plugin.stream = plugin.stub.ListAndWatch(pb.Empty())
        self._watches[plugin] = asyncio.create_task(self._watch(plugin), name=f"list-and-watch {resource}")
        self._changes.notify()

    # The list of devices

    async def _watch(self, plugin: Plugin) -> None:
        try:
            await self._read(plugin)
            await plugin.answered()
            await plugin.close()
            ended = None if self._closing else self._clients.pop(plugin.key, None)
            if ended is not None:
                await ended.close()
                self._disconnected(ended)
        finally:
            del self._watches[plugin]
            self._changes.notify()

    async def _read(self, plugin: Plugin) -> None:
        """Take in the lists until the stream ends, at whoever's wish."""
        try:
            async for message in plugin.stream:
                await self._receive(plugin.resource, message)
        except grpc.aio.AioRpcError:
            pass
        except asyncio.CancelledError:
            # In this way gRPC also reports a call that we cancelled.
            if is_cancelled():
                raise

    def _disconnected(self, plugin: Plugin) -> None:
        others = [
            other
            for other in self._clients.values()
            if other.resource == plugin.resource and other in self._watches
        ]
        if self._by_path and others:
            # Another plugin of the resource goes on, and takes its place if it was the last to come.
            if self._endpoints.get(plugin.resource) is plugin:
                self._endpoints[plugin.resource] = others[-1]
            return
        devices = self._listed.get(plugin.resource, {})
        self._listed[plugin.resource] = {
            device: ListedDevice(healthy=False, nodes=state.nodes) for device, state in devices.items()
        }

    async def _receive(self, resource: str, message: pb.ListAndWatchResponse) -> None:
        self._listed[resource] = {
            device.ID: ListedDevice(
                healthy=device.health == "Healthy", nodes=tuple(node.ID for node in device.topology.nodes)
            )
            for device in message.devices
        }
        self._changes.notify()
        await self._on_list(resource)
        # Counted last, so that whoever waits for a list finds the checkpoint written.
        self._messages[resource] = ListMessages(self.messages(resource).count + 1, time.monotonic())
        self._changes.notify()

    async def end_stream(self, resource: str) -> None:
        """Cancel the ListAndWatch of a resource from the kubelet's side."""
        plugin = self._endpoints.get(resource)
        if plugin is None or plugin.stream is None:
            raise LookupError(f"No plugin has registered {resource}.")
        plugin.stream.cancel()
        await self._changes.wait_for(lambda: plugin not in self._watches)

    async def close(self) -> None:
        """Break every connection; nothing is marked or told any more."""
        self._closing = True
        watches = tuple(self._watches.values())
        for plugin in {*self._clients.values(), *self._watches}:
            await plugin.close()
        async with asyncio.timeout(self._dial_timeout):
            await asyncio.gather(*watches)

    def listens_to(self, resource: str) -> bool:
        """Whether a resource has a plugin whose list is read."""
        plugin = self._endpoints.get(resource)
        return plugin is not None and plugin.stopped_at is None

    @property
    def streams(self) -> int:
        """How many lists are read, those included of plugins that others have replaced."""
        return len(self._watches)

    # Calls

    async def allocate(self, resource: str, devices: Iterable[str]) -> pb.AllocateResponse:
        ids = list(devices)
        request = pb.AllocateRequest(container_requests=[pb.ContainerAllocateRequest(devices_ids=ids)])
        return await self._ask(resource, "Allocate", request, ids, pb.AllocateResponse)

    async def pre_start(self, resource: str, devices: Iterable[str]) -> None:
        ids = list(devices)
        request = pb.PreStartContainerRequest(devices_ids=ids)
        await self._ask(
            resource,
            "PreStartContainer",
            request,
            ids,
            pb.PreStartContainerResponse,
            timeout=PRE_START_TIMEOUT,
        )

    async def prefer(self, resource: str, offered: set[str], included: set[str], size: int) -> set[str]:
        """What the plugin prefers; nothing if it does not want to be asked."""
        options = self.options(resource)
        if options is None or not options.get_preferred_allocation_available:
            return set()
        ids = sorted(offered)
        container = pb.ContainerPreferredAllocationRequest(
            available_deviceIDs=ids, must_include_deviceIDs=sorted(included), allocation_size=size
        )
        request = pb.PreferredAllocationRequest(container_requests=[container])
        response = await self._ask(
            resource, "GetPreferredAllocation", request, ids, pb.PreferredAllocationResponse
        )
        return {device for answer in response.container_responses[:1] for device in answer.deviceIDs}

    async def _ask(
        self,
        resource: str,
        method: str,
        request: object,
        devices: Iterable[str],
        _answer: type[T],
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the deadline goes over the wire
    ) -> T:
        plugin = self._endpoints.get(resource)
        if plugin is None:
            raise PluginError(f"unknown Device Plugin {resource}")
        plugin.check_open()
        answer: T = await plugin.call(method, request, timeout=timeout, devices=tuple(devices))
        return answer
