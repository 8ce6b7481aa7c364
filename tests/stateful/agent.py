"""The agent with its edges watched: it notes what it does, and dies or dawdles where it was told to.

Nothing of this is in the agent itself. What is replaced are the two edges that it works through anyway: the
kernel below, and above the endpoints and the questions to the kubelet.

``python -m tests.stateful.agent`` is a nursery: it has everything loaded, and each line on its standard input
makes it fork an agent, since loading takes ten times as long as starting.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import mmap
import os
import select
import signal
import struct
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio

import deviceplugin.agent
import deviceplugin.allocation
import deviceplugin.config
import deviceplugin.host.node
import deviceplugin.host.reading
import deviceplugin.kubelet.memory
import deviceplugin.kubelet.podresources
import deviceplugin.kubelet.registration
import deviceplugin.kubelet.server
import deviceplugin.kubelet.service
import deviceplugin.pods
import deviceplugin.recovery
import deviceplugin.simulator.node.kernel  # loaded once for all
from deviceplugin.cli import main as commands
from deviceplugin.cli import run as runs
from deviceplugin.host.kernel import Kernel, Uevent, UeventSource
from deviceplugin.host.paths import HostPaths
from deviceplugin.inventory.offer import Offer
from deviceplugin.kubelet import checkpoint
from tests.stateful.deeds import Diary
from tests.stateful.points import Order, Points

QUICK: tuple[tuple[Any, str, float], ...] = (
    (deviceplugin.allocation, "DEADLINE", 1.5),
    (deviceplugin.allocation, "START_DEADLINE", 3.0),
    (deviceplugin.host.node, "REMOVE_DEADLINE", 2.0),
    (deviceplugin.host.reading, "SCAN_DEADLINE", 1.0),
    (deviceplugin.kubelet.memory, "REWRITE_DEADLINE", 0.5),
    (deviceplugin.kubelet.podresources, "LIST_DEADLINE", 0.5),
    (deviceplugin.kubelet.registration, "REGISTER_DEADLINE", 3.0),
    (deviceplugin.kubelet.server, "LISTEN_DEADLINE", 1.0),
    (deviceplugin.kubelet.server, "LAST_RETRY", 0.5),
    (deviceplugin.kubelet.server, "SHORT_LIVED", 0.3),
    (deviceplugin.kubelet.service, "FINISH", 1.0),
    (deviceplugin.pods, "SETTLE", 0.1),
    (deviceplugin.pods, "AGAIN", 0.2),
    (deviceplugin.recovery, "PATIENCE", 0.5),
    (deviceplugin.recovery, "_PAUSE", 0.02),
    (deviceplugin.recovery, "_LATER", 0.1),
)
"""The agent's own patience, in proportion to the grace period that it has here."""


class Watch:
    """Carries out the orders of one directory."""

    def __init__(self, directory: Path) -> None:
        self._points = Points(directory)
        self.diary = Diary(directory)

    def at(self, point: str) -> None:
        """This place is reached, in a thread that may wait."""
        order = self._points.reached(point)
        if order is not None:
            time.sleep(self._obey(order))

    async def within(self, point: str) -> None:
        """The same on the event loop."""
        order = self._points.reached(point)
        if order is not None:
            await asyncio.sleep(self._obey(order))

    def _obey(self, order: Order) -> float:
        self.diary.note(order.action, order.point)
        if order.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return order.seconds


class WatchedEvents:
    """A source of uevents whose reading is a place."""

    def __init__(self, source: UeventSource, watch: Watch) -> None:
        self._source = source
        self._watch = watch

    def fileno(self) -> int:
        return self._source.fileno()

    def receive(self) -> list[Uevent]:
        events = self._source.receive()
        self._watch.at("events received")
        return events

    def close(self) -> None:
        self._source.close()


class WatchedKernel:
    """A kernel whose every call is two places, before and after."""

    def __init__(self, kernel: Kernel, watch: Watch) -> None:
        self._kernel = kernel
        self._watch = watch

    @property
    def paths(self) -> HostPaths:
        return self._kernel.paths

    def write(self, path: Path, text: str) -> None:
        kind = path.name if path.name in {"create", "remove"} else "attribute"
        self._watch.at(f"before {kind}")
        if kind != "attribute":
            self._watch.diary.note(kind, text if kind == "create" else path.parent.name)
        self._kernel.write(path, text)
        self._watch.at(f"after {kind}")

    def open_group(self, group: int) -> int:
        self._watch.at("before claim")
        fd = self._kernel.open_group(group)
        self._watch.at("after claim")
        return fd

    def uevents(self) -> UeventSource:
        self._watch.at("before listening to events")
        return WatchedEvents(self._kernel.uevents(), self._watch)


class WatchedEndpoint(deviceplugin.kubelet.server.Endpoint):
    """An endpoint whose every request is two places, and whose lists may never shrink."""

    watch: Watch

    def publish(self, offer: Offer) -> None:
        lost = {slot.id for slot in self.offer.slots} - {slot.id for slot in offer.slots}
        if lost:
            self.watch.diary.note("shrunk", f"{offer.resource} {' '.join(sorted(lost))}")
        super().publish(offer)


class WatchedService(deviceplugin.kubelet.service.Service):
    """What the kubelet asks for: every request is two places."""

    watch: Watch

    async def GetDevicePluginOptions(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.watch.within("options asked")
        return await super().GetDevicePluginOptions(request, context)

    async def ListAndWatch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        stream = super().ListAndWatch(request, context)
        try:
            async for message in stream:
                await self.watch.within("before a list is sent")
                yield message
                await self.watch.within("after a list was sent")
        finally:
            self.watch.at("a stream ended")
            await stream.aclose()  # it is a generator

    async def GetPreferredAllocation(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._between("preference", super().GetPreferredAllocation, request, context)

    async def Allocate(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._between("Allocate", super().Allocate, request, context)

    async def PreStartContainer(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._between("PreStartContainer", super().PreStartContainer, request, context)

    async def _between(self, name: str, call: Any, request: Any, context: Any) -> Any:
        await self.watch.within(f"{name} asked")
        answer = await call(request, context)
        await self.watch.within(f"{name} worked out")
        return answer


class Clock:
    """The monotonic clock, and what a test makes it jump by: a number in a file."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._ahead = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)

    def __call__(self) -> float:
        return time.monotonic() + float(struct.unpack_from("d", self._ahead)[0])


def put_watch_on(directory: Path, *, grace: float, interval: float) -> None:
    """Have the agent that this process is going to run be a watched one."""
    watch = Watch(directory)
    kernel_for, config_for = runs.kernel_for, runs.config_for
    registered, listed = deviceplugin.kubelet.server.register, deviceplugin.kubelet.memory.list_pods
    bound, cleaned = deviceplugin.kubelet.server._bound, deviceplugin.agent.remove_stale_sockets
    read = checkpoint.read

    def quick_config(path: Path | None) -> Any:
        config = config_for(path)
        # Shorter than a configuration may ask for: a test has more to do than to wait.
        quick = dataclasses.replace(config.reclaim, grace=grace, interval=interval)
        return dataclasses.replace(config, reclaim=quick)

    async def register(*arguments: Any) -> None:
        await watch.within("before Register")
        await registered(*arguments)
        await watch.within("after Register")

    async def list_pods(socket: Path) -> Any:
        await watch.within("before List")
        found = await listed(socket)
        await watch.within("after List")
        return found

    def read_checkpoint(path: Path) -> Any:
        watch.at("before the checkpoint is read")
        found = read(path)
        watch.at("after the checkpoint was read")
        return found

    def make_socket(server: grpc.aio.Server, path: Path) -> bool:
        made = bound(server, path)
        watch.at("socket made")
        return made

    def remove_stale_sockets(*arguments: Any) -> None:
        cleaned(*arguments)
        watch.at("stale sockets removed")

    WatchedEndpoint.watch = watch
    WatchedService.watch = watch
    for module, name, seconds in QUICK:
        assert isinstance(getattr(module, name), float)
        setattr(module, name, seconds)
    replaced: dict[tuple[Any, str], Any] = {
        (runs, "kernel_for"): lambda *arguments: WatchedKernel(kernel_for(*arguments), watch),
        (runs, "config_for"): quick_config,
        (runs, "Agent"): functools.partial(deviceplugin.agent.Agent, clock=Clock(directory / "clock")),
        (deviceplugin.agent, "Endpoint"): WatchedEndpoint,
        (deviceplugin.agent, "remove_stale_sockets"): remove_stale_sockets,
        (deviceplugin.kubelet.server, "register"): register,
        (deviceplugin.kubelet.server, "Service"): WatchedService,
        (deviceplugin.kubelet.server, "_bound"): make_socket,
        (deviceplugin.kubelet.memory, "list_pods"): list_pods,
        (checkpoint, "read"): read_checkpoint,
    }
    for (owner, name), value in replaced.items():
        setattr(owner, name, value)


def nursery() -> None:
    """Fork an agent for each line that comes, and tell of each one's end."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    pending = b""
    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _tell_of_ended()
        if 0 not in ready:
            continue
        data = os.read(0, 65536)
        if not data:
            return
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            _say(started=_fork(json.loads(line)))


def _fork(wanted: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    log = os.open(wanted["log"], os.O_WRONLY | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDWR)
    for source, target in ((null, 0), (null, 1), (log, 2)):
        os.dup2(source, target)
    sys.argv = ["mdev-device-plugin", *wanted["arguments"]]
    try:
        put_watch_on(Path(wanted["directory"]), grace=wanted["grace"], interval=wanted["interval"])
        commands()
    finally:
        # Nothing of the nursery may go on in the agent's process.
        os._exit(3)


def _tell_of_ended() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        _say(ended=pid, code=os.waitstatus_to_exitcode(status))


def _say(**words: int) -> None:
    os.write(1, json.dumps(words).encode() + b"\n")


if __name__ == "__main__":
    nursery()
