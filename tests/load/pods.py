"""Pods that come and go, and looks at the agent in between."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from deviceplugin.simulator.kubelet.kubelet import AdmissionError, Pod
from tests.bench.processes import memory_mib
from tests.component.world import World, vfio
from tests.load.counted import code
from tests.load.figures import Row

QUICK = "reclaim: {grace: 0.5s, interval: 0.2s}"
ROOM = 30.0
"""Seconds that a pod waits for room: for the removal of what those before it had."""
CALM = 20.0
"""Seconds that the agent has to remove all devices and to be done with it."""
ANSWER = 10.0
BETWEEN = 0.1
"""Seconds between questions: an answer has the agent count all that it has."""


class Load:
    """A world whose pods are counted and whose agent is measured.

    Args:
        types: the types that pods ask for, one after the other.
        alive: how many pods there are at a time.
        every: how many pods come between two looks.
        patience: seconds in which the agent is to end what it still does when all devices are gone.
        on_row: called with each row as soon as it is there.
    """

    def __init__(
        self,
        world: World,
        types: Sequence[str],
        *,
        alive: int,
        every: int,
        patience: float = CALM,
        on_row: Callable[[Row], None] = lambda _row: None,
    ) -> None:
        self.world = world
        self.rows: list[Row] = []
        self.rejected = 0
        """Pods that the agent had no room for in the end, though the kubelet's list still said so."""
        self._types = types
        self._alive = alive
        self._every = every
        self._patience = patience
        self._on_row = on_row
        self._answers = world.directory / "counted.json"
        self._pods = 0
        self._running: deque[Pod] = deque()
        self._devices: dict[str, set[str]] = {}
        self._times: list[float] = []

    async def begin(self, wrap: Callable[[str], str] = lambda text: text) -> Self:
        """Start everything, and look at it before there was a pod.

        Args:
            wrap: makes another one of the agent's code.
        """
        await self.world.kubelet.start()
        await self.world.start_agent(code=wrap(code(self._answers)))
        for type_id in self._types:
            await self._room(type_id)
        plugins = self.world.kubelet.plugins
        allocate = plugins.allocate

        async def timed(resource: str, devices: Iterable[str]) -> Any:
            began = time.perf_counter()
            try:
                return await allocate(resource, devices)
            finally:
                self._times.append(time.perf_counter() - began)

        plugins.allocate = timed  # type: ignore[method-assign]
        await self._look()
        return self

    async def in_a_row(self, count: int) -> None:
        """Pods one after the other, the oldest deleted when there are enough, with a look now and then."""
        for number in range(1, count + 1):
            if len(self._running) >= self._alive:
                await self._end(self._running.popleft())
            await self._come(self._types[number % len(self._types)])
            if number % self._every == 0 or number == count:
                await self._end_all()
                await self._look()

    async def at_once(self, count: int, type_id: str) -> None:
        """Pods that all come together and all go together."""
        await asyncio.gather(*(self._come(type_id) for _ in range(count)))
        assert len(self.world.devices) == count, "each pod has a device of its own"
        await self._end_all()
        await self._look()

    # --- pods --------------------------------------------------------------------------------------

    async def _room(self, type_id: str) -> None:
        await self.world.kubelet.wait_for(lambda: self.world.kubelet.allocatable(vfio(type_id)) > 0, ROOM)

    async def _come(self, type_id: str) -> None:
        """A pod comes, and again if the kubelet's list was a moment behind: its controller sees to that."""
        self._pods += 1
        until = time.monotonic() + ROOM
        while True:
            await self._room(type_id)
            heard = self.world.kubelet.list_messages(vfio(type_id)).count
            try:
                pod = await self.world.run_pod(type_id, name=f"pod-{self._pods}")
                break
            except AdmissionError as error:
                full = ("no parent could take", "devices unavailable", "no healthy devices")
                assert any(reason in str(error) for reason in full), str(error)
                assert time.monotonic() < until, str(error)
                self.rejected += 1
                await self.world.kubelet.wait_for(self._news(type_id, heard), ROOM)
        given = self.world.ids(pod)
        others = set().union(*self._devices.values())
        assert given, "a pod has devices"
        assert not given & others, "nobody else has them"
        assert all(self.world.node.paths.device(uuid).exists() for uuid in given), "they are there"
        self._devices[pod.uid] = given
        self._running.append(pod)

    def _news(self, type_id: str, heard: int) -> Callable[[], bool]:
        return lambda: self.world.kubelet.list_messages(vfio(type_id)).count > heard

    async def _end(self, pod: Pod) -> None:
        del self._devices[pod.uid]
        await self.world.kubelet.delete(pod, linger=0.0)

    async def _end_all(self) -> None:
        while self._running:
            await self._end(self._running.popleft())

    # --- looks -------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Look at the agent when all devices are gone and it has nothing under way."""
        directory = self.world.node.paths.devices
        await self.world.until(lambda: not any(directory.iterdir()), "no device is left", within=CALM)
        assert self.world._agent is not None
        pid = self.world._agent.pid
        counted = await self._calm()
        rss, pss = memory_mib(pid)
        entries: dict[str, int] = counted["entries"]
        row = Row(
            pods=self._pods,
            rss=rss,
            pss=pss,
            heap=None if counted["heap"] is None else counted["heap"] / 2**20,
            blocks=counted["blocks"],
            fds=_number_of(pid, "fd"),
            threads=_number_of(pid, "task"),
            tasks=counted["tasks"],
            slots=sum(self.world.kubelet.capacity(vfio(type_id)) for type_id in self._types),
            cards=len(self.world.node.node.cards),
            entries=entries,
            allocated=tuple(self._times),
        )
        self._times.clear()
        self.rows.append(row)
        self._on_row(row)

    async def _calm(self) -> dict[str, Any]:
        """What the agent has once two answers agree that it does nothing, or after a while all the same.

        What it does about the last removal is over in a moment; that it never is should show in the row.
        While it sends its lists it has fewer tasks than without work, so fewer is not calm either.
        """
        until = time.monotonic() + self._patience
        counted = await self._ask()
        calm = self.rows[0].tasks if self.rows else None
        while time.monotonic() < until:
            earlier = counted["tasks"]
            await asyncio.sleep(BETWEEN)
            counted = await self._ask()
            if counted["tasks"] == earlier and calm in {None, earlier}:
                break
        return counted

    async def _ask(self) -> dict[str, Any]:
        self._answers.unlink(missing_ok=True)
        self.world.signal_agent(signal.SIGUSR1)
        await self.world.until(self._answers.exists, "the agent says what it has", within=ANSWER)
        answer: dict[str, Any] = json.loads(self._answers.read_text())
        return answer


def _number_of(pid: int, what: str) -> int:
    """How many a process has of what /proc lists."""
    return sum(1 for _ in Path(f"/proc/{pid}/{what}").iterdir())


def world_in(directory: Path, node: str, *, config: str = QUICK) -> World:
    """A world that has not begun yet."""
    return World(directory, node, config=config, text=None, kubelet={})
