"""The demo's story: what happens, and at each step a look whether it really did.

Every number that is told was waited for, and every sentence that is quoted is the agent's own.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Iterable

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.simulator.demo.processes import WentWrong
from deviceplugin.simulator.demo.show import Show
from deviceplugin.simulator.demo.stage import RESOURCES, Stage
from deviceplugin.simulator.kubelet.kubelet import AdmissionError, Pod, StartError

QUARTER = "vfio.dev/nvidia-232"
WHOLE = "example.com/whole-t4"
SERIAL = "vfio.dev/mtty-1"


class Story:
    """The story on one stage."""

    def __init__(self, stage: Stage, show: Show) -> None:
        self._stage = stage
        self._show = show

    async def tell(self) -> None:
        """Tell all of it.

        Raises:
            WentWrong: something happened otherwise.
        """
        await self._finds_what_there_is()
        desk = await self._makes_a_device()
        serial, training = await self._follows_the_kernel()
        await self._keeps_what_is_in_use(training)
        waiting = await self._survives_a_kill(desk, serial)
        await self._leaves_nothing_behind(desk, waiting)

    async def _finds_what_there_is(self) -> None:
        show, stage = self._show, self._stage
        await show.chapter("A node with two NVIDIA T4 and a card with serial ports. No device exists yet.")
        await stage.agent.start()
        await stage.counts(nvidia_230=32, nvidia_231=16, nvidia_232=8, whole_t4=1, mtty_1=24, mtty_2=12)
        await show.say("The agent offers what the cards could become, each type a resource:")
        for resource in RESOURCES:
            await show.quote(f"{resource}  {stage.kubelet.allocatable(resource)}")
        self._expect(not stage.snapshot.devices, "a device exists that nobody asked for")

    async def _makes_a_device(self) -> Pod:
        show, stage = self._show, self._stage
        await show.chapter("A pod asks for a quarter of a T4, and its device is made that moment.")
        pod = await stage.admit_surely("desktop", QUARTER)
        uuid = self._one(stage.devices_of(pod))
        device = stage.snapshot.devices.get(uuid)
        if device is None or device.type != "nvidia-232":
            raise WentWrong(f"Allocate was answered, and there is no nvidia-232 called {uuid}")
        await show.say(f"The kubelet called Allocate; {uuid} is on {device.parent} now. The container gets:")
        answer = (await self._started(pod))["vm"]
        for key, value in sorted(answer.envs.items()):
            await show.quote(f"{key}={value}")
        for node in answer.devices:
            await show.quote(f"{node.container_path} ({node.permissions})")
        self._expect(uuid in answer.envs.values(), "the container's environment does not name the device")
        self._expect(
            f"/dev/vfio/{device.group}" in {node.container_path for node in answer.devices},
            "the container does not get the device's VFIO group",
        )
        await stage.start_machine(uuid)
        await show.say("Its VM has attached the device.")
        return pod

    async def _follows_the_kernel(self) -> tuple[Pod, Pod]:
        show, stage = self._show, self._stage
        await show.chapter(
            "A T4 carries one type at a time: what a card can't be any more is not offered any more."
        )
        await stage.counts(nvidia_230=16, nvidia_231=8, nvidia_232=8)
        await show.say("nvidia-230 went from 32 to 16, nvidia-231 from 16 to 8; nvidia-232 keeps its 8.")
        serial = await stage.admit_surely("console", SERIAL, 2)
        await self._started(serial)
        await stage.counts(mtty_1=24, mtty_2=11)
        await show.say("A pod with two serial ports: nvidia types don't mind, mtty-2 went from 12 to 11.")
        training = await stage.admit_surely("training", WHOLE)
        await self._started(training)
        await stage.start_machine(self._one(stage.devices_of(training)))
        await stage.counts(nvidia_230=0, nvidia_231=0, nvidia_232=4)
        await show.say(
            "A pod takes the other T4 as a whole: no nvidia-230, no nvidia-231, 4 nvidia-232 are left."
        )
        return serial, training

    async def _keeps_what_is_in_use(self, training: Pod) -> None:
        show, stage = self._show, self._stage
        await show.chapter("A pod is deleted by force, but its VM lives on and holds the device.")
        uuid = self._one(stage.devices_of(training))
        before = len(stage.agent.log)
        await stage.drop(training)
        try:
            await stage.admit("batch", WHOLE)
        except AdmissionError as error:
            await show.say(
                "The kubelet gives the next pod the very same slot. Two VMs on one device? Refused:"
            )
            await show.quote(str(error))
            self._expect("still held by the VM" in str(error), f"the refusal does not say why: {error}")
        else:
            raise WentWrong("a device that a VM still held was given to another pod")
        kept = await stage.agent.logged("device not removed", since=before, device=uuid, reason="in-use")
        await stage.counts(whole_t4=0)
        await show.say("No pod has it; the agent leaves it alone, and offers it to nobody. Its log says why:")
        await show.quote(f"{kept['event']}: {kept['detail']}")
        self._expect(uuid in stage.snapshot.devices, "a device in use was removed")
        await stage.end_machine(uuid)
        gone = await stage.agent.logged("device removed", since=before, device=uuid)
        await show.say("The VM ends, and now the device can go. The agent's proof:")
        await show.quote(f"{gone['event']}: {gone['proof']}")
        self._expect(
            uuid not in stage.snapshot.devices, "a device is still there that was reported as removed"
        )
        await stage.counts(nvidia_230=16, nvidia_231=8, nvidia_232=8, whole_t4=1)
        await show.say("The room is back: nvidia-230 16, nvidia-231 8, nvidia-232 8.")

    async def _survives_a_kill(self, desk: Pod, serial: Pod) -> Pod:
        show, stage = self._show, self._stage
        await show.chapter(
            "kill -9 the agent at a bad moment: a device is made, its container not yet started."
        )
        waiting = await stage.admit_surely("nightly", WHOLE)
        await stage.counts(nvidia_230=0, nvidia_231=0, nvidia_232=4)
        known = stage.healthy()
        there = self._identities()
        await stage.agent.end(signal.SIGKILL)
        await stage.until(
            lambda: not any(stage.healthy().values()), "the kubelet did not notice that the agent is gone"
        )
        await show.say(
            "Nothing is allocatable now. VMs don't notice. Meanwhile the pod with the serial ports ends."
        )
        leftovers = stage.devices_of(serial)
        await stage.drop(serial)
        before = len(stage.agent.log)
        await stage.agent.start()
        # The room of what the pod left comes on top, as soon as the new agent has removed it.
        await stage.until(
            lambda: all(slots <= stage.healthy()[resource] for resource, slots in known.items()),
            "the new agent did not offer the same slots under the same IDs",
        )
        found = self._identities()
        self._expect(
            found.items() <= there.items() and there.keys() - found.keys() <= set(leftovers),
            "devices changed while the agent was away",
        )
        await show.say(
            "A new agent offers the same slots under the same IDs, and finds every device in its place."
        )
        await self._started(waiting)
        await show.say("The container that had waited starts with the device that the killed agent had made.")
        for uuid in leftovers:
            await stage.agent.logged("device removed", since=before, device=uuid)
        kept = {uuid: there[uuid] for pod in (desk, waiting) for uuid in stage.devices_of(pod)}
        self._expect(self._identities() == kept, "other devices were removed than those that nobody has")
        await show.say(
            "The two serial ports that the pod left behind were removed; the others are untouched."
        )
        return waiting

    async def _leaves_nothing_behind(self, *pods: Pod) -> None:
        show, stage = self._show, self._stage
        await show.chapter("All pods end.")
        before = len(stage.agent.log)
        uuids = [uuid for pod in pods for uuid in stage.devices_of(pod)]
        for uuid in tuple(stage.machines):
            await stage.end_machine(uuid)
        for pod in pods:
            await stage.drop(pod)
        await self._all(stage.agent.logged("device removed", since=before, device=uuid) for uuid in uuids)
        await stage.counts(nvidia_230=32, nvidia_231=16, nvidia_232=8, whole_t4=1, mtty_1=24, mtty_2=12)
        await show.say("Every device is gone, and every type has all its room again.")
        status = await stage.agent.end(signal.SIGTERM)
        self._expect(status == 0, f"the agent ended with {status} after SIGTERM")
        self._expect(not stage.snapshot.devices, "a device is left")
        self._expect(not stage.kubelet.crashes, f"a kubelet could crash: {stage.kubelet.crashes[:1]}")
        errors = [entry["event"] for entry in stage.agent.log if entry["level"] == "error"]
        self._expect(not errors, f"the agent logged an error: {errors[:1]}")
        await show.say("SIGTERM: the agent ended with 0.")

    # Inside

    async def _started(self, pod: Pod) -> dict[str, pb.ContainerAllocateResponse]:
        try:
            return await self._stage.kubelet.start_containers(pod)
        except StartError as error:
            raise WentWrong(f"the pod {pod.spec.name} could not start: {error}") from error

    def _identities(self) -> dict[str, int]:
        """Each device with its directory's inode: one that is made anew has another."""
        paths = self._stage.node.paths
        return {uuid: paths.device(uuid).stat().st_ino for uuid in self._stage.snapshot.devices}

    @staticmethod
    async def _all(waits: Iterable[Awaitable[object]]) -> None:
        await asyncio.gather(*waits)

    @staticmethod
    def _one(uuids: list[str]) -> str:
        if len(uuids) != 1:
            raise WentWrong(f"one device was expected, and the kubelet gave {len(uuids)}")
        return uuids[0]

    @staticmethod
    def _expect(condition: object, otherwise: str) -> None:
        if not condition:
            raise WentWrong(otherwise)
