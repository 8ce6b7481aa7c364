"""The living node: what happens shows, whoever caused it."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.errors import DeviceBusy, HostError
from deviceplugin.host import listening, mdev, reading
from deviceplugin.host import node as module
from deviceplugin.host.kernel import UeventSource
from deviceplugin.host.mdev import Fault
from deviceplugin.host.paths import HostPaths
from deviceplugin.host.threads import in_thread
from deviceplugin.inventory.snapshot import Snapshot
from deviceplugin.simulator.node.description import load
from deviceplugin.simulator.node.kernel import SimulatedKernel
from tests import parts

UUID = "6d646576-0000-8000-8000-000000000001"
PATIENCE = 60.0


class Watched:
    """A node that somebody watches."""

    def __init__(self, kernel: SimulatedKernel) -> None:
        self.kernel = kernel
        self.faults: list[Fault] = []
        self.changes = 0
        self._moved = asyncio.Event()
        self.node = parts.node(kernel, on_change=self._changed, on_fault=self.faults.append)

    def _changed(self, before: Snapshot, after: Snapshot) -> None:
        assert before != after
        assert self.node.snapshot is after
        self.changes += 1
        self._moved.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._moved.clear()
                await self._moved.wait()

    async def calm(self) -> None:
        """Wait until no look is under way or about to be."""
        async with asyncio.timeout(PATIENCE):
            while self.node._looks:  # noqa: ASYNC110 - nothing tells of a look that saw nothing new
                await asyncio.sleep(0.01)

    def available(self, type_id: str) -> int:
        entries = [parent.type(type_id) for parent in self.node.snapshot.parents]
        return sum(entry.available for entry in entries if entry is not None)

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.node.follow())
        try:
            await self.until(lambda: bool(self.node.snapshot.parents))
            yield
        finally:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


@pytest.fixture
def kernel(tmp_path: Path) -> SimulatedKernel:
    return SimulatedKernel.build(tmp_path / "node", load("samples"))


@pytest.fixture
def watched(kernel: SimulatedKernel) -> Watched:
    return Watched(kernel)


async def test_a_device_that_anybody_makes_shows_and_takes_room_from_its_siblings(watched: Watched) -> None:
    async with watched.followed():
        device = str(uuid.uuid4())
        watched.kernel.write(watched.kernel.paths.create("mbochs", "mbochs-large"), device)
        await watched.until(lambda: device in watched.node.snapshot.devices)
        await watched.until(lambda: watched.available("mbochs-small") == 48)
        assert (watched.available("mbochs-medium"), watched.available("mbochs-large")) == (12, 3)
        watched.kernel.write(watched.kernel.paths.remove(device), "1")
        await watched.until(lambda: watched.available("mbochs-large") == 4)
        assert watched.node.snapshot.devices == {}


async def test_a_parent_that_leaves_and_comes_back_shows(watched: Watched) -> None:
    async with watched.followed():
        watched.kernel.unregister("mtty")
        await watched.until(lambda: "mtty" not in watched.node.snapshot.by_address)
        watched.kernel.register("mtty")
        await watched.until(lambda: watched.available("mtty-1") == 24)


async def test_lost_events_lead_to_a_look_at_everything(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watched.followed():
        with monkeypatch.context() as deaf:
            deaf.setattr(watched.node, "_heed", lambda *_: None)
            await in_thread(lambda: mdev.create(watched.kernel, "mtty", "mtty-1", UUID), name="create")
            watched.kernel.lose_events()
            await watched.until(lambda: UUID in watched.node.snapshot.devices)


async def test_while_no_events_can_be_had_sweeps_are_faster(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> UeventSource:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(module, "DEAF_SWEEP", 0.2)
    monkeypatch.setattr(listening, "FIRST_PAUSE", PATIENCE * 10)
    monkeypatch.setattr(watched.kernel, "uevents", refuse)
    deaf: list[Exception] = []
    monkeypatch.setattr(watched.node, "on_deaf", deaf.append)
    async with watched.followed():
        await watched.calm()
        mdev.create(watched.kernel, "mtty", "mtty-1", UUID)
        await watched.until(lambda: UUID in watched.node.snapshot.devices)
        assert len(deaf) == 1


async def test_what_no_event_tells_shows_after_a_sweep(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SWEEP", 0.3)
    async with watched.followed():
        await watched.calm()
        monkeypatch.setattr(watched.node, "_heed", lambda *_: None)
        mdev.create(watched.kernel, "mtty", "mtty-1", UUID)
        await watched.until(lambda: UUID in watched.node.snapshot.devices)


async def test_what_a_driver_does_only_after_its_event_shows_at_a_second_look(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONFIRM", 0.3)
    async with watched.followed():
        await watched.calm()
        mdev.create(watched.kernel, "mtty", "mtty-1", UUID)
        await watched.until(lambda: UUID in watched.node.snapshot.devices)
        count = watched.kernel.paths.type("mtty", "mtty-2") / "available_instances"
        count.unlink()
        count.write_text("7\n")
        await watched.until(lambda: watched.available("mtty-2") == 7)


async def test_a_node_where_nothing_happened_tells_of_no_change(watched: Watched) -> None:
    await watched.node.rescan()
    assert watched.changes == 1
    await watched.node.rescan()
    await watched.node.refresh("mtty")
    assert watched.changes == 1


async def test_a_look_at_one_card_leaves_the_others_as_they_were(watched: Watched) -> None:
    await watched.node.rescan()
    mdev.create(watched.kernel, "mtty", "mtty-1", UUID)
    mdev.create(watched.kernel, "mdpy", "mdpy-vga", str(uuid.uuid4()))
    await watched.node.refresh("mtty")
    assert list(watched.node.snapshot.devices) == [UUID]
    assert watched.available("mdpy-vga") == 4


async def test_a_card_that_is_not_known_is_no_reason_to_fail(watched: Watched) -> None:
    await watched.node.rescan()
    await watched.node.refresh("absent")
    assert watched.changes == 1


async def test_a_sysfs_that_can_not_be_read_leaves_what_was_known(watched: Watched) -> None:
    await watched.node.rescan()
    known = watched.node.snapshot
    parents = watched.kernel.paths.parents
    parents.rename(parents.with_name("aside"))
    parents.touch()
    with pytest.raises(HostError):
        await watched.node.rescan()
    assert watched.node.snapshot is known


# Faults.


async def test_a_fault_is_told_once_while_it_lasts_and_again_when_it_comes_again(watched: Watched) -> None:
    for told in (1, 2):
        watched.kernel.fault("odd-count", parent="mtty", type="mtty-1", content=b"many")
        await watched.node.rescan()
        await watched.node.refresh("mtty")
        await watched.node.rescan()
        assert len(watched.faults) == told
        watched.kernel.clear_faults()
        await watched.node.refresh("mtty")
        assert watched.available("mtty-1") == 24


async def test_a_look_at_a_card_forgets_no_fault_of_another(watched: Watched) -> None:
    watched.kernel.fault("odd-count", parent="mtty", type="mtty-1", content=b"many")
    await watched.node.rescan()
    await watched.node.refresh("mdpy")
    await watched.node.rescan()
    assert len(watched.faults) == 1


async def test_a_text_that_is_not_read_again_is_told_once(watched: Watched) -> None:
    path = watched.kernel.paths.type("mtty", "mtty-1") / "name"
    path.unlink()
    path.write_bytes(b"\xff")
    for look in (watched.node.rescan, lambda: watched.node.refresh("mtty"), watched.node.rescan):
        await look()
    assert len(watched.faults) == 1


# Looks that overlap: what is newer stays.


class Delayed:
    """Looks at the node that see it as it is and then take their time to say so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._scan = mdev.scan
        self._gates: list[threading.Event | None] = []
        self.looked = threading.Event()
        monkeypatch.setattr(mdev, "scan", self)

    def next_one(self) -> threading.Event:
        """Hold the next look back until the event is set."""
        gate = threading.Event()
        self._gates.append(gate)
        return gate

    def __call__(self, *arguments: Any, **named: Any) -> mdev.Scan:
        gate = self._gates.pop(0) if self._gates else None
        seen = self._scan(*arguments, **named)
        if gate is not None:
            self.looked.set()
            assert gate.wait(PATIENCE)
        return seen


@pytest.mark.parametrize("slow", ["rescan", "refresh"])
@pytest.mark.parametrize("quick", ["rescan", "refresh"])
async def test_an_older_look_never_hides_what_a_newer_one_saw(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, slow: str, quick: str
) -> None:
    if slow == quick == "refresh":
        pytest.skip("looks at one card come one after the other")
    await watched.node.rescan()
    looks: dict[str, Callable[[], Any]] = {
        "rescan": watched.node.rescan,
        "refresh": lambda: watched.node.refresh("mtty"),
    }
    delayed = Delayed(monkeypatch)
    gate = delayed.next_one()
    old = asyncio.create_task(looks[slow]())
    await asyncio.to_thread(delayed.looked.wait, PATIENCE)
    mdev.create(watched.kernel, "mtty", "mtty-1", UUID)
    await looks[quick]()
    assert UUID in watched.node.snapshot.devices
    gate.set()
    await old
    assert UUID in watched.node.snapshot.devices


async def test_an_older_look_at_everything_does_not_bring_a_parent_back(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    await watched.node.rescan()
    delayed = Delayed(monkeypatch)
    gate = delayed.next_one()
    old = asyncio.create_task(watched.node.rescan())
    await asyncio.to_thread(delayed.looked.wait, PATIENCE)
    watched.kernel.unregister("mtty")
    await watched.node.refresh("mtty")
    assert "mtty" not in watched.node.snapshot.by_address
    gate.set()
    await old
    assert "mtty" not in watched.node.snapshot.by_address


# Cards that take their time.


class Slow:
    """A card whose looks wait at a gate; the others are as quick as ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
        self._scan = mdev.scan
        self._address = address
        self.gate = threading.Event()
        self.looks = 0
        monkeypatch.setattr(mdev, "scan", self)
        monkeypatch.setattr(reading, "SCAN_DEADLINE", 0.05)
        monkeypatch.setattr(module, "PROMPT", 0.02)

    def __call__(self, paths: HostPaths, addresses: Iterable[str], **named: Any) -> mdev.Scan:
        seen = self._scan(paths, addresses, **named)
        if self._address in addresses:
            self.looks += 1
            assert self.gate.wait(2 * PATIENCE)
        return seen


@pytest.fixture
async def slow(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Slow]:
    slow = Slow(monkeypatch, "mtty")
    yield slow
    slow.gate.set()


async def test_what_was_read_of_a_slow_card_is_used_and_nobody_waits_for_it(
    watched: Watched, slow: Slow
) -> None:
    await watched.node.rescan()
    assert list(watched.node.snapshot.by_address) == ["mbochs", "mdpy"]
    for _ in range(3):
        await watched.node.rescan()
    assert slow.looks == 1  # One at a time, and no queue behind it.
    slow.gate.set()
    await watched.until(lambda: watched.available("mtty-1") == 24)


async def test_a_later_look_at_everything_does_not_void_one_that_still_goes_on(
    watched: Watched, slow: Slow
) -> None:
    await watched.node.rescan()
    mdev.create(watched.kernel, "mdpy", "mdpy-vga", UUID)
    await watched.node.rescan()
    slow.gate.set()
    await watched.until(lambda: "mtty" in watched.node.snapshot.by_address)
    assert UUID in watched.node.snapshot.devices


async def test_a_slow_card_is_looked_at_again_when_that_was_asked_for_meanwhile(
    watched: Watched, slow: Slow
) -> None:
    async with watched.followed():
        await watched.calm()
        assert slow.looks == 1
        mdev.create(watched.kernel, "mtty", "mtty-1", UUID)
        slow.gate.set()
        await watched.until(lambda: UUID in watched.node.snapshot.devices)
        assert watched.available("mtty-1") == 23


async def test_a_slow_card_that_left_does_not_come_back(watched: Watched, slow: Slow) -> None:
    await watched.node.rescan()
    watched.kernel.unregister("mtty")
    await watched.node.rescan()
    slow.gate.set()
    await watched.node.rescan()
    assert "mtty" not in watched.node.snapshot.by_address


async def test_a_device_made_on_a_slow_card_is_known_and_counted_at_once(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    await watched.node.rescan()
    slow = Slow(monkeypatch, "mtty")
    await watched.node.refresh("mtty")
    await watched.node.create("mtty", "mtty-1", UUID)
    assert UUID in watched.node.snapshot.devices
    assert watched.available("mtty-1") == 23
    slow.gate.set()  # That look began before the device was made.
    async with asyncio.timeout(PATIENCE):
        while watched.node._reader._late:  # noqa: ASYNC110 - nothing tells of a look that saw nothing new
            await asyncio.sleep(0.01)
    assert UUID in watched.node.snapshot.devices
    assert watched.available("mtty-1") == 23
    await watched.node.refresh("mtty")
    await watched.until(lambda: watched.available("mtty-2") == 11)
    assert not watched.node._made


async def test_a_slow_card_on_which_nothing_happens_is_left_in_peace(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = mdev.scan

    def scan(paths: HostPaths, addresses: Iterable[str], **named: Any) -> mdev.Scan:
        if "mtty" in addresses:
            time.sleep(0.4)
        return real(paths, addresses, **named)

    monkeypatch.setattr(mdev, "scan", scan)
    monkeypatch.setattr(reading, "SCAN_DEADLINE", 0.05)
    async with watched.followed():
        await watched.until(lambda: "mtty" in watched.node.snapshot.by_address)
        async with asyncio.timeout(PATIENCE):
            while watched.node._looks or watched.node._reader._late:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)


async def test_a_card_that_is_quick_again_is_waited_for_again(watched: Watched, slow: Slow) -> None:
    await watched.node.rescan()
    slow.gate.set()
    await watched.until(lambda: "mtty" in watched.node.snapshot.by_address)
    assert watched.node._reader.is_slow("mtty")
    async with asyncio.timeout(PATIENCE):
        while watched.node._reader.is_slow("mtty"):
            await watched.node.refresh("mtty")


async def test_what_can_not_be_read_once_is_no_fault_yet(watched: Watched) -> None:
    await watched.node.rescan()
    types = watched.kernel.paths.parents / "mtty" / "mdev_supported_types"
    real = types.resolve()
    real.rename(real.with_name("aside"))  # As in the moment in which a parent leaves.
    await watched.node.rescan()
    assert watched.faults == []
    await watched.node.rescan()
    assert [fault.kind for fault in watched.faults] == [mdev.FaultKind.UNREADABLE]


# Doing.


FUNCTIONS = """
models:
  gpu:
    driver: nvidia
    bus: pci
    vfs: 4
    pools: {memory: 8}
    types:
    - {id: one, takes: {memory: 1}}
cards:
- {model: gpu, address: "0000:10:00.0"}
"""
"""A card of which each function goes on offering what it did when another one carries a device."""


async def test_a_function_with_a_new_device_is_known_to_be_taken_before_any_look(tmp_path: Path) -> None:
    settled: list[str] = []
    (tmp_path / "node.yaml").write_text(FUNCTIONS)
    node = parts.node(
        SimulatedKernel.build(tmp_path / "node", load(str(tmp_path / "node.yaml"))),
        on_settled=lambda cards: settled.extend(card.address for card in cards),
    )
    await node.rescan()
    function = node.snapshot.parents[0]
    type_id = next(entry.id for entry in function.types if entry.available)
    await node.create(function.address, type_id, UUID)
    assert node.snapshot.devices[UUID].parent == function.address
    assert not any(entry.available for entry in node.snapshot.by_address[function.address].types)
    await node.refresh(function.card)
    # The kernel shows what was known already; that is one look, and no confirmation of another.
    assert node.snapshot.devices[UUID].group is not None
    assert not settled
    await node.refresh(function.card)
    assert settled == [function.card]


async def test_a_device_is_made_found_and_removed(watched: Watched) -> None:
    await watched.node.rescan()
    made = await watched.node.create("mtty", "mtty-1", UUID)
    assert await watched.node.find(UUID) == made
    assert await watched.node.remove_unused(UUID)
    assert await watched.node.find(UUID) is None
    assert not await watched.node.remove_unused(UUID)


async def test_a_removal_shows_at_once_without_an_event(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watched.followed():
        await watched.node.create("mtty", "mtty-1", UUID)
        await watched.until(lambda: UUID in watched.node.snapshot.devices)
        monkeypatch.setattr(watched.node, "_heed", lambda *_: None)
        await watched.node.remove_unused(UUID)
        await watched.until(lambda: UUID not in watched.node.snapshot.devices)


async def test_a_device_in_use_is_not_removed(watched: Watched) -> None:
    made = await watched.node.create("mtty", "mtty-1", UUID)
    assert made.group is not None
    fd = watched.kernel.open_group(made.group)
    with pytest.raises(DeviceBusy):
        await watched.node.remove_unused(UUID)
    os.close(fd)


async def test_a_driver_that_does_not_let_go_is_not_waited_for(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REMOVE_DEADLINE", 0.02)
    await watched.node.create("mtty", "mtty-1", UUID)
    let_go = threading.Event()
    monkeypatch.setattr(watched.kernel, "write", lambda _path, _text: let_go.wait(PATIENCE))
    with pytest.raises(HostError, match=r"has not removed .*; the claim on it stays"):
        await watched.node.remove_unused(UUID)
    let_go.set()


async def test_a_slow_card_holds_up_no_other(watched: Watched) -> None:
    await watched.node.rescan()
    watched.kernel.fault("slow-create", parent="mtty", seconds=0.5)
    slow = asyncio.create_task(watched.node.create("mtty", "mtty-1", UUID))
    other = await watched.node.create("mdpy", "mdpy-vga", str(uuid.uuid4()))
    assert other.parent == "mdpy"
    assert not slow.done()
    await slow


# Threads.


async def test_what_a_thread_raises_reaches_who_waits() -> None:
    def fail() -> None:
        raise HostError("it failed")

    with pytest.raises(HostError, match="it failed"):
        await in_thread(fail, name="fail")


async def test_a_wait_that_was_given_up_leaves_the_thread_to_itself() -> None:
    begun, gate, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        gate.wait(PATIENCE)
        ended.set()
        raise HostError("nobody hears")

    task = asyncio.create_task(in_thread(work, name="work"))
    await asyncio.to_thread(begun.wait, PATIENCE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.set()
    assert await asyncio.to_thread(ended.wait, PATIENCE)


async def test_any_number_of_blocked_threads_holds_up_nobody() -> None:
    gate = threading.Event()
    blocked = [asyncio.create_task(in_thread(gate.wait, name=f"blocked {n}")) for n in range(64)]
    async with asyncio.timeout(PATIENCE):
        assert await in_thread(lambda: 1, name="quick") == 1
    gate.set()
    results: Iterable[bool] = await asyncio.gather(*blocked)
    assert all(results)


def test_a_process_ends_although_a_thread_is_blocked() -> None:
    import subprocess
    import sys

    program = (
        "import asyncio, threading\n"
        "from deviceplugin.host.threads import in_thread\n"
        "async def main():\n"
        "    task = asyncio.create_task(in_thread(threading.Event().wait, name='forever'))\n"
        "    await asyncio.sleep(0)\n"
        "    task.cancel()\n"
        "asyncio.run(main())\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
