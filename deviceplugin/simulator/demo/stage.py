"""The demo's stage: a node, a kubelet, the agent and VMs, and waiting for what they do.

Everything that a stage has made is gone when it ends, however it ends.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from deviceplugin.host import mdev
from deviceplugin.inventory.snapshot import Snapshot
from deviceplugin.simulator.demo.processes import PATIENCE, AgentProcess, MachineProcess, WentWrong
from deviceplugin.simulator.kubelet.kubelet import (
    AdmissionError,
    ContainerSpec,
    Pod,
    PodSpec,
    SimulatedKubelet,
)
from deviceplugin.simulator.node.description import parse
from deviceplugin.simulator.node.kernel import SimulatedKernel

CONFIG = """\
version: v1
discovery:
  exclude: [nvidia-234]
resources:
- {name: example.com/whole-t4, types: ["GRID T4-16Q"], max: 1}
reclaim: {grace: 1s, interval: 1s}
"""
RESOURCES = (
    "vfio.dev/nvidia-230",
    "vfio.dev/nvidia-231",
    "vfio.dev/nvidia-232",
    "example.com/whole-t4",
    "vfio.dev/mtty-1",
    "vfio.dev/mtty-2",
)
"""What the node offers with that configuration."""
_SHORT = 40
"""Characters that a temporary directory's path may have; a socket's below it may have 107."""


class Stage:
    """Everything that takes part, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        description = Path(__file__).with_name("demo.yaml")
        self.node = SimulatedKernel.build(
            directory / "node", parse(description.read_text("utf-8"), origin=description.name)
        )
        self.kubelet = SimulatedKubelet(directory / "k", list_empty_for=0)
        config = directory / "config.yaml"
        config.write_text(CONFIG)
        self.agent = AgentProcess(
            *("--simulated", directory / "node", "--kubelet-root", self.kubelet.root),
            *("--config", config, "--node-name", "demo"),
        )
        self.owners: dict[str, str] = {}
        """The pod of each device, by UUID."""
        self.machines: dict[str, MachineProcess] = {}
        """The VM that holds each device, by UUID."""

    @property
    def snapshot(self) -> Snapshot:
        """The node as it is now."""
        return mdev.scan(self.node.paths).snapshot

    # The kubelet

    async def until(self, condition: Callable[[], object], otherwise: str) -> None:
        """Wait until something is true that the kubelet knows.

        Raises:
            WentWrong: it was not, for a long time.
        """
        try:
            await self.kubelet.wait_for(condition, PATIENCE)
        except TimeoutError:
            raise WentWrong(f"{otherwise}, for {PATIENCE:.0f} s{self.agent.trouble}") from None

    async def counts(self, **expected: int) -> None:
        """Wait until so many devices of resources can be had.

        They are named without their domain, with ``_`` for ``-``.
        """
        names = {resource.partition("/")[2].replace("-", "_"): resource for resource in RESOURCES}
        wanted = {names[short]: count for short, count in expected.items()}

        def found() -> dict[str, int]:
            return {resource: self.kubelet.allocatable(resource) for resource in wanted}

        try:
            await self.until(lambda: found() == wanted, "other counts were offered")
        except WentWrong as error:
            raise WentWrong(f"{error}; wanted {wanted}, found {found()}") from None

    def healthy(self) -> dict[str, set[str]]:
        """The IDs of the slots that are offered as Healthy, by resource."""
        return {
            resource: {uuid for uuid, (healthy, _) in self.kubelet.devices(resource).items() if healthy}
            for resource in RESOURCES
        }

    # Pods

    async def admit(self, name: str, resource: str, count: int = 1) -> Pod:
        """Give a pod to the kubelet, which calls Allocate.

        Raises:
            AdmissionError: the pod was refused.
        """
        before = self.kubelet.held(resource)
        pod = await self.kubelet.admit(PodSpec(name, containers=[ContainerSpec("vm", {resource: count})]))
        for uuid in self.kubelet.held(resource) - before:
            self.owners[uuid] = name
        return pod

    async def admit_surely(self, name: str, resource: str, count: int = 1) -> Pod:
        """Give a pod to the kubelet that nothing should keep from its devices."""
        try:
            return await self.admit(name, resource, count)
        except AdmissionError as error:
            raise WentWrong(f"the pod {name} was refused: {error}") from error

    async def drop(self, pod: Pod) -> None:
        """Take a pod away at once, as its deletion by force does."""
        for uuid in self.devices_of(pod):
            del self.owners[uuid]
        await self.kubelet.force_delete(pod)

    def devices_of(self, pod: Pod) -> list[str]:
        return sorted(uuid for uuid, owner in self.owners.items() if owner == pod.spec.name)

    # VMs

    async def start_machine(self, uuid: str) -> None:
        self.machines[uuid] = await MachineProcess.start(self.node.paths.root, uuid)

    async def end_machine(self, uuid: str) -> None:
        await self.machines.pop(uuid).end()

    # The end

    async def close(self) -> None:
        """End every process."""
        for uuid in tuple(self.machines):
            await self.end_machine(uuid)
        await self.agent.end(signal.SIGKILL)
        await self.kubelet.kill()


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """A stage with its kubelet running and no agent yet."""
    parent = tempfile.gettempdir()
    if len(parent) > _SHORT:
        parent = "/tmp"  # noqa: S108  # what is made in it is nobody else's
    directory = Path(tempfile.mkdtemp(prefix="mdev-demo-", dir=parent))
    try:
        made = Stage(directory)
        try:
            await made.kubelet.start()
            yield made
        finally:
            # Shielded: a second Ctrl-C must not leave a process behind.
            await asyncio.shield(made.close())
    finally:
        shutil.rmtree(directory)
