"""The processes that are measured, and what the system knows of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

NODE_NAME = "bench"
_END = 10.0
"""Seconds that a process has to end."""
_CPUCLOCK_SCHED = 2
"""The clock of a process's CPU time to the nanosecond: linux/posix-timers_types.h."""


@contextlib.contextmanager
def agent(node: Path, kubelet: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An agent without a configuration, as it is installed; it logs to a file beside the kubelet's."""
    command = ["deviceplugin", "run", "--simulated", str(node), "--kubelet-root", str(kubelet)]
    with running(*command, "--node-name", NODE_NAME, log=kubelet.with_suffix(".log")) as process:
        yield process


@contextlib.contextmanager
def running(module: str, *arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process, ended with the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def served(socket: Path) -> None:
    """Wait until a socket is there."""
    async with asyncio.timeout(_END):
        while not socket.exists():  # noqa: ASYNC110  # another process makes it
            await asyncio.sleep(0.01)


def cpu_seconds(pid: int) -> float:
    """The CPU time of all threads of a process, those that have ended too."""
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)


def memory_mib(pid: int) -> tuple[float, float]:
    """What a process has in memory: all of it, and with its share only of what others have mapped too."""
    return _kib(f"/proc/{pid}/status", "VmRSS") / 1024, _kib(f"/proc/{pid}/smaps_rollup", "Pss") / 1024


def _kib(path: str, key: str) -> int:
    with open(path) as lines:  # noqa: PTH123
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def machine() -> str:
    """What this runs on, in a line."""
    with open("/proc/loadavg") as file:  # noqa: PTH123
        load = file.read().split()[0]
    version = ".".join(str(part) for part in sys.version_info[:3])
    return f"{os.cpu_count()} CPUs, load {load} at the start, Python {version}, Linux {os.uname().release}"
