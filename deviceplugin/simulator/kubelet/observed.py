"""What can be seen of a simulated kubelet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.simulator.kubelet.admission import Admission
from deviceplugin.simulator.kubelet.changes import Changes
from deviceplugin.simulator.kubelet.checkpointfile import Entry
from deviceplugin.simulator.kubelet.plugin import Call
from deviceplugin.simulator.kubelet.plugins import ListMessages, Plugins
from deviceplugin.simulator.kubelet.podlister import PodLister, State
from deviceplugin.simulator.kubelet.pods import Pod


class Observed:
    """A part of ``SimulatedKubelet``: it changes nothing."""

    log: list[Call]
    plugins: Plugins
    """What the kubelet knows of its plugins since its start."""
    _pods: dict[str, Pod]
    _admission: Admission
    _changes: Changes
    _lister: PodLister

    def capacity(self, resource: str) -> int:
        return len(self.plugins.listed(resource) or {})

    def allocatable(self, resource: str) -> int:
        return sum(state.healthy for state in (self.plugins.listed(resource) or {}).values())

    def devices(self, resource: str) -> dict[str, tuple[bool, int | None]]:
        """Health and (first) NUMA node of each device ID."""
        listed = self.plugins.listed(resource) or {}
        return {device: (state.healthy, next(iter(state.nodes), None)) for device, state in listed.items()}

    def held(self, resource: str) -> set[str]:
        """The device IDs that the next pod can't get."""
        return self._admission.held(resource)

    def list_messages(self, resource: str) -> ListMessages:
        """How many lists came since the kubelet's start, and when the last one did."""
        return self.plugins.messages(resource)

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
        return self.list_state in {"part", "all"}

    @property
    def list_state(self) -> State:
        """How much pod-resources shows: it is ``down``, or lists nothing, a part or all."""
        return self._lister.state

    async def wait_for(self, predicate: Callable[[], object], timeout: float | None = 60) -> None:  # noqa: ASYNC109
        """Return as soon as ``predicate()`` is true; it is asked whenever something changes here.

        Raises:
            TimeoutError: it was not, for ``timeout`` seconds.
        """
        await self._changes.wait_for(predicate, timeout)

    @property
    def allocations(self) -> Mapping[tuple[str, str, str], Entry]:
        """What is allocated, by pod UID, container and resource."""
        return self._admission.memory

    def allocated(self, pod: Pod, container: str | None = None) -> set[str]:
        """The device IDs that a container of a pod has, or all of them together."""
        return {
            device
            for (uid, name, _), entry in self.allocations.items()
            if uid == pod.uid and container in (None, name)
            for device in entry.devices
        }

    def answer(self, pod: Pod, container: str) -> pb.ContainerAllocateResponse:
        """What the plugins said when a container's devices were allocated."""
        return self._admission.answer(pod, next(one for one in pod.spec.in_order if one.name == container))
