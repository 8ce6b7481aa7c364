"""The kubelet's pod resources service: the answer, the rate limit, and the ways in which it can fail."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import grpc

from deviceplugin.api import podresources_v1_pb2 as pb
from deviceplugin.api import podresources_v1_pb2_grpc as rpc
from deviceplugin.simulator.changes import Changes
from deviceplugin.simulator.checkpointfile import Entry
from deviceplugin.simulator.pods import ContainerSpec, Pod

RATE = 100.0
BURST = 10


class PodLister(rpc.PodResourcesListerServicer):
    """Answers List. One limit holds for all clients together."""

    def __init__(self, changes: Changes, answer: Callable[[], pb.ListPodResourcesResponse]) -> None:
        self._changes = changes
        self._answer = answer
        self._tokens = float(BURST)
        self._filled = time.monotonic()
        self.throttle = 0
        """How many more requests are turned down as one too many."""
        self.fail: grpc.StatusCode | None = None
        self.hang = False

    async def List(  # noqa: N802 - the name on the wire
        self, _: pb.ListPodResourcesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListPodResourcesResponse:
        if self.throttle > 0 or not self._allowed():
            self.throttle = max(0, self.throttle - 1)
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")
        await self._changes.wait_for(lambda: not self.hang, timeout=None)
        if self.fail is not None:
            await context.abort(self.fail, "the simulated kubelet was told to fail")
        return self._answer()

    def _allowed(self) -> bool:
        now = time.monotonic()
        self._tokens = min(float(BURST), self._tokens + (now - self._filled) * RATE)
        self._filled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


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
