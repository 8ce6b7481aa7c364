"""More events than a socket's buffer holds: what they told is looked up, and the next ones are heard."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from deviceplugin.host import uevents
from deviceplugin.host.kernel import LinuxKernel, UeventsLost
from deviceplugin.host.node import Node
from tests import parts
from tests.component.world import Stage
from tests.kernel.conftest import PATIENCE

FLOOD = """
import os, sys
fd = os.open("/sys/class/net/lo/uevent", os.O_WRONLY)
for _ in range(int(sys.argv[1])):
    os.write(fd, b"change")
"""


def flood(events: int) -> None:
    """Have the kernel send so many events of the loopback device."""
    subprocess.run([sys.executable, "-c", FLOOD, str(events)], check=True, timeout=600)


@asynccontextmanager
async def followed(node: Node) -> AsyncIterator[None]:
    task = asyncio.create_task(node.follow())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
    assert task.cancelled(), task.exception()


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


async def test_an_overflow_of_the_socket_is_a_reason_to_look_and_no_end(
    kernel: LinuxKernel, create: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uevents, "_RECEIVE_BUFFER", 1 << 14)
    failures: list[Exception] = []
    node = parts.node(kernel, on_deaf=failures.append)
    async with followed(node):
        await until(lambda: "mtty" in node.snapshot.by_address, "the first look")
        # While this task has the event loop nothing is read.
        flood(5000)
        missed = create("mtty-1")
        await until(lambda: bool(failures), "the overflow is noticed")
        assert isinstance(failures[0], UeventsLost)
        await until(lambda: missed in node.snapshot.devices, "what nothing told of shows")
        later = create("mdpy-vga")
        await until(lambda: later in node.snapshot.devices, "what is told of after that shows")


async def test_an_agent_lives_through_a_flood_and_serves(stage: Stage) -> None:
    await asyncio.to_thread(flood, 40_000)
    pod = await stage.run_pod("mtty-1")
    assert stage.ids(pod) <= stage.devices.keys()
    await stage.offers(within=PATIENCE, mtty_1=24, mtty_2=11)
    await stage.kubelet.delete(pod)
    await stage.until(lambda: not stage.devices, "the device goes", within=PATIENCE)
    assert stage.agent_runs
