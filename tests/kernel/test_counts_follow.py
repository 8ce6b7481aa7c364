"""Whatever is made and removed, and by whom: what is advertised is what the kernel says, and soon.

WALK in the environment is the number of changes, SEED another walk.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deviceplugin.host.mdev import scan
from deviceplugin.inventory import slots
from deviceplugin.simulator.kubelet.kubelet import AdmissionError, Pod
from tests.component.world import Stage, vfio
from tests.kernel.conftest import EMPTY, PATIENCE
from tests.kernel.watching import Devices

WALK = int(os.environ.get("WALK") or 200)
SEED = int(os.environ.get("SEED") or 1)
QUICK = "reclaim: {grace: 500ms, interval: 250ms}"
TYPES = {"mtty": ("mtty-1", "mtty-2"), "mdpy": ("mdpy-vga", "mdpy-xga", "mdpy-hd")} | {
    "mbochs": ("mbochs-small", "mbochs-medium", "mbochs-large")
}
RESOURCES = tuple(vfio(type_id) for types in TYPES.values() for type_id in types)
PROMISED = 0.1
"""Seconds from a change to the list that tells of it."""
LIMIT = PROMISED if os.environ.get("MDEV_TEST_KVM") == "1" else 30 * PROMISED
"""Seconds that no change may take: an emulated processor takes some hundred milliseconds for one."""
PHASE = 25
"""Changes in which the node rather fills, or rather empties."""


@dataclass
class Lists:
    """How many of each resource the kubelet has heard of, and when that last changed."""

    stage: Stage
    now: dict[str, int] = field(default_factory=dict)
    since: float = 0.0

    async def follow(self) -> None:
        """Note every list as it comes; runs until it is cancelled."""
        await self.stage.kubelet.wait_for(self._look, None)

    def _look(self) -> bool:
        found = self.stage.allocatable(*RESOURCES)
        if found != self.now:
            self.now, self.since = found, time.monotonic()
        return False


@dataclass
class Walk:
    """A way through what may happen to a node, and how soon the lists told of each step."""

    stage: Stage
    lists: Lists
    devices: Devices
    chance: random.Random
    foreign: list[str] = field(default_factory=list)
    pods: list[Pod] = field(default_factory=list)
    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    late: int = 0
    """Changes after which the kernel itself changed a count later than it said."""

    async def step(self, number: int) -> None:
        fills = self.chance.random() < (0.75 if number // PHASE % 2 == 0 else 0.3)
        by_hand = self.chance.random() < 0.5
        if fills or not (self.foreign if by_hand else self.pods):
            await (self.create_by_hand() if by_hand else self.admit(number))
        else:
            await (self.remove_by_hand() if by_hand else self.delete())

    async def create_by_hand(self) -> None:
        parent = self.chance.choice(tuple(TYPES))
        new = str(uuid.UUID(int=self.chance.getrandbits(128), version=4))
        try:
            self.stage.create(parent, self.chance.choice(TYPES[parent]), new)
        except OSError:
            await self.follows("refused by the kernel", time.monotonic())
            return
        self.foreign.append(new)
        await self.follows("made by hand", time.monotonic())

    async def remove_by_hand(self) -> None:
        self.stage.remove(self.foreign.pop(self.chance.randrange(len(self.foreign))))
        await self.follows("removed by hand", time.monotonic())

    async def admit(self, number: int) -> None:
        type_id = self.chance.choice(TYPES[self.chance.choice(tuple(TYPES))])
        count = self.chance.choice((1, 1, 2))
        try:
            pod = await self.stage.run_pod({vfio(type_id): count}, name=f"pod-{number}")
        except AdmissionError:
            await self.follows("refused by the kubelet", time.monotonic())
            return
        self.pods.append(pod)
        made = [self.devices.at["bind", device] for device in self.stage.ids(pod)]
        await self.follows("made by the agent", max(made))

    async def delete(self) -> None:
        pod = self.pods.pop(self.chance.randrange(len(self.pods)))
        gone = self.stage.ids(pod)
        for device in gone:
            self.devices.at.pop(("remove", device), None)
        await self.stage.kubelet.force_delete(pod)
        await self.stage.until(
            lambda: all(("remove", device) in self.devices.at for device in gone),
            f"the devices {gone} removed",
            within=PATIENCE,
        )
        await self.follows("removed by the agent", max(self.devices.at["remove", one] for one in gone))

    async def follows(self, what: str, since: float) -> None:
        """Wait until the kubelet has heard what the kernel says, and note how long that took."""
        until = since + PATIENCE
        wanted = self.counted()
        while True:
            try:
                await self.stage.kubelet.wait_for(lambda: self.lists.now == wanted, 1)
                break
            except TimeoutError:
                assert time.monotonic() < until, f"{what}: {wanted}, and {self.lists.now}"
                before, wanted = wanted, self.counted()
                self.late += before != wanted
        self.seconds[what].append(max(0.0, self.lists.since - since))

    def counted(self) -> dict[str, int]:
        """What each resource should have: what the agent made and what the kernel can still make."""
        snapshot = scan(self.stage.kernel.paths).snapshot
        made = Counter(device.type for device in snapshot.devices.values() if slots.bears_mark(device.uuid))
        return {
            vfio(entry.id): entry.available + made[entry.id]
            for parent in snapshot.parents
            for entry in parent.types
        }


def told(what: str, seconds: Sequence[float]) -> str:
    ordered = [second * 1000 for second in sorted(seconds)]
    p50, p99 = (ordered[math.ceil(part * len(ordered)) - 1] for part in (0.5, 0.99))
    return f"{what:>22}: {len(ordered):4} times, p50 {p50:.0f} ms, p99 {p99:.0f} ms, max {ordered[-1]:.0f} ms"


@pytest.mark.parametrize("stage", [QUICK], indirect=True)
async def test_every_count_follows_the_kernels(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    with Devices(stage.kernel, ours=slots.bears_mark) as devices:
        lists = Lists(stage)
        listening = asyncio.create_task(lists.follow())
        walk = Walk(stage, lists, devices, random.Random(SEED))
        await walk.follows("at first", time.monotonic())
        before = cpu_seconds(stage)
        for number in range(WALK):
            await walk.step(number)
        spent = zip(cpu_seconds(stage), before, strict=True)
        cost = [(after - earlier) * 1000 / WALK for after, earlier in spent]
        for pod in walk.pods:
            await stage.kubelet.force_delete(pod)
        for device in walk.foreign:
            stage.remove(device)
        await stage.offers(within=PATIENCE, **EMPTY)
        listening.cancel()
    every = [second for what, seconds in walk.seconds.items() if what != "at first" for second in seconds]
    in_time = sum(second <= PROMISED for second in every)
    with capsys.disabled():
        print(f"\n{WALK} changes, SEED={SEED}; the kernel's own counts came late {walk.late} times")
        for what, seconds in sorted(walk.seconds.items()):
            print(told(what, seconds))
        print(told("all", every))
        print(f"{in_time} of {len(every)} within {PROMISED * 1000:.0f} ms")
        print(f"a change cost the agent {cost[0]:.0f} ms of CPU, and the kubelet's side {cost[1]:.0f} ms")
    assert max(every) <= LIMIT


def cpu_seconds(stage: Stage) -> tuple[float, float]:
    """What the agent and this process have used so far."""
    assert stage._agent is not None
    fields = Path(f"/proc/{stage._agent.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), time.process_time()
