"""The kubelet's pod resources service: the answers, the rate limit, and the ways in which it can fail."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Literal

import grpc

from deviceplugin.api import podresources_v1_pb2 as pb
from deviceplugin.api import podresources_v1_pb2_grpc as rpc
from deviceplugin.simulator.kubelet.changes import Changes
from deviceplugin.simulator.kubelet.checkpointfile import Entry
from deviceplugin.simulator.kubelet.pods import ContainerSpec, Pod

State = Literal["down", "empty", "part", "all"]

RATE = 100.0
BURST = 10


class RateLimit:
    """A bucket of ``BURST`` tokens that fills at ``RATE`` a second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tokens = float(BURST)
        self._filled = clock()

    def allows(self) -> bool:
        """Take a token, if there is one."""
        now = self._clock()
        self._tokens = min(float(BURST), self._tokens + (now - self._filled) * RATE)
        self._filled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class PodLister(rpc.PodResourcesListerServicer):
    """Answers List and GetAllocatableResources, which share their rate limit.

    After a kubelet's start it comes to know only bit by bit which pods there are; devices it knows at once.

    Args:
        changes: told of each step.
        answer: gives the answer, for a share of the pods.
        healthy: gives the healthy devices of each resource, with their NUMA nodes.
        after: seconds from a start until the service is there.
        empty_for: seconds for which it then lists nothing.
        partial_for: seconds for which it then leaves out the later half of the pods.
        api_server_up: without an API server it goes on listing nothing.
    """

    def __init__(
        self,
        changes: Changes,
        answer: Callable[[State], pb.ListPodResourcesResponse],
        healthy: Callable[[], Mapping[str, Mapping[str, Iterable[int]]]],
        *,
        after: float,
        empty_for: float,
        partial_for: float,
        api_server_up: bool,
    ) -> None:
        self.after = after
        self.empty_for = empty_for
        self.partial_for = partial_for
        self.api_server_up = api_server_up
        self.state: State = "down"
        self.limit = RateLimit()
        self.throttle = 0
        """How many more requests are turned down as one too many."""
        self.fail: grpc.StatusCode | None = None
        self.hang = False
        self._changes = changes
        self._answer = answer
        self._healthy = healthy
        self.too_old = False
        """Whether GetAllocatableResources is unknown, as before Kubernetes 1.21."""

    async def wake(self, serve: Callable[[], Awaitable[None]]) -> None:
        """Go through what follows a start, until everything is listed."""
        await asyncio.sleep(self.after)
        await serve()
        self._enter("empty")
        await asyncio.sleep(self.empty_for)
        await self._changes.wait_for(lambda: self.api_server_up, timeout=None)
        self._enter("part")
        await asyncio.sleep(self.partial_for)
        self._enter("all")

    def _enter(self, state: State) -> None:
        self.state = state
        self._changes.notify()

    async def List(  # noqa: N802 - the name on the wire
        self, _: pb.ListPodResourcesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListPodResourcesResponse:
        await self._admit(context)
        return self._answer(self.state)

    async def GetAllocatableResources(  # noqa: N802 - the name on the wire
        self, _: pb.AllocatableResourcesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.AllocatableResourcesResponse:
        if self.too_old:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "unknown method GetAllocatableResources")
        await self._admit(context)
        # Each device is an entry of its own; one with several NUMA nodes is one for each of them.
        return pb.AllocatableResourcesResponse(
            devices=[
                pb.ContainerDevices(resource_name=resource, device_ids=[device])
                for resource, devices in self._healthy().items()
                for device, nodes in devices.items()
                for _ in nodes or (None,)
            ]
        )

    async def _admit(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        if self.throttle > 0 or not self.limit.allows():
            self.throttle = max(0, self.throttle - 1)
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")
        await self._changes.wait_for(lambda: not self.hang, timeout=None)
        if self.fail is not None:
            await context.abort(self.fail, "the simulated kubelet was told to fail")


def pod_resources(
    pods: Iterable[Pod], memory: Mapping[tuple[str, str, str], Entry]
) -> pb.ListPodResourcesResponse:
    """What List says of pods; init containers that are over before the others start are left out."""
    return pb.ListPodResourcesResponse(
        pod_resources=[
            pb.PodResources(
                name=pod.spec.name,
                namespace=pod.spec.namespace,
                containers=[
                    pb.ContainerResources(name=container.name, devices=_devices(pod, container, memory))
                    for container in pod.spec.containers
                    if not container.passes_on
                ],
            )
            for pod in pods
        ]
    )


def _devices(
    pod: Pod, container: ContainerSpec, memory: Mapping[tuple[str, str, str], Entry]
) -> list[pb.ContainerDevices]:
    found = []
    for (uid, name, resource), entry in memory.items():
        if (uid, name) != (pod.uid, container.name):
            continue
        plain = [device for device, nodes in entry.devices.items() if not nodes]
        if plain:
            found.append(pb.ContainerDevices(resource_name=resource, device_ids=plain))
        found += [
            pb.ContainerDevices(resource_name=resource, device_ids=[device])
            for device, nodes in entry.devices.items()
            if nodes
        ]
    return found
