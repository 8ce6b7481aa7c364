"""From a change on the node that somebody else makes to the last list that tells of it."""

from __future__ import annotations

import asyncio
import time
import uuid
from pathlib import Path

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.simulator.node.description import load
from deviceplugin.simulator.node.kernel import SimulatedKernel

from .figures import Figure, percentile
from .listener import Listener
from .processes import agent

NODES = {"samples": ("mbochs", "mbochs-large", 8), "big": ("0000:10:00.4", "nvidia-909", 20)}
"""A parent, a type that takes from what others of the card need too, and how many resources there are."""
CHANGES = 100
QUIET = 0.12
"""Seconds after which no more lists come."""
GOAL = 50.0


async def measure(directory: Path) -> list[Figure]:
    figures = []
    for name, (parent, type_id, resources) in NODES.items():
        kernel = SimulatedKernel.build(directory / name, load(name))
        root = directory / f"{name}-kubelet"
        async with Listener(root) as listener:
            with agent(kernel.paths.root, root):
                await listener.resources(resources)
                await asyncio.sleep(1)
                times, lists = await _changes(kernel, listener, parent, type_id)
        for percent, goal in ((50, None), (99, GOAL)):
            figures.append(
                Figure(
                    name=f"change to list, {name}, p{percent}",
                    measured=percentile(times, percent) * 1e3,
                    unit="ms",
                    goal=goal,
                    note=f"{len(times)} changes, the last of {lists:.0f} resources' lists each"
                    if goal
                    else "",
                )
            )
    return figures


async def _changes(
    kernel: SimulatedKernel, listener: Listener, parent: str, type_id: str
) -> tuple[list[float], float]:
    """Create and remove a foreign device in turns; the time to the last changed list, how many they are."""
    times, lists = [], 0
    foreign = ""
    for _ in range(CHANGES):
        listener.arrivals.clear()
        if foreign:
            path, text, foreign = kernel.paths.remove(foreign), "1", ""
        else:
            foreign = str(uuid.uuid4())
            path, text = kernel.paths.create(parent, type_id), foreign
        done = await asyncio.to_thread(_write, kernel, path, text)
        await asyncio.sleep(QUIET)
        settled = [_settled(arrivals) for arrivals in listener.arrivals.values()]
        if not settled:
            raise RuntimeError(f"a change on {parent} led to no list within {QUIET} s")
        times.append(max(0.0, max(settled) - done))
        lists += len(settled)
    return times, lists / CHANGES


def _write(kernel: SimulatedKernel, path: Path, text: str) -> float:
    kernel.write(path, text)
    return time.monotonic()


def _settled(arrivals: list[tuple[float, pb.ListAndWatchResponse]]) -> float:
    """When the first of the lists came that are as the last one is."""
    last = arrivals[-1][1]
    return next(when for when, message in arrivals if message == last)
