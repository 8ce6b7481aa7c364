"""A kubelet without a cluster: everything of it that a device plugin can see, on real unix sockets.

It imitates Kubernetes v1.36, or v1.37 where that differs, including what is known to go wrong there: an ID
that disappears is noted in ``crashes`` (the real kubelet may panic), the end of an old stream takes a newer
registration with it (v1.36), List is empty for a while after a start, PreStartContainer is skipped between
a kubelet's start and the plugin's registration, and a device that becomes free stays in the checkpoint.

::

    async with SimulatedKubelet(root) as kubelet:       # root/device-plugins/kubelet.sock, …
        await kubelet.wait_for(lambda: kubelet.allocatable("vfio.dev/mtty-1") > 0)
        pod = await kubelet.admit(PodSpec("vm", containers=[ContainerSpec("vm", {"vfio.dev/mtty-1": 1})]))
        answers = await kubelet.start_containers(pod)
        await kubelet.delete(pod)
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable
from pathlib import Path
from typing import Self

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.api import podresources_v1_pb2 as pods_pb
from deviceplugin.simulator.kubelet.admission import Admission
from deviceplugin.simulator.kubelet.changes import Changes
from deviceplugin.simulator.kubelet.checkpointfile import CheckpointFile, Damage, Entry
from deviceplugin.simulator.kubelet.faults import Faults
from deviceplugin.simulator.kubelet.observed import Observed
from deviceplugin.simulator.kubelet.plugin import Call
from deviceplugin.simulator.kubelet.plugins import Plugins, Version
from deviceplugin.simulator.kubelet.podlister import PodLister, State, pod_resources
from deviceplugin.simulator.kubelet.pods import (
    AdmissionError,
    Chooser,
    ContainerSpec,
    Pod,
    PodSpec,
    StartError,
    Topology,
)
from deviceplugin.simulator.kubelet.sockets import Sockets

__all__ = ["AdmissionError", "Call", "ContainerSpec", "Pod", "PodSpec", "SimulatedKubelet", "StartError"]


class SimulatedKubelet(Observed, Faults):
    """One node's kubelet and the pods that were given to it.

    Pods outlive a stop or a kill of the kubelet, as containers do.

    Args:
        root: stands for ``/var/lib/kubelet``. Keep it short: a socket's path ends at 107 bytes.
        version: whose way of keeping plugins apart is imitated.
        seed: of the random order of device IDs and of the pods' UIDs.
        topology: the policy of its topology manager.
        list_after: seconds from a start until pod-resources is served.
        list_empty_for: seconds for which List is then empty; until its end, pod sources are not ready.
        list_partial_for: seconds for which List then leaves out the later half of the pods.
        api_server_up: without an API server the pod sources do not become ready after a start.
        dial_timeout: seconds that a plugin has to answer the call back.
        call_timeout: seconds after which a call is given up where the real kubelet waits for ever.
        forget_after: seconds until a resource whose plugin is gone is forgotten.
    """

    def __init__(
        self,
        root: Path,
        *,
        version: Version = "1.36",
        seed: int = 0,
        topology: Topology = "best-effort",
        list_after: float = 0.0,
        list_empty_for: float = 1.0,
        list_partial_for: float = 0.0,
        api_server_up: bool = True,
        dial_timeout: float = 10.0,
        call_timeout: float = 60.0,
        forget_after: float = 300.0,
    ) -> None:
        self.root = root
        self._sockets = Sockets(root)
        self.plugin_directory = self._sockets.plugin_directory
        self.registration_socket = self._sockets.registration
        self.pod_resources_socket = self._sockets.pod_resources
        self.checkpoint = CheckpointFile(self.plugin_directory / "kubelet_internal_checkpoint")
        self.crashes: list[str] = []
        self.log: list[Call] = []
        """Every RPC that was made or served, oldest first."""
        self.running = False
        self._version = version
        self._rng = random.Random(seed)  # noqa: S311 - nothing here is a secret
        self._chooser = Chooser(self._rng, topology=topology)
        self._dial_timeout = dial_timeout
        self._call_timeout = call_timeout
        self._forget_after = forget_after
        self._changes = Changes()
        self._lister = PodLister(
            self._changes,
            self._list,
            self._healthy,
            after=list_after,
            empty_for=list_empty_for,
            partial_for=list_partial_for,
            api_server_up=api_server_up,
        )
        super().__init__(self._changes, self._lister)
        self._pods: dict[str, Pod] = {}
        self._waking: asyncio.Task[None] | None = None
        self.plugins, self._admission = self._blank()

    # Life

    async def start(self) -> None:
        """Start, knowing what the checkpoint tells. Every socket in ``device-plugins`` is deleted."""
        if self.running:
            raise RuntimeError("The simulated kubelet runs already.")
        self._lister.state = "down"
        self.plugins, self._admission = self._blank()
        entries, registered = await asyncio.to_thread(self._prepare)
        self._admission.restore(entries)
        self._admission.running = {(pod.uid, name) for pod in self.pods for name in pod.started}
        for resource in registered:
            self.plugins.remember(resource)
        self.running = True
        await self._sockets.serve_registration(self.plugins)
        self._waking = asyncio.create_task(
            self._lister.wake(lambda: self._sockets.serve_pod_resources(self._lister)),
            name="simulated kubelet wakes",
        )
        if not self._lister.after:
            # Whoever asks for no delay gets none.
            at_once = self._lister.api_server_up and not self._lister.empty_for + self._lister.partial_for
            await self.wait_for(lambda: self.list_state == "all" if at_once else self.list_state != "down")
        self._changes.notify()

    async def stop(self) -> None:
        """End as on SIGTERM. ``kubelet.sock`` remains, as it does when the real one ends."""
        await self._end(grace=0.2)

    async def kill(self) -> None:
        """End as on SIGKILL: streams break, and calls that are under way fail."""
        await self._end(grace=None)

    async def reboot(self) -> None:
        """Restart the node: no container runs any more. Each pod comes back with ``readmit``."""
        await self.kill()
        for pod in self.pods:
            pod.phase, pod.listed = "Pending", False
            pod.started.clear()
        await self.start()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.kill()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # Pods

    async def admit(self, spec: PodSpec, *, reject_after_allocate: bool = False) -> Pod:
        """Admit a pod: choose and allocate the devices of all its containers. One pod after the other.

        Args:
            spec: the pod.
            reject_after_allocate: something else turns the pod down once its devices are allocated.

        Raises:
            AdmissionError: the pod is Failed.
        """
        pod = Pod(spec, uid=str(uuid.UUID(int=self._rng.getrandbits(128), version=4)))
        self._pods[pod.uid] = pod
        return await self._admit(pod, reject=reject_after_allocate)

    async def readmit(self, pod: Pod) -> Pod:
        """Admit a pod again after a start: without an Allocate, if its devices are remembered.

        Those of containers that don't run any more, after a reboot, have to be healthy as well.

        Raises:
            AdmissionError: the pod is Failed.
        """
        try:
            self.crashes += self._admission.align(pod)
        except AdmissionError:
            pod.phase = "Failed"
            raise
        return await self._admit(pod, reject=False)

    async def start_containers(self, pod: Pod) -> dict[str, pb.ContainerAllocateResponse]:
        """Start the containers that are not started yet, init containers first.

        Returns:
            what the plugin said at Allocate, by container.

        Raises:
            StartError: PreStartContainer failed; calling again tries again.
        """
        answers = {}
        for container in pod.spec.in_order:
            if container.name in pod.started:
                answers[container.name] = self._admission.answer(pod, container)
            else:
                answers[container.name] = await self._start(pod, container)
        pod.phase = "Running"
        self._changes.notify()
        return answers

    async def restart_container(self, pod: Pod, name: str) -> pb.ContainerAllocateResponse:
        """Start a container anew in its place: PreStartContainer, but no Allocate.

        Raises:
            StartError: PreStartContainer failed; calling again tries again.
        """
        return await self._start(pod, next(one for one in pod.spec.in_order if one.name == name))

    async def delete(
        self, pod: Pod, *, containers_stop: Awaitable[object] | None = None, linger: float = 0.1
    ) -> None:
        """Delete a pod gracefully: it stays listed until ``linger`` seconds after its containers stopped."""
        pod.phase = "Terminating"
        self._changes.notify()
        if containers_stop is not None:
            await containers_stop
        await asyncio.sleep(linger)
        await self.force_delete(pod)

    async def force_delete(self, pod: Pod) -> None:
        """Drop a pod at once, whether or not its processes still run."""
        pod.phase, pod.listed = "Gone", False
        del self._pods[pod.uid]
        self._changes.notify()

    # Interference

    def know(self, *entries: Entry, pod: Pod | None = None) -> None:
        """Know of allocations that this kubelet did not make, and of their pod, as after a start.

        The checkpoint says so when it is written next.
        """
        self._admission.memory |= {(one.pod_uid, one.container, one.resource): one for one in entries}
        if pod is not None:
            self._pods[pod.uid] = pod

    async def write_checkpoint(self) -> None:
        """Have the checkpoint say what is known now."""
        await self._admission.write_checkpoint()

    async def damage_checkpoint(self, damage: Damage | None) -> None:
        """Have the checkpoint damaged, now and whenever it is written; None writes it as it should be."""
        self.checkpoint.damage = damage
        await self.write_checkpoint()

    async def end_stream(self, resource: str) -> None:
        """Cancel the ListAndWatch of a resource; the kubelet does not call it again by itself."""
        await self.plugins.end_stream(resource)

    # Inside

    def _blank(self) -> tuple[Plugins, Admission]:
        """What a kubelet knows when it starts, apart from the checkpoint: nothing."""
        plugins = Plugins(
            self.plugin_directory,
            version=self._version,
            changes=self._changes,
            faults=self._registration_faults,
            log=self.log,
            on_list=self._on_list,
            dial_timeout=self._dial_timeout,
            call_timeout=self._call_timeout,
            forget_after=self._forget_after,
        )
        return plugins, Admission(plugins, self._chooser, self.checkpoint, self._is_active)

    def _is_active(self, pod_uid: str) -> bool:
        return not self.sources_ready or (pod_uid in self._pods and self._pods[pod_uid].active)

    async def _end(self, *, grace: float | None) -> None:
        if not self.running:
            return
        self.running = False
        if self._waking is not None:
            self._waking.cancel()
            await asyncio.wait([self._waking])
        await self._sockets.stop(grace)
        await self.plugins.close()
        self._changes.notify()

    def _prepare(self) -> tuple[list[Entry], dict[str, list[str]]]:
        self._sockets.clear()
        return self.checkpoint.read()

    async def _admit(self, pod: Pod, *, reject: bool) -> Pod:
        self._check_running()
        try:
            await self._admission.allocate(pod)
        except BaseException:
            pod.phase = "Failed"
            raise
        finally:
            self._changes.notify()
        if reject:
            pod.phase = "Failed"
            raise AdmissionError("Node didn't have enough resource: cpu", reason="OutOfcpu")
        pod.listed = True
        return pod

    async def _start(self, pod: Pod, container: ContainerSpec) -> pb.ContainerAllocateResponse:
        self._check_running()
        await self._admission.prepare_start(pod, container)
        pod.started.add(container.name)
        return self._admission.answer(pod, container)

    def _check_running(self) -> None:
        if not self.running:
            raise RuntimeError("The simulated kubelet is down.")

    def _list(self, state: State) -> pods_pb.ListPodResourcesResponse:
        self.log.append(Call("List"))
        self._admission.purge()
        listed = [pod for pod in self._pods.values() if pod.listed]
        shown = {"all": len(listed), "part": len(listed) // 2}.get(state, 0)
        return pod_resources(listed[:shown], self._admission.memory)

    def _healthy(self) -> dict[str, dict[str, tuple[int, ...]]]:
        self.log.append(Call("GetAllocatableResources"))
        return self.plugins.healthy

    async def _on_list(self, resource: str) -> None:
        vanished = self._admission.held(resource) - self.devices(resource).keys()
        if vanished:
            self.crashes.append(f"{resource}: allocated but no longer listed: {', '.join(sorted(vanished))}")
        await self._admission.write_checkpoint()
