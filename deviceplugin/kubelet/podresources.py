"""Who has which device, and which are healthy, by the kubelet's pod resources service.

The answer to the first covers active pods and leaves out ordinary init containers; it can be empty for a
while after a kubelet start. So a name in it is proof that a device is wanted, and no name is no proof of
anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deviceplugin.api import podresources_v1_pb2 as pb
from deviceplugin.api import podresources_v1_pb2_grpc as rpc
from deviceplugin.errors import KubeletError
from deviceplugin.kubelet.channel import kubelet_channel

LIST_DEADLINE = 3.0
"""Seconds for either answer."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A container that has a device."""

    namespace: str
    pod: str
    container: str
    resource: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.pod}"


@dataclass(frozen=True, slots=True)
class Listing:
    """One answer of the kubelet's."""

    pods: frozenset[str]
    """The active pods, each as ``namespace/name``, with devices or without."""
    holders: dict[str, Holder]
    """The holder of each device that is named, by device ID."""


async def list_pods(socket: Path) -> Listing:
    """The pods that the kubelet names, and who has which device.

    Raises:
        KubeletError: the kubelet did not answer in time, or refused.
    """
    async with kubelet_channel(socket) as channel:
        call = rpc.PodResourcesListerStub(channel).List
        response: pb.ListPodResourcesResponse | None = await call(
            pb.ListPodResourcesRequest(), timeout=LIST_DEADLINE
        )
    if response is None:  # That is what gRPC makes of an answer that it can't read.
        raise KubeletError(f"the answer of the kubelet at {socket} can't be understood")
    return Listing(
        frozenset(f"{pod.namespace}/{pod.name}" for pod in response.pod_resources),
        {
            device: Holder(pod.namespace, pod.name, container.name, devices.resource_name)
            for pod in response.pod_resources
            for container in pod.containers
            for devices in container.devices
            for device in devices.device_ids
        },
    )


async def list_holders(socket: Path) -> dict[str, Holder]:
    """The holder of each device that the kubelet names, by device ID; see ``list_pods``."""
    return (await list_pods(socket)).holders


async def list_healthy(socket: Path) -> dict[str, frozenset[str]]:
    """The devices that the kubelet takes for healthy, by resource; one that has none is left out.

    Raises:
        KubeletError: the kubelet did not answer in time, refused, or is too old to be asked (before 1.23).
    """
    async with kubelet_channel(socket) as channel:
        call = rpc.PodResourcesListerStub(channel).GetAllocatableResources
        response: pb.AllocatableResourcesResponse | None = await call(
            pb.AllocatableResourcesRequest(), timeout=LIST_DEADLINE
        )
    if response is None:
        raise KubeletError(f"the answer of the kubelet at {socket} can't be understood")
    healthy: dict[str, set[str]] = {}
    for devices in response.devices:
        healthy.setdefault(devices.resource_name, set()).update(devices.device_ids)
    return {resource: frozenset(found) for resource, found in healthy.items()}
