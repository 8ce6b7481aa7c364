"""The least kubelet that an agent registers with: it answers, listens to every list, and does no more.

What it costs is not to be taken for the agent's time, so lists are kept as they come and read afterwards.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.api import deviceplugin_v1beta1_pb2_grpc as rpc
from deviceplugin.kubelet.paths import KubeletPaths

_PATIENCE = 20.0
"""Seconds for anything that has to come."""


class Listener(rpc.RegistrationServicer):
    """Serves Register, and has a client and a stream for each endpoint that registers."""

    def __init__(self, root: Path) -> None:
        self._paths = KubeletPaths(root)
        self._paths.plugins.mkdir(parents=True)
        self._server = grpc.aio.server()
        rpc.add_RegistrationServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix:{self._paths.registration}")
        self._channels: list[grpc.aio.Channel] = []
        self._streams: list[asyncio.Task[None]] = []
        self._came = asyncio.Condition()
        self.stubs: dict[str, Any] = {}
        self.lists: dict[str, pb.ListAndWatchResponse] = {}
        """The last list of each resource."""
        self.arrivals: defaultdict[str, list[tuple[float, pb.ListAndWatchResponse]]] = defaultdict(list)
        """All lists since somebody cleared this, each with its time on the monotonic clock."""

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for stream in self._streams:
            stream.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)
        for channel in self._channels:
            await channel.close()
        await self._server.stop(None)

    async def Register(  # noqa: N802
        self, request: pb.RegisterRequest, _context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.Empty:
        channel, stub = connect(self._paths.plugins / request.endpoint)
        # As the kubelet does, before it answers.
        await stub.GetDevicePluginOptions(pb.Empty())
        self._channels.append(channel)
        self.stubs[request.resource_name] = stub
        self._streams.append(asyncio.create_task(self._listen(request.resource_name, stub)))
        return pb.Empty()

    async def resources(self, count: int) -> None:
        """Wait until so many resources have sent a list."""
        async with asyncio.timeout(_PATIENCE), self._came:
            await self._came.wait_for(lambda: len(self.lists) >= count)

    def healthy(self, resource: str) -> list[str]:
        return [device.ID for device in self.lists[resource].devices if device.health == "Healthy"]

    async def _listen(self, resource: str, stub: Any) -> None:
        async for message in stub.ListAndWatch(pb.Empty()):
            self.arrivals[resource].append((time.monotonic(), message))
            self.lists[resource] = message
            async with self._came:
                self._came.notify_all()


def connect(socket: Path) -> tuple[grpc.aio.Channel, Any]:
    """A client of a device plugin, with a connection of its own."""
    channel = grpc.aio.insecure_channel(f"unix:{socket}", options=[("grpc.use_local_subchannel_pool", 1)])
    return channel, rpc.DevicePluginStub(channel)
