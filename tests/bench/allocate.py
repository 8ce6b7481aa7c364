"""Allocate, with a device made for each call.

Three things take turns: a call to the agent; the same call to a handler that does nothing, in a process of
its own; and the simulator's work on files for one create, on a second node that is always in the state of the
first. What the agent adds to the latter is judged by the handler that does nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.simulator.node.description import load
from deviceplugin.simulator.node.kernel import SimulatedKernel

from .figures import Figure, percentile
from .listener import Listener, connect
from .processes import agent, running, served

RESOURCE, PARENT, TYPE = "vfio.dev/mbochs-small", "mbochs", "mbochs-small"
RESOURCES = 8
"""How many the node has."""
BATCH = 50
"""Devices that are made before all are removed again; the card takes 64."""
CALM = 0.06
"""Seconds in which the agent looks at the card once more after a create, and is done with it."""
SETTLED = 0.3
WARM_UP = 10


@dataclass
class _Times:
    calls: list[float] = field(default_factory=list)
    empty: list[float] = field(default_factory=list)
    files: list[float] = field(default_factory=list)

    def figures(self, name: str) -> list[Figure]:
        figures = []
        for percent, goal in ((50, 1.5), (99, 2.0)):
            call, floor, files = (
                percentile(times, percent) for times in (self.calls, self.empty, self.files)
            )
            figures.append(
                Figure(
                    name=f"Allocate, {name}, p{percent}",
                    measured=call * 1e3,
                    unit="ms",
                    floor=floor * 1e3,
                    judged=(call - files) / floor,
                    goal=goal,
                    note=f"judged is (measured less {files * 1e3:.2f} ms of the simulator's files) / floor; "
                    f"{len(self.calls)} calls",
                )
            )
        return figures


async def measure(directory: Path) -> list[Figure]:
    node = SimulatedKernel.build(directory / "node", load("samples"))
    twin = SimulatedKernel.build(directory / "twin", load("samples"))
    socket = directory / "empty.sock"
    async with Listener(directory / "kubelet") as listener:
        with (
            running("tests.bench.empty", str(socket), log=directory / "empty.log"),
            agent(node.paths.root, directory / "kubelet"),
        ):
            await served(socket)
            await listener.resources(RESOURCES)
            channel, empty = connect(socket)
            round_ = _Round(node, twin, listener, empty)
            try:
                await round_.run(_Times(), WARM_UP, pause=0.0)
                calm, busy = _Times(), _Times()
                for _ in range(4):
                    await round_.run(calm, BATCH, pause=CALM)
                    await round_.run(busy, BATCH, pause=0.0)
                    await round_.run(busy, BATCH, pause=0.0)
            finally:
                await channel.close()
    return [*calm.figures("one at a time"), *busy.figures("back to back")]


@dataclass
class _Round:
    node: SimulatedKernel
    twin: SimulatedKernel
    listener: Listener
    empty: Any

    async def run(self, times: _Times, count: int, *, pause: float) -> None:
        """Make so many devices, and remove them."""
        slots = self.listener.healthy(RESOURCE)[:count]
        if len(slots) < count:
            raise RuntimeError(f"{RESOURCE} has room for {len(slots)} devices only")
        for slot in slots:
            request = pb.AllocateRequest(container_requests=[pb.ContainerAllocateRequest(devices_ids=[slot])])
            await asyncio.sleep(pause)
            times.calls.append(await _timed(self.listener.stubs[RESOURCE].Allocate(request)))
            await asyncio.sleep(pause)
            times.empty.append(await _timed(self.empty.Allocate(request)))
            began = time.perf_counter()
            self.twin.write(self.twin.paths.create(PARENT, TYPE), slot)
            times.files.append(time.perf_counter() - began)
        for slot in slots:
            for kernel in (self.node, self.twin):
                kernel.write(kernel.paths.remove(slot), "1")
        await asyncio.sleep(SETTLED)


async def _timed(call: Awaitable[object]) -> float:
    began = time.perf_counter()
    await call
    return time.perf_counter() - began
