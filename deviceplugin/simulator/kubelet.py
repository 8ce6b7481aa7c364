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
import contextlib
import random
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal, Self

import grpc

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.api import deviceplugin_v1beta1_pb2_grpc as rpc
from deviceplugin.api import podresources_v1_pb2 as pods_pb
from deviceplugin.api import podresources_v1_pb2_grpc as pods_rpc
from deviceplugin.simulator import sockets
from deviceplugin.simulator.admission import Admission
from deviceplugin.simulator.changes import Changes
from deviceplugin.simulator.checkpointfile import CheckpointFile, Damage, Entry
from deviceplugin.simulator.plugins import Call, ListMessages, Plugins, RegistrationFaults, Version
from deviceplugin.simulator.podlister import PodLister, pod_resources
from deviceplugin.simulator.pods import AdmissionError, Chooser, ContainerSpec, Pod, PodSpec, StartError

__all__ = ["AdmissionError", "Call", "ContainerSpec", "Pod", "PodSpec", "SimulatedKubelet", "StartError"]


class SimulatedKubelet:
    """One node's kubelet and the pods that were given to it.

    Pods outlive a stop or a kill of the kubelet, as containers do.

    Args:
        root: stands for ``/var/lib/kubelet``. Keep it short: a socket's path ends at 107 bytes.
        version: whose way of keeping plugins apart is imitated.
        seed: of the random order of device IDs and of the pods' UIDs.
        numa_aligned: choose devices as with the topology policy ``best-effort``; else as with ``none``.
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
        numa_aligned: bool = True,
        list_after: float = 0.0,
        list_empty_for: float = 1.0,
        list_partial_for: float = 0.0,
        api_server_up: bool = True,
        dial_timeout: float = 10.0,
        call_timeout: float = 60.0,
        forget_after: float = 300.0,
    ) -> None:
        self.root = root
        self.plugin_directory = root / "device-plugins"
        self.registration_socket = self.plugin_directory / "kubelet.sock"
        self.pod_resources_socket = root / "pod-resources" / "kubelet.sock"
        self.checkpoint = CheckpointFile(self.plugin_directory / "kubelet_internal_checkpoint")
        self.list_after = list_after
        self.list_empty_for = list_empty_for
        self.list_partial_for = list_partial_for
        self.crashes: list[str] = []
        self.log: list[Call] = []
        """Every RPC that was made or served, oldest first."""
        self.running = False
        self._version = version
        self._rng = random.Random(seed)  # noqa: S311 - nothing here is a secret
        self._chooser = Chooser(self._rng, numa_aligned=numa_aligned)
        self._api_server_up = api_server_up
        self._dial_timeout = dial_timeout
        self._call_timeout = call_timeout
        self._forget_after = forget_after
        self._changes = Changes()
        self._registration_faults = RegistrationFaults()
        self._lister = PodLister(self._changes, self._list)
        self._pods: dict[str, Pod] = {}
        self._servers: list[grpc.aio.Server] = []
        self._waking: asyncio.Task[None] | None = None
        self._shown: Literal["nothing", "part", "all"] = "nothing"
        self._plugins, self._admission = self._blank()

    # Life

    async def start(self) -> None:
        """Start, knowing what the checkpoint tells. Every socket in ``device-plugins`` is deleted."""
        if self.running:
            raise RuntimeError("The simulated kubelet runs already.")
        self._shown = "nothing"
        self._plugins, self._admission = self._blank()
        entries, registered = await asyncio.to_thread(self._prepare)
        self._admission.restore(entries)
        for resource in registered:
            self._plugins.remember(resource)
        self.running = True
        try:
            await self._serve_registration()
            if not self.list_after:
                await self._serve_pod_resources()
        except BaseException:
            await self.kill()
            raise
        self._waking = asyncio.create_task(self._wake(), name="simulated kubelet wakes")
        if self._api_server_up and not self.list_after + self.list_empty_for + self.list_partial_for:
            await self.wait_for(lambda: self._shown == "all")
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
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # What can be seen

    def capacity(self, resource: str) -> int:
        return len(self._plugins.listed(resource) or {})

    def allocatable(self, resource: str) -> int:
        return sum(state.healthy for state in (self._plugins.listed(resource) or {}).values())

    def devices(self, resource: str) -> dict[str, tuple[bool, int | None]]:
        """Health and (first) NUMA node of each device ID."""
        listed = self._plugins.listed(resource) or {}
        return {device: (state.healthy, next(iter(state.nodes), None)) for device, state in listed.items()}

    def held(self, resource: str) -> set[str]:
        """The device IDs that the next pod can't get."""
        return self._admission.held(resource)

    def list_messages(self, resource: str) -> ListMessages:
        """How many lists came since the kubelet's start, and when the last one did."""
        return self._plugins.messages(resource)

    @property
    def calls(self) -> Counter[str]:
        """How often each RPC was made or served."""
        return Counter(call.method for call in self.log)

    @property
    def pods(self) -> tuple[Pod, ...]:
        """The pods that are neither gone nor failed."""
        return tuple(pod for pod in self._pods.values() if pod.active)

    @property
    def sources_ready(self) -> bool:
        """Whether the kubelet has heard since its start which pods there are."""
        return self._shown != "nothing"

    async def wait_for(self, predicate: Callable[[], object], timeout: float | None = 5) -> None:  # noqa: ASYNC109
        """Return as soon as ``predicate()`` is true; it is asked whenever something changes here.

        Raises:
            TimeoutError: it was not, for ``timeout`` seconds.
        """
        await self._changes.wait_for(predicate, timeout)

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
        """Admit a pod again after a reboot: without an Allocate, if its devices are remembered and healthy.

        Raises:
            AdmissionError: the pod is Failed.
        """
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
        return await self._start(pod, next(one for one in pod.spec.containers if one.name == name))

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

    # Faults

    def set_api_server(self, *, up: bool) -> None:
        """Matters for the time after a start: see ``api_server_up``."""
        self._api_server_up = up
        self._changes.notify()

    def throttle(self, requests: int) -> None:
        """Answer the next List requests with RESOURCE_EXHAUSTED."""
        self._lister.throttle = requests

    def fail_list(self, code: grpc.StatusCode | None) -> None:
        """Answer List with an error, until None."""
        self._lister.fail = code

    def hang_list(self, *, on: bool = True) -> None:
        """Leave List requests without an answer, until this is off again."""
        self._lister.hang = on
        self._changes.notify()

    def refuse_registration(self, text: str | None) -> None:
        """Answer Register with this error, until None."""
        self._registration_faults.refuse = text

    def hang_registration(self, *, on: bool = True) -> None:
        """Leave Register requests without an answer, until this is off again."""
        self._registration_faults.hang = on
        self._changes.notify()

    async def damage_checkpoint(self, damage: Damage | None) -> None:
        """Have the checkpoint damaged, now and whenever it is written; None writes it as it should be."""
        self.checkpoint.damage = damage
        await self._admission.write_checkpoint()

    async def end_stream(self, resource: str) -> None:
        """Cancel the ListAndWatch of a resource; the kubelet does not call it again by itself."""
        await self._plugins.end_stream(resource)

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
            with contextlib.suppress(asyncio.CancelledError):
                await self._waking
        for server in self._servers:
            await server.stop(grace)
        self._servers.clear()
        await self._plugins.close()
        self._changes.notify()

    async def _serve_registration(self) -> None:
        def add_registration(server: grpc.aio.Server) -> None:
            rpc.add_RegistrationServicer_to_server(self._plugins, server)

        bound = self.root / ".registration.sock"
        self._servers.append(await sockets.serve(add_registration, bound))
        await asyncio.to_thread(sockets.appear, bound, self.registration_socket)

    async def _serve_pod_resources(self) -> None:
        def add_lister(server: grpc.aio.Server) -> None:
            pods_rpc.add_PodResourcesListerServicer_to_server(self._lister, server)

        bound = self.pod_resources_socket.with_name(".new.sock")
        self._servers.append(await sockets.serve(add_lister, bound))
        await asyncio.to_thread(sockets.replace, bound, self.pod_resources_socket)

    async def _wake(self) -> None:
        """Come to know, bit by bit, which pods there are."""
        if self.list_after:
            await asyncio.sleep(self.list_after)
            await self._serve_pod_resources()
        await asyncio.sleep(self.list_empty_for)
        await self._changes.wait_for(lambda: self._api_server_up, timeout=None)
        self._shown = "part"
        self._changes.notify()
        await asyncio.sleep(self.list_partial_for)
        self._shown = "all"
        self._changes.notify()

    def _prepare(self) -> tuple[list[Entry], dict[str, list[str]]]:
        sockets.clear(self.plugin_directory)
        self.pod_resources_socket.parent.mkdir(parents=True, exist_ok=True)
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

    def _list(self) -> pods_pb.ListPodResourcesResponse:
        self.log.append(Call("List"))
        self._admission.purge()
        listed = [pod for pod in self._pods.values() if pod.listed and self._shown != "nothing"]
        shown = listed[: len(listed) // 2] if self._shown == "part" else listed
        return pod_resources(shown, self._admission.memory)

    async def _on_list(self, resource: str) -> None:
        vanished = self._admission.held(resource) - self.devices(resource).keys()
        if vanished:
            self.crashes.append(f"{resource}: allocated but no longer listed: {', '.join(sorted(vanished))}")
        await self._admission.write_checkpoint()
