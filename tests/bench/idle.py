"""What an agent takes that has nothing to do: memory, and CPU time; without devices and with some."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from deviceplugin.simulator.kubelet.kubelet import ContainerSpec, PodSpec, SimulatedKubelet
from deviceplugin.simulator.node.description import parse
from deviceplugin.simulator.node.kernel import SimulatedKernel

from .figures import Figure
from .processes import agent, cpu_seconds, memory_mib
from .start import description

CARDS, TYPES = 5, 10
PODS = 4
SETTLED = 3.0
SECONDS = 20.0


async def measure(directory: Path) -> list[Figure]:
    kernel = SimulatedKernel.build(
        directory / "node", parse(description(CARDS, TYPES), origin="the node of the bench")
    )
    async with AsyncExitStack() as ended:
        pids = {}
        for name, pods in (("no device", 0), (f"{PODS} devices", PODS)):
            node = kernel if pods else SimulatedKernel.build(directory / "idle", kernel.node)
            root = directory / f"kubelet{pods}"
            kubelet = await ended.enter_async_context(SimulatedKubelet(root))
            pids[name] = ended.enter_context(agent(node.paths.root, root)).pid
            await kubelet.wait_for(partial(_all_registered, kubelet), timeout=20)
            for number in range(pods):
                requests = {f"vfio.dev/model{number}-0": 1}
                container = ContainerSpec(name="c", requests=requests)
                pod = await kubelet.admit(PodSpec(name=f"pod{number}", containers=[container]))
                await kubelet.start_containers(pod)
        await asyncio.sleep(SETTLED)
        before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        await asyncio.sleep(SECONDS)
        figures = [
            Figure(
                name=f"idle CPU, {name}",
                measured=(cpu_seconds(pid) - before[name]) / SECONDS * 1e3,
                unit="ms/s",
                goal=3.0,
                note=f"over {SECONDS:.0f} s, {CARDS * TYPES} resources registered",
            )
            for name, pid in pids.items()
        ]
        resident, proportional = memory_mib(pids[f"{PODS} devices"])
    return [
        Figure(
            name="idle memory",
            measured=resident,
            unit="MiB",
            floor=_bare_memory(),
            goal=50.0,
            note=f"resident, {CARDS * TYPES} resources; its proportional share is {proportional:.1f} MiB; "
            "floor: Python that has imported grpc.aio; "
            f"{'imports' if _imports('rich') else 'does not import'} rich",
        ),
        *figures,
    ]


def _all_registered(kubelet: SimulatedKubelet) -> bool:
    names = [f"vfio.dev/model{card}-{kind}" for card in range(CARDS) for kind in range(TYPES)]
    return all(kubelet.list_messages(name).count > 0 for name in names)


def _bare_memory() -> float:
    """MiB that Python has in memory when gRPC is imported and nothing else."""
    code = "import grpc.aio, re; print(re.search(r'VmRSS:\\s*(\\d+)', open('/proc/self/status').read())[1])"
    return int(_output(code)) / 1024


def _imports(module: str) -> bool:
    return _output(f"import sys, deviceplugin.cli.run; print({module!r} in sys.modules)").strip() == "True"


def _output(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    return done.stdout
