"""From the start of the process until a hundred resources are registered and have sent a list."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from deviceplugin.simulator.node.description import parse
from deviceplugin.simulator.node.kernel import SimulatedKernel

from .figures import Figure
from .listener import Listener
from .processes import agent, cpu_seconds

CARDS, TYPES = 10, 10
TURNS = 5


def description(cards: int, types: int) -> str:
    """A node whose cards each offer types of their own."""
    lines = ["models:"]
    for card in range(cards):
        lines += [f"  model{card}:", f"    driver: driver{card}", "    pools: {memory: 8}", "    types:"]
        lines += [
            f"    - {{id: model{card}-{kind}, name: Model {card}.{kind}, takes: {{memory: {1 + kind % 8}}}}}"
            for kind in range(types)
        ]
    lines += ["cards:", *(f"- {{model: model{card}, address: card{card}}}" for card in range(cards))]
    return "\n".join([*lines, ""])


async def measure(directory: Path) -> list[Figure]:
    kernel = SimulatedKernel.build(
        directory / "node", parse(description(CARDS, TYPES), origin="the node of the bench")
    )
    starts, floors, cpu = [], [], []
    for turn in range(TURNS):
        root = directory / f"kubelet{turn}"
        async with Listener(root) as listener:
            began = time.monotonic()
            with agent(kernel.paths.root, root) as process:
                await listener.resources(CARDS * TYPES)
                starts.append(time.monotonic() - began)
                cpu.append(cpu_seconds(process.pid))
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "import grpc.aio"], check=True, stdin=subprocess.DEVNULL)  # noqa: ASYNC221
        floors.append(time.monotonic() - began)
    return [
        Figure(
            name=f"start to {CARDS * TYPES} resources",
            measured=median(starts),
            unit="s",
            floor=median(floors),
            goal=1.0,
            note=f"median of {TURNS}, worst {max(starts):.2f} s, the agent's CPU time {median(cpu):.2f} s; "
            "floor: the start of Python that imports grpc.aio",
        )
    ]
