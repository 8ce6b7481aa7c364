"""The agent is killed again and again, whatever it is doing; nothing leaks, and nothing in use is removed.

KILLS in the environment says how often, SEED which moments. Meanwhile pods come and go, a QEMU has some of
the devices the whole time, and others are opened for a while as a VM that comes and goes would.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from deviceplugin.host.kernel import Kernel
from deviceplugin.host.mdev import scan
from deviceplugin.inventory import slots
from deviceplugin.simulator.kubelet.kubelet import AdmissionError, Pod, StartError
from tests.component.world import Stage, vfio
from tests.kernel.conftest import EMPTY, PATIENCE, group_of
from tests.kernel.qemu import Qemu
from tests.kernel.watching import Devices

KILLS = int(os.environ.get("KILLS") or 20)
SEED = int(os.environ.get("SEED") or 1)
KEPT = ("mtty-1", "mdpy-vga", "mbochs-small")
"""The types of the devices that pods have the whole time, with a QEMU each."""
ORPHANED = ("mtty-2", "mbochs-small")
"""The types of those whose QEMU outlives its pod, from the beginning on."""
FOREIGN = ("mtty-1", "mbochs-medium")
ASKED = ("mtty-1", "mtty-2", "mdpy-vga", "mbochs-small", "mbochs-medium", "mbochs-large")
PODS = 8
"""So many pods at most come and go."""
HOLDERS = 2
GRACE = INTERVAL = 1.0
"""Seconds, as configured."""
GONE_WITHIN = 5 * (GRACE + 2 * INTERVAL)
"""Seconds: five times a grace period and two rounds, since an emulated processor is slow."""
WRONG = ("blocked until", "BUG:", "WARNING:", "Oops", "refcount_t", "use-after-free")
"""What the kernel says of a device that is removed in use, and of worse."""


class Pulled(Exception):
    """A device went while somebody had it."""


class Life:
    """Pods and group holders that come and go, until ``ended``."""

    def __init__(self, stage: Stage, *, untouchable: set[str]) -> None:
        self.stage = stage
        self.untouchable = untouchable
        self.ended = False
        self.pods: list[Pod] = []
        self.counts: Counter[str] = Counter()

    async def pods_come_and_go(self, chance: random.Random) -> None:
        number = 0
        while not self.ended:
            waiting = [pod for pod in self.pods if pod.phase == "Pending"]
            if waiting and chance.random() < 0.5:
                await self._start(chance.choice(waiting))
            elif self.pods and chance.random() < len(self.pods) / PODS:
                pod = self.pods.pop(chance.randrange(len(self.pods)))
                await self.stage.kubelet.force_delete(pod)
                self.counts["pods gone"] += 1
            else:
                number += 1
                await self._admit(chance, f"pod-{number}")
            await asyncio.sleep(chance.uniform(0, 0.3))

    async def _admit(self, chance: random.Random, name: str) -> None:
        wanted = {vfio(type_id): chance.choice((1, 1, 2)) for type_id in chance.sample(ASKED, 2)}
        if not all(self.stage.allocatable(*wanted).values()):
            return  # No agent is there, or no room: a scheduler would send the pod elsewhere.
        self.counts["pods"] += 1
        try:
            pod = await self.stage.admit(wanted, name=name)
        except AdmissionError as error:
            self.counts["pods refused"] += 1
            print(f"refused: {error}")
            return
        self.pods.append(pod)
        await self._start(pod)

    async def _start(self, pod: Pod) -> None:
        try:
            await self.stage.kubelet.start_containers(pod)
        except StartError:
            self.counts["starts failed"] += 1

    async def groups_come_and_go(self, chance: random.Random) -> None:
        kernel = self.stage.kernel
        while not self.ended:
            free = [device for device in marked(kernel) if device not in self.untouchable]
            if free:
                with held(kernel, chance.choice(sorted(free))) as has_it:
                    self.counts["holds"] += has_it
                    await asyncio.sleep(chance.uniform(0, 1.5))
            await asyncio.sleep(chance.uniform(0, 0.5))


@contextlib.contextmanager
def held(kernel: Kernel, device: str) -> Iterator[bool]:
    """Have a device's group open, if it can be had; says whether.

    Raises:
        Pulled: the device went in the meantime.
    """
    before = identity(kernel, device)
    if before is None:
        yield False
        return
    try:
        descriptor = kernel.open_group(before[1])
    except OSError as error:
        if error.errno not in {errno.EBUSY, errno.ENOENT, errno.ENODEV}:
            raise
        yield False
        return
    try:
        # Between the look and the opening it may have gone, and the number to another device.
        same = identity(kernel, device) == before
        yield same
        if same and identity(kernel, device) != before:
            raise Pulled(f"{device} was removed while its group was open")
    finally:
        os.close(descriptor)


def identity(kernel: Kernel, device: str) -> tuple[int, int] | None:
    """What tells a device from another one that came after it under the same UUID; None for none."""
    try:
        return kernel.paths.device(device).stat().st_ino, group_of(kernel, device)
    except FileNotFoundError:
        return None


def marked(kernel: Kernel) -> set[str]:
    """The devices that bear the agent's mark."""
    return {path.name for path in kernel.paths.devices.iterdir() if slots.bears_mark(path.name)}


class Killer:
    """Ends the agent with SIGKILL at moments of four kinds, and starts the next one."""

    def __init__(self, stage: Stage, devices: Devices, chance: random.Random) -> None:
        self.stage = stage
        self.devices = devices
        self.chance = chance
        self.counts: Counter[str] = Counter()

    async def kill(self, start_takes: float) -> None:
        moment = self.chance.choice(("starting", "allocating", "reclaiming", "removing"))
        if moment == "starting":
            await asyncio.sleep(self.chance.uniform(0, start_takes))
        else:
            try:
                async with asyncio.timeout(PATIENCE):
                    await getattr(self, f"_{moment}")()
            except TimeoutError:
                moment = "idle"
        assert self.stage.agent_runs, "it ended by itself"
        async with asyncio.timeout(PATIENCE):
            await self.stage.kill_agent()
        self.counts[moment] += 1
        print(f"killed while {moment}: {self.counts.total()} of {KILLS} kills", flush=True)
        await self.stage.start_agent()

    async def _allocating(self) -> None:
        await self._called("Allocate")
        await asyncio.sleep(self.chance.uniform(0, 0.15))

    async def _reclaiming(self) -> None:
        await self._called("List")
        await self._called("List")
        await asyncio.sleep(self.chance.uniform(0, 0.8))

    async def _removing(self) -> None:
        await self.devices.next("remove")
        await asyncio.sleep(self.chance.uniform(0, 0.02))

    async def _called(self, method: str) -> None:
        calls = self.stage.kubelet.log
        seen = len(calls)
        await self.stage.kubelet.wait_for(
            lambda: any(call.method == method for call in calls[seen:]), PATIENCE
        )


class Machines:
    """The QEMUs that have devices from the beginning to the end, and what they have."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.all: dict[str, Qemu] = {}
        self._before: dict[str, tuple[tuple[int, int] | None, set[str]]] = {}

    def attach(self, stack: contextlib.ExitStack, device: str) -> None:
        qemu = stack.enter_context(Qemu(device))
        self.all[device] = qemu
        self._before[device] = identity(self.kernel, device), qemu.pci_ids()

    def assert_untouched(self) -> None:
        for device, qemu in self.all.items():
            assert qemu.process.poll() is None, f"the QEMU that has {device} has ended"
            assert (identity(self.kernel, device), qemu.pci_ids()) == self._before[device]
            with held(self.kernel, device) as free:
                assert not free, f"QEMU does not have {device} any more"


async def test_no_kill_leaks_a_device_or_takes_one_away(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel = stage.kernel
    say_to_the_kernels_log(began := f"kills begin {uuid.uuid4()}")
    foreign = made_by_hand(stage)
    with contextlib.ExitStack() as stack, Devices(kernel, ours=slots.bears_mark) as devices:
        machines = Machines(kernel)
        kept = [await attached(stage, machines, stack, type_id) for type_id in KEPT]
        orphaned = [await attached(stage, machines, stack, type_id) for type_id in ORPHANED]
        of_orphans = {device for pod in orphaned for device in stage.ids(pod)}
        for pod in orphaned:
            await stage.kubelet.force_delete(pod)

        life = Life(stage, untouchable=set(machines.all))
        told = await killed(stage, life, devices)

        for pod in [pod for pod in life.pods if pod.phase == "Pending"] + life.pods[::2]:
            if pod.active:
                await stage.kubelet.force_delete(pod)
        living = [pod for pod in [*kept, *life.pods] if pod.active]
        of_pods = {device for pod in living for device in stage.ids(pod)}
        await listened_to(stage)
        cleared = await stage.until(
            lambda: marked(kernel) == of_pods | of_orphans,
            "every device gone whose pod is gone, and no other",
            within=GONE_WITHIN + PATIENCE,
        )
        with capsys.disabled():
            print(f"\n{told}; the last left-over was gone {cleared:.1f} s after the last start")
        assert cleared <= GONE_WITHIN
        machines.assert_untouched()
        assert {device: identity(kernel, device) for device in foreign} == foreign
        await stage.until(lambda: offered(stage) == possible(stage, of_pods), "the counts", within=PATIENCE)
        assert not said_by_the_kernel(began)

        # And when the machines have gone too, so do their devices.
        for qemu in machines.all.values():
            await stage.beside(qemu.stop)
        for pod in living:
            await stage.kubelet.force_delete(pod)
        await stage.until(lambda: not marked(kernel), "no device of the agent's left", within=PATIENCE)
        for device in foreign:
            stage.remove(device)
        await stage.offers(within=PATIENCE, **EMPTY)


def made_by_hand(stage: Stage) -> dict[str, tuple[int, int] | None]:
    """Devices of somebody else, and what tells each from any other."""
    made = {str(uuid.UUID(int=number, version=4)): type_id for number, type_id in enumerate(FOREIGN)}
    for device, type_id in made.items():
        stage.create(type_id.partition("-")[0], type_id, device)
    return {device: identity(stage.kernel, device) for device in made}


async def attached(stage: Stage, machines: Machines, stack: contextlib.ExitStack, type_id: str) -> Pod:
    """A pod with a device that a QEMU has."""
    pod = await stage.run_pod(type_id, name=f"keeps-{len(machines.all)}")
    (device,) = stage.ids(pod)
    await stage.beside(lambda: machines.attach(stack, device))
    print(f"a QEMU has {device}", flush=True)
    return pod


async def killed(stage: Stage, life: Life, devices: Devices) -> str:
    """Kill the agent so often while life goes on; returns the story in figures."""
    killer = Killer(stage, devices, random.Random(SEED))
    start_takes = await restarted(stage)
    print(f"a start takes {start_takes:.1f} s", flush=True)
    before, calls, began = Counter(devices.counts), stage.kubelet.calls, time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(life.pods_come_and_go(random.Random(SEED + 1)))
        for number in range(HOLDERS):
            tasks.create_task(life.groups_come_and_go(random.Random(SEED + 2 + number)))
        for _ in range(KILLS):
            await killer.kill(start_takes)
        life.ended = True
    took, calls = time.monotonic() - began, stage.kubelet.calls - calls
    counts = devices.counts - before
    return (
        f"{KILLS} kills and starts in {took:.0f} s, SEED={SEED}, a start takes {start_takes:.1f} s\n"
        f"kills: {dict(killer.counts)}\nlife: {dict(life.counts)}\n"
        f"{calls['Allocate']} Allocate calls; {counts['bind']} devices made, {counts['remove']} removed"
    )


async def restarted(stage: Stage) -> float:
    """Kill the agent and start it; the seconds until the kubelet listens to it."""
    await stage.kill_agent()
    await stage.kubelet.wait_for(lambda: not any(stage.allocatable(*map(vfio, ASKED)).values()), PATIENCE)
    began = time.monotonic()
    await stage.start_agent()
    await listened_to(stage)
    return time.monotonic() - began


async def listened_to(stage: Stage) -> None:
    """Wait until the kubelet has the lists of a new agent: what pods keep is healthy in them."""
    await stage.kubelet.wait_for(lambda: all(stage.allocatable(*map(vfio, KEPT)).values()), PATIENCE)


def possible(stage: Stage, working: set[str]) -> dict[str, tuple[int, set[str]]]:
    """For each resource what may be healthy: how many, and those that certainly are."""
    result = {}
    for parent in scan(stage.kernel.paths).snapshot.parents:
        for entry in parent.types:
            alive = {
                device.uuid for device in parent.devices if device.type == entry.id and device.uuid in working
            }
            result[vfio(entry.id)] = entry.available + len(alive), alive
    return result


def offered(stage: Stage) -> dict[str, tuple[int, set[str]]]:
    """For each resource how many slots are healthy, and those that exist."""
    there = marked(stage.kernel)
    result = {}
    for resource in possible(stage, set()):
        healthy = {device for device, (good, _) in stage.kubelet.devices(resource).items() if good}
        result[resource] = len(healthy), healthy & there
    return result


def say_to_the_kernels_log(text: str) -> None:
    Path("/dev/kmsg").write_text(f"{text}\n")


def said_by_the_kernel(since: str) -> list[str]:
    """What it has complained of since then."""
    log = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    assert since in log, "the kernel's log is not whole any more"
    return [line for line in log.split(since)[1].splitlines() if any(word in line for word in WRONG)]
