"""Pods as a kubelet sees them, and which devices it chooses for them.

::

    AdmissionError      the kubelet rejected the pod, for good
    StartError          a container could not be started; the kubelet tries again
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

Phase = Literal["Pending", "Running", "Terminating", "Failed", "Gone"]
Topology = Literal["none", "best-effort", "single-numa-node"]
"""The topology manager's policy."""
Prefer = Callable[[set[str], set[str]], Awaitable[set[str]]]
"""Asks the plugin: (offered, to be included) -> preferred."""


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    name: str
    requests: Mapping[str, int] = field(default_factory=dict)
    init: bool = False
    restartable: bool = False
    """An init container that keeps running: a sidecar."""

    @property
    def passes_on(self) -> bool:
        """Whether it is over, and its devices free, before the app containers start."""
        return self.init and not self.restartable


@dataclass(frozen=True, slots=True)
class PodSpec:
    name: str
    namespace: str = "default"
    containers: tuple[ContainerSpec, ...] | list[ContainerSpec] = ()

    @property
    def in_order(self) -> tuple[ContainerSpec, ...]:
        """The containers as they are admitted and started: init containers first."""
        return tuple(sorted(self.containers, key=lambda container: not container.init))


@dataclass(eq=False, slots=True)
class Pod:
    """A pod that was given to the kubelet."""

    spec: PodSpec
    uid: str
    phase: Phase = "Pending"
    listed: bool = False
    """Whether the kubelet's List may name it."""
    started: set[str] = field(default_factory=set)
    """The containers that were started since the pod was admitted."""

    @property
    def active(self) -> bool:
        return self.phase in {"Pending", "Running", "Terminating"}


class AdmissionError(Exception):
    """The kubelet rejected the pod; this is final."""

    def __init__(self, message: str, *, reason: str = "UnexpectedAdmissionError") -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class StartError(Exception):
    """A container could not be started. Starting again is allowed."""

    def __init__(self, container: str, message: str) -> None:
        super().__init__(f"{container}: {message}")
        self.container = container
        self.message = message


class NoDevicesError(Exception):
    """There are no devices, or too few, to choose from; the text is the kubelet's."""


class TopologyError(Exception):
    """No NUMA node has enough devices, and the policy wants one; the text is the kubelet's."""


class Chooser:
    """Chooses devices for a container as the kubelet does (v1.36, ``devicesToAllocate``)."""

    def __init__(self, rng: random.Random, *, topology: Topology) -> None:
        self._rng = rng
        self.topology = topology

    async def choose(
        self,
        *,
        count: int,
        reusable: Iterable[str],
        free: Mapping[str, tuple[int, ...]],
        prefer: Prefer,
        resource: str,
    ) -> list[str]:
        """Choose ``count`` device IDs, in random order.

        Args:
            count: how many the container asks for.
            reusable: what the pod's init containers leave behind; taken first.
            free: the healthy devices that nobody holds, with their NUMA nodes.
            prefer: asks the plugin. Only called when there is a choice left to make.
            resource: named in errors.

        Raises:
            NoDevicesError: there are too few.
            TopologyError: there are too few on one NUMA node, where that is wanted.
        """
        chosen = set(self._shuffled(reusable)[:count])
        free = {device: nodes for device, nodes in free.items() if device not in chosen}
        missing = count - len(chosen)
        if missing > len(free):
            raise NoDevicesError(
                f"requested number of devices unavailable for {resource}. "
                f"Requested: {missing}, Available: {len(free)}"
            )
        aligned = self._aligned(count, chosen, free)
        nodes = {node for device in aligned for node in free[device]}
        if self.topology == "single-numa-node" and len(nodes) > 1:
            raise TopologyError("Resources cannot be allocated with Topology locality")
        if missing < len(aligned):
            offer = aligned
        else:
            offer = set(free)
            chosen |= aligned
        if len(chosen) < count:
            open_to_choice = offer - chosen
            preferred = await prefer(open_to_choice | chosen, set(chosen)) & open_to_choice
            chosen |= set(self._shuffled(preferred)[: count - len(chosen)])
        # What the plugin left open: devices with a NUMA node before those without.
        for rest in ({device for device in offer if free[device]}, offer):
            chosen |= set(self._shuffled(rest - chosen)[: count - len(chosen)])
        return self._shuffled(chosen)

    def _aligned(self, count: int, chosen: set[str], free: Mapping[str, tuple[int, ...]]) -> set[str]:
        """The free devices on the fewest NUMA nodes that suffice; empty if NUMA plays no part."""
        if self.topology == "none":
            return set()
        present = sorted({node for nodes in free.values() for node in nodes})
        for size in range(1, len(present) + 1):
            for mask in combinations(present, size):
                inside = {device for device, nodes in free.items() if set(nodes) & set(mask)}
                if len(inside) + len(chosen) >= count:
                    return inside
        return set()

    def _shuffled(self, devices: Iterable[str]) -> list[str]:
        ordered = sorted(devices)
        self._rng.shuffle(ordered)
        return ordered
