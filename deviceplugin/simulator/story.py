"""The demo's story: the agent on a simulated node, each step shown and checked.

The agent is a process of its own, as on a node; the kubelet and the hardware are simulated.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from deviceplugin.errors import PluginError
from deviceplugin.host.mdev import scan
from deviceplugin.simulator.description import load
from deviceplugin.simulator.kernel import SimulatedKernel
from deviceplugin.simulator.kubelet import (
    AdmissionError,
    ContainerSpec,
    Pod,
    PodSpec,
    SimulatedKubelet,
)
from deviceplugin.simulator.vm import VirtualMachine

_PATIENCE = 15.0
"""Seconds that a step may take."""
_LARGE, _SMALL = "vfio.dev/mbochs-large", "vfio.dev/mbochs-small"
_ALL, _HALF = 64, 32
"""How many of the small ones fit the empty card, and beside two large ones."""
_CONFIG = "version: v1\nreclaim: {grace: 1s, interval: 1s}\n"

Say = Callable[[str], None]


class Otherwise(PluginError):
    """Something went otherwise than it should."""


class Story:
    """The stage: a node, a kubelet and an agent in a directory.

    Args:
        say: called with each line.
        pause: seconds after each step, for people to follow.
    """

    def __init__(self, directory: Path, *, say: Say, pause: float) -> None:
        self._say = say
        self._pause = pause
        self._directory = directory
        self._log = directory / "log"
        self.kernel = SimulatedKernel.build(directory / "node", load("samples"))
        self.kubelet = SimulatedKubelet(directory / "kubelet", list_empty_for=0.0)
        self._agent: subprocess.Popen[bytes] | None = None
        (directory / "config.yaml").write_text(_CONFIG)

    async def tell(self) -> None:
        """Play all of it.

        Raises:
            Otherwise: a step did not end as it should.
        """
        async with self.kubelet:
            try:
                async with self._step("A node with three cards, and the agent starts"):
                    await self._begin()
                pod = await self._a_pod_comes()
                await self._a_pod_too_many()
                await self._a_pod_ends(pod)
                await self._a_kill()
                async with self._step("SIGTERM ends the agent, and nothing else"):
                    code = await self._end(signal.SIGTERM)
                    self._check(code == 0, f"the agent ended with {code}")
                    self._say(f"exit code {code}")
                self._check(not self.kubelet.crashes, "the kubelet would have crashed")
            finally:
                if self._agent is not None:
                    self._agent.kill()
                    self._agent.wait()

    async def _a_pod_comes(self) -> Pod:
        async with self._step("A pod asks for two mbochs-large: the devices are made now"):
            pod = await self._admit("vm-1", _LARGE, 2)
            response = (await self.kubelet.start_containers(pod))["vm"]
            self._devices()
            self._say("its container got")
            for key, value in sorted(response.envs.items()):
                self._say(f"  {key}={value}")
            for node in response.devices:
                self._say(f"  {node.container_path}")
        async with self._step("Its siblings share the card's memory, so they lose room"):
            await self._until(lambda: self.kubelet.allocatable(_SMALL) == _HALF, "mbochs-small falls to 32")
            self._counts()
        return pod

    async def _a_pod_too_many(self) -> None:
        async with self._step("A foreign device takes what was left a moment ago: the pod is told why"):
            for number in range(2):
                path = self.kernel.paths.create("mbochs", "mbochs-large")
                self.kernel.write(path, f"00000000-0000-4000-8000-00000000000{number}")
            try:
                await self._admit("vm-2", _LARGE, 1)
            except AdmissionError as error:
                self._say(f"pod default/vm-2 Failed: {error.reason}: {error.message}")
            else:
                raise Otherwise("a pod was given a device that there is no room for")
            for number in range(2):
                self.kernel.write(
                    self.kernel.paths.remove(f"00000000-0000-4000-8000-00000000000{number}"), "1"
                )
            await self._until(lambda: self.kubelet.allocatable(_SMALL) == _HALF, "the room comes back")

    async def _a_pod_ends(self, pod: Pod) -> None:
        uuids = sorted(self.kubelet.held(_LARGE))
        machine = VirtualMachine(self.kernel, uuids[0])
        try:
            async with self._step("The pod is deleted by force, but a VM still holds one device: it stays"):
                await self.kubelet.force_delete(pod)
                line = await self._logged("device not removed", uuids[0])
                self._say(f"not removed: {line['reason']}: {line['detail']}")
                self._check(uuids[0] in self._present(), "a device in use is gone")
        finally:
            machine.stop()
        async with self._step("The VM ends: both are removed, with proof, and the room comes back"):
            line = await self._logged("device removed", uuids[0])
            self._say(f"removed {uuids[0]}: {line['proof']}")
            await self._until(lambda: self.kubelet.allocatable(_SMALL) == _ALL, "mbochs-small is at 64 again")
            self._check(not self._present(), "a device leaked")
            self._counts()

    async def _a_kill(self) -> None:
        async with self._step("Two pods run; the agent is killed with -9, and one pod ends meanwhile"):
            stays = await self._admit("vm-3", _LARGE, 1)
            await self.kubelet.start_containers(stays)
            kept = set(self.kubelet.held(_LARGE))
            goes = await self._admit("vm-4", _SMALL, 1)
            before = self._present()
            await self._end(signal.SIGKILL)
            await self.kubelet.force_delete(goes)
            self._check(self._present() == before, "a kill took a device")
            self._devices()
        async with self._step("It carries on: the same IDs, the running pod untouched, the leftover removed"):
            await self._begin()
            await self._until(lambda: kept == self._present(), "the leftover is removed")
            self._check(kept <= set(self.kubelet.devices(_LARGE)), "the IDs are others")
            self._devices()
            await self.kubelet.delete(stays)
            await self._until(lambda: not self._present(), "the last device is removed")
            await self._until(lambda: self.kubelet.allocatable(_SMALL) == _ALL, "all room is back")

    # --- the parts of a step -----------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _step(self, title: str) -> AsyncIterator[None]:
        self._say("")
        self._say(f"# {title}")
        yield
        await asyncio.sleep(self._pause)

    async def _begin(self) -> None:
        with self._log.open("ab") as log:
            self._agent = subprocess.Popen(  # noqa: ASYNC220, S603  # our own program; it starts at once
                [
                    *(sys.executable, "-m", "deviceplugin", "run", "--node-name", "demo"),
                    *("--simulated", str(self._directory / "node")),
                    *("--kubelet-root", str(self._directory / "kubelet")),
                    *("--config", str(self._directory / "config.yaml")),
                ],
                stdin=subprocess.DEVNULL,
                stderr=log,
                env={key: value for key, value in os.environ.items() if not key.startswith("MDEV_")},
            )
        resources = [f"vfio.dev/{type_id}" for type_id in scan(self.kernel.paths).snapshot.types]
        await self._until(
            lambda: all(self.kubelet.allocatable(resource) for resource in resources),
            "every resource is registered",
        )
        self._counts()

    async def _end(self, number: signal.Signals) -> int:
        agent = self._agent
        if agent is None:
            raise Otherwise("there is no agent")
        agent.send_signal(number)
        return await asyncio.to_thread(agent.wait, _PATIENCE)

    async def _admit(self, name: str, resource: str, count: int) -> Pod:
        self._say(f"pod default/{name} asks for {count} x {resource}")
        container = ContainerSpec(name="vm", requests={resource: count})
        return await self.kubelet.admit(PodSpec(name=name, namespace="default", containers=(container,)))

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not condition():  # What the node's files show sends no event to this process.
            if time.monotonic() > deadline:
                raise Otherwise(f"it did not happen within {_PATIENCE:.0f} s that {what}")
            await asyncio.sleep(0.02)

    async def _logged(self, event: str, device: str) -> dict[str, str]:
        """The agent's line about a device, once it is there."""
        found: list[dict[str, str]] = []

        def look() -> bool:
            for text in self._log.read_text().splitlines():
                line = json.loads(text) if text.startswith("{") and text.endswith("}") else {}
                wanted = line.get("event") == event and line.get("device") == device
                if wanted and line.get("reason") in {None, "in-use"}:
                    found.append(line)
            return bool(found)

        await self._until(look, f"the agent says {event!r} of {device}")
        return found[-1]

    def _present(self) -> set[str]:
        return set(scan(self.kernel.paths).snapshot.devices)

    def _devices(self) -> None:
        for device in scan(self.kernel.paths).snapshot.devices.values():
            self._say(f"  device {device.uuid}  {device.type} on {device.parent}, group {device.group}")

    def _counts(self) -> None:
        for type_id in scan(self.kernel.paths).snapshot.types:
            resource = f"vfio.dev/{type_id}"
            can, most = self.kubelet.allocatable(resource), self.kubelet.capacity(resource)
            bar = "█" * round(24 * can / most) if most else ""
            self._say(f"  {resource:24} {can:3} of {most:3}  {bar:░<24}")

    def _check(self, right: bool, otherwise: str) -> None:
        if not right:
            raise Otherwise(otherwise)
