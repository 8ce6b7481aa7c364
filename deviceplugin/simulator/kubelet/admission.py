"""Who holds which device: the kubelet's memory of allocations, and its way to new ones.

After ``pkg/kubelet/cm/devicemanager`` of Kubernetes v1.36. What is freed stays in memory until somebody
asks, and in the checkpoint until the next writing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.simulator.kubelet.checkpointfile import CheckpointFile, Entry
from deviceplugin.simulator.kubelet.plugin import PluginError
from deviceplugin.simulator.kubelet.plugins import Plugins
from deviceplugin.simulator.kubelet.pods import (
    AdmissionError,
    Chooser,
    ContainerSpec,
    NoDevicesError,
    Pod,
    StartError,
    TopologyError,
)


class Admission:
    """Allocations between a kubelet's start and its end."""

    def __init__(
        self,
        plugins: Plugins,
        chooser: Chooser,
        checkpoint: CheckpointFile,
        is_active: Callable[[str], bool],
    ) -> None:
        self.memory: dict[tuple[str, str, str], Entry] = {}
        """By pod UID, container and resource."""
        self.running: set[tuple[str, str]] = set()
        """The containers that ran when this kubelet started, by pod UID and name: it leaves them alone."""
        self._plugins = plugins
        self._chooser = chooser
        self._checkpoint = checkpoint
        self._is_active = is_active
        self._under_way: tuple[str, frozenset[str]] = ("", frozenset())
        self._one_pod = asyncio.Lock()
        self._one_writer = asyncio.Lock()

    def restore(self, entries: Iterable[Entry]) -> None:
        """Know what the checkpoint tells."""
        self.memory = {(entry.pod_uid, entry.container, entry.resource): entry for entry in entries}

    def align(self, pod: Pod) -> list[str]:
        """Have the topology manager look at a pod again that has its devices already.

        After ``topology_hints.go`` of v1.37: where any device of a resource is listed with NUMA nodes, each
        that the pod has is looked up in the list, and a kubelet that does not find one dereferences nil.

        Returns:
            what a real kubelet would crash over.

        Raises:
            AdmissionError: the policy wants one NUMA node, and the pod's devices have none in common.
        """
        crashes = []
        for container in pod.spec.in_order if self._chooser.topology != "none" else ():
            for resource in container.requests:
                had, listed = self._devices(pod, container, resource), self._plugins.listed(resource) or {}
                if not had or not any(state.nodes for state in listed.values()):
                    continue
                if missing := sorted(set(had) - listed.keys()):
                    crashes.append(f"{resource}: nil pointer dereference: {', '.join(missing)} is not listed")
                    continue
                common = set.intersection(*(set(listed[device].nodes) for device in had))
                if not common and self._chooser.topology == "single-numa-node":
                    text = "Resources cannot be allocated with Topology locality"
                    raise AdmissionError(text, reason="TopologyAffinityError")
        return crashes

    def purge(self) -> None:
        """Forget what pods held that are not active any more."""
        self.memory = {key: entry for key, entry in self.memory.items() if self._is_active(entry.pod_uid)}

    def held(self, resource: str) -> set[str]:
        """The device IDs that active pods hold or are about to get."""
        held = {
            device
            for entry in self.memory.values()
            if entry.resource == resource and self._is_active(entry.pod_uid)
            for device in entry.devices
        }
        return held | self._under_way[1] if self._under_way[0] == resource else held

    def answer(self, pod: Pod, container: ContainerSpec) -> pb.ContainerAllocateResponse:
        """What the plugins said when the container's devices were allocated."""
        answer = pb.ContainerAllocateResponse()
        for resource in container.requests:
            entry = self.memory.get((pod.uid, container.name, resource))
            if entry is not None:
                answer.MergeFrom(pb.ContainerAllocateResponse.FromString(entry.response))
        return answer

    async def write_checkpoint(self) -> None:
        async with self._one_writer:
            entries = tuple(self.memory.values())
            await asyncio.to_thread(self._checkpoint.write, entries, self._plugins.registered)

    async def allocate(self, pod: Pod) -> None:
        """Allocate the devices of all containers of a pod. No two pods at the same time.

        Raises:
            AdmissionError: a container can't have what it asks for.
        """
        reusable: dict[str, set[str]] = {}
        async with self._one_pod:
            for container in pod.spec.in_order:
                if (pod.uid, container.name) in self.running:
                    continue
                await self._allocate_container(pod, container, reusable)
                for resource in container.requests:
                    taken = set(self._devices(pod, container, resource))
                    left = reusable.get(resource, set())
                    reusable[resource] = left | taken if container.passes_on else left - taken

    async def prepare_start(self, pod: Pod, container: ContainerSpec) -> None:
        """Do what comes before a container's start: PreStartContainer, where the plugin asked for it.

        Before the plugin has registered with this kubelet its options are unknown: no call, no error.

        Raises:
            StartError: the container can't be started now.
        """
        for resource in container.requests:
            options = self._plugins.options(resource)
            if options is None or not options.pre_start_required:
                continue
            devices = self._devices(pod, container, resource)
            if not devices:
                raise StartError(container.name, f"no devices found allocated in local cache for {resource}")
            try:
                await self._plugins.pre_start(resource, devices)
            except PluginError as error:
                text = f"device plugin PreStartContainer rpc failed with err: {error}"
                raise StartError(container.name, text) from None
        if all(self._devices(pod, container, resource) for resource, n in container.requests.items() if n):
            return
        # The memory was lost, with the checkpoint in all likelihood: the kubelet allocates again.
        async with self._one_pod:
            try:
                await self._allocate_container(pod, container, {})
            except AdmissionError as error:
                raise StartError(container.name, error.message) from None

    def _devices(self, pod: Pod, container: ContainerSpec, resource: str) -> list[str]:
        entry = self.memory.get((pod.uid, container.name, resource))
        return list(entry.devices) if entry else []

    async def _allocate_container(
        self, pod: Pod, container: ContainerSpec, reusable: dict[str, set[str]]
    ) -> None:
        changed = False
        try:
            for resource, count in container.requests.items():
                chosen = await self._choose(pod, container, resource, count, reusable.get(resource, set()))
                if chosen:
                    await self._allocate_devices(pod, container, resource, chosen)
                    changed = True
        except (PluginError, NoDevicesError) as error:
            raise AdmissionError(f"Allocate failed due to {error}, which is unexpected") from None
        except TopologyError as error:
            raise AdmissionError(str(error), reason="TopologyAffinityError") from None
        if changed:
            await self.write_checkpoint()

    async def _choose(
        self, pod: Pod, container: ContainerSpec, resource: str, count: int, reusable: set[str]
    ) -> list[str]:
        """Which devices to ask the plugin for; none if the container has what it needs."""
        self.purge()
        listed = self._plugins.listed(resource)
        if listed is None:
            raise NoDevicesError(f"cannot allocate unregistered device {resource}")
        healthy = {device: state.nodes for device, state in listed.items() if state.healthy}
        if not healthy:
            raise NoDevicesError(f"no healthy devices present; cannot allocate unhealthy devices {resource}")
        present = set(self._devices(pod, container, resource))
        if not present <= healthy.keys():
            raise NoDevicesError(
                "previously allocated devices are no longer healthy; "
                f"cannot allocate unhealthy devices {resource}"
            )
        if present or not count:
            return []
        taken = self.held(resource)

        async def prefer(offered: set[str], included: set[str]) -> set[str]:
            return await self._plugins.prefer(resource, offered, included, count)

        return await self._chooser.choose(
            count=count,
            reusable=reusable,
            free={device: nodes for device, nodes in healthy.items() if device not in taken},
            prefer=prefer,
            resource=resource,
        )

    async def _allocate_devices(
        self, pod: Pod, container: ContainerSpec, resource: str, chosen: list[str]
    ) -> None:
        self._under_way = (resource, frozenset(chosen))
        try:
            response = await self._plugins.allocate(resource, chosen)
            if not response.container_responses:
                raise PluginError("no containers return in allocation response")
            listed = self._plugins.listed(resource) or {}
            self.memory[pod.uid, container.name, resource] = Entry(
                pod_uid=pod.uid,
                container=container.name,
                resource=resource,
                devices={device: listed[device].nodes if device in listed else () for device in chosen},
                response=response.container_responses[0].SerializeToString(),
            )
        finally:
            self._under_way = ("", frozenset())
