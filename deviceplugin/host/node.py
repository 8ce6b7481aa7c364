"""The living node: a snapshot that follows what happens.

Events drive it. An event about a device leads to another look at its card, since the types of a card
draw on the same capacity; an event about a parent, and lost events, lead to a look at everything. A
slow sweep behind catches what no event tells; while events can't be had, a faster one stands in.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NoReturn

from deviceplugin.errors import HostError
from deviceplugin.host import mdev, vfio
from deviceplugin.host.kernel import Kernel, Uevent
from deviceplugin.host.listening import Listening
from deviceplugin.host.threads import in_thread
from deviceplugin.inventory.cards import Card
from deviceplugin.inventory.snapshot import Device, Parent, Snapshot

log = logging.getLogger(__name__)

SETTLE = 0.003
"""Seconds from an event to the look at the node, so that a burst leads to one look."""
CONFIRM = 0.04
"""Seconds to a second look: some events are sent before the driver has done its part."""
REMOVE_DEADLINE = 10.0
"""Seconds that are waited for a driver to remove a device."""
SCAN_DEADLINE = 2.0
"""Seconds that are waited for a card's files to be read."""
_SCANNERS = 16
"""So many cards are read at a time."""
SWEEP = 60.0
"""Seconds between looks at everything that no event asks for."""
DEAF_SWEEP = 5.0
"""The same while the kernel's events can't be had."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a look saw of a card."""

    began: int
    """The number of the look, in the order in which they began."""
    card: str
    parents: tuple[Parent, ...]


class _Look:
    """That a look is wanted."""

    def __init__(self) -> None:
        self.wanted = asyncio.Event()

    async def wanted_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self.wanted.wait()
        except TimeoutError:
            return False


class Node:
    """The node's state, kept current.

    Args:
        on_change: called after every change of the snapshot with the old and the new one.
        on_fault: called for each fault when it is first seen.
        on_scan: called with the seconds that it took to read a card.
        on_settled: called with the cards of which two looks in succession showed the same.
        on_deaf: called with the exception each time that the kernel's events can't be had any more.
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        on_change: Callable[[Snapshot, Snapshot], None] = lambda _old, _new: None,
        on_fault: Callable[[mdev.Fault], None] = lambda _fault: None,
        on_scan: Callable[[float], None] = lambda _seconds: None,
        on_settled: Callable[[Sequence[Card]], None] = lambda _cards: None,
        on_deaf: Callable[[Exception], None] = lambda _error: None,
    ) -> None:
        self.kernel = kernel
        self.snapshot = Snapshot()
        self.on_change = on_change
        self.on_fault = on_fault
        self.on_scan = on_scan
        self.on_settled = on_settled
        self.on_deaf = on_deaf
        self._looks_begun = itertools.count(1)
        self._seen: dict[str, int] = {}
        self._seen_all = 0
        self._stuck: dict[str, asyncio.Task[mdev.Scan]] = {}
        self._scanners = asyncio.Semaphore(_SCANNERS)
        self._faults: set[mdev.Fault] = set()
        self._looks: dict[str | None, _Look] = {}
        self._looking: asyncio.TaskGroup | None = None

    # --- looking -----------------------------------------------------------------------------------

    async def rescan(self) -> None:
        """Look at everything, each card for itself: one whose driver blocks keeps what was known of it.

        Raises:
            HostError: sysfs can't be read; the snapshot stays as it was.
        """
        began = next(self._looks_begun)
        cards = await in_thread(lambda: mdev.cards(self.kernel.paths), name="list cards")
        gone = (self.snapshot.cards.keys() | self._seen.keys()) - cards.keys()
        found = await asyncio.gather(*(self._look_at(card, parents) for card, parents in cards.items()))
        self._see([_Seen(began, card, ()) for card in gone] + [seen for seen in found if seen is not None])
        self._seen_all = max(self._seen_all, began)

    async def refresh(self, card: str) -> None:
        """Look at one card."""
        known = self.snapshot
        seen = await self._look_at(
            card, [parent.address for parent in known.cards.get(card, ())], known=known
        )
        self._see([seen] if seen is not None else [])

    async def _look_at(
        self, card: str, addresses: Sequence[str], *, known: Snapshot | None = None
    ) -> _Seen | None:
        """What a card is like now; None if it does not answer."""
        if card in self._stuck:
            return None  # Its driver still blocks an earlier look; there is another when that ends.
        began = next(self._looks_begun)
        loop = asyncio.get_running_loop()
        async with self._scanners:
            started = loop.time()
            look = asyncio.create_task(
                in_thread(lambda: mdev.scan(self.kernel.paths, addresses, known=known), name=f"scan {card}")
            )
            await asyncio.wait({look}, timeout=SCAN_DEADLINE)
        if not look.done():
            if card not in self._stuck:
                self._stuck[card] = look
                log.warning("a card does not answer; it stays as it was known", extra={"card": card})
                look.add_done_callback(lambda _: self._answered(card))
            return None
        result = look.result()
        self.on_scan(loop.time() - started)
        self._report(result.faults, addresses, texts=known is None)
        return _Seen(began, card, result.snapshot.parents)

    def _answered(self, card: str) -> None:
        if self._stuck.pop(card, None) is None:
            return
        log.info("a card answers again", extra={"card": card})
        self.look_again()

    def _see(self, looks: Iterable[_Seen]) -> None:
        """Take over what looks saw, unless one that began later has been there."""
        known = dict(self.snapshot.cards)
        settled = []
        for look in looks:
            if self._seen.get(look.card, self._seen_all) < look.began:
                self._seen[look.card] = look.began
                if look.parents and known.get(look.card) == look.parents:
                    settled.append(Card(look.card, look.parents))
                known[look.card] = look.parents
        every = sorted(itertools.chain(*known.values()), key=lambda parent: parent.address)
        self._store(Snapshot(tuple(every)))
        if settled:
            self.on_settled(settled)

    def look_again(self, *cards: str) -> None:
        """Ask for another look at some cards, or at everything if none is named, soon.

        Each card is looked at by a task of its own: one whose driver blocks holds up no other.
        """
        for card in cards or (None,):
            if self._looking is None:
                return  # Following begins with a look at everything.
            look = self._looks.get(card)
            if look is None:
                look = self._looks[card] = _Look()
                self._looking.create_task(self._look(card, look), name=f"look at {card or 'everything'}")
            look.wanted.set()

    def look_again_around(self, parent: str) -> None:
        """Ask for another look at the card of a parent, or at everything if there is no such parent."""
        known = self.snapshot.by_address.get(parent)
        self.look_again(*([known.card] if known is not None else []))

    def has(self, uuid: str) -> bool:
        """Whether sysfs shows a device at this moment, which a snapshot is always a little older than."""
        return os.path.lexists(self.kernel.paths.device(uuid))

    async def find(self, uuid: str) -> Device | None:
        """Ask sysfs itself for a device."""
        return await in_thread(lambda: mdev.find(self.kernel.paths, uuid), name="find")

    # --- doing -------------------------------------------------------------------------------------

    async def create(self, parent: str, type_id: str, uuid: str) -> Device:
        """Make a device; see ``mdev.create``."""
        return await in_thread(
            lambda: mdev.create(self.kernel, parent, type_id, uuid), name=f"create on {parent}"
        )

    async def write_attribute(self, uuid: str, attribute: str, value: str) -> str | None:
        """Set an attribute of a device and read it back; see ``mdev.write_attribute``."""
        return await in_thread(
            lambda: mdev.write_attribute(self.kernel, uuid, attribute, value), name=f"attribute {uuid}"
        )

    async def remove_unused(self, uuid: str) -> bool:
        """Remove a device if nobody uses it; see ``vfio.remove_unused``."""
        device = self.snapshot.devices.get(uuid)
        given_up = threading.Event()
        try:
            async with asyncio.timeout(REMOVE_DEADLINE):
                return await in_thread(
                    lambda: vfio.remove_unused(self.kernel, uuid, still_wanted=lambda: not given_up.is_set()),
                    name=f"remove {uuid}",
                )
        except TimeoutError as error:
            raise HostError(
                f"the driver has not removed {uuid} within {REMOVE_DEADLINE:.0f} s; the claim on it stays"
            ) from error
        finally:
            given_up.set()
            self.look_again_around(device.parent if device is not None else "")

    async def is_held(self, uuid: str) -> bool:
        """Whether somebody has the device; see ``vfio.is_held``."""
        return await in_thread(lambda: vfio.is_held(self.kernel, uuid), name=f"look at {uuid}")

    # --- following ---------------------------------------------------------------------------------

    async def follow(self) -> NoReturn:
        """Keep the snapshot current; runs until it is cancelled."""
        listening = Listening(
            self.kernel.uevents,
            on_event=self._hear,
            on_missed=self.look_again,
            on_failure=self.on_deaf,
        )
        clock = asyncio.get_running_loop().time
        async with asyncio.TaskGroup() as looking:
            self._looking = looking
            try:
                looking.create_task(listening.run(), name="listen to the kernel")
                swept = clock()
                while True:
                    await asyncio.sleep(min(SWEEP, DEAF_SWEEP))
                    if not listening.hears or clock() - swept >= SWEEP:
                        swept = clock()
                        self.look_again()
            finally:
                # From here on the group takes no more looks.
                self._looking = None

    def _hear(self, event: Uevent) -> None:
        self._heed(event.subsystem, event.devpath, "MDEV_STATE" in event.properties)

    def _heed(self, subsystem: str, devpath: str, parent_moved: bool) -> None:
        if parent_moved:
            self.look_again()
        elif subsystem == "mdev":
            self.look_again_around(PurePosixPath(devpath).parent.name)

    async def _look(self, card: str | None, look: _Look) -> None:
        """Look while there is something to look at, and once more when it seems to be over."""
        try:
            while look.wanted.is_set():
                look.wanted.clear()
                await asyncio.sleep(SETTLE)
                await self._look_once(card)
                if not await look.wanted_within(CONFIRM):
                    await self._look_once(card)
        finally:
            del self._looks[card]

    async def _look_once(self, card: str | None) -> None:
        try:
            await (self.rescan() if card is None else self.refresh(card))
        except HostError as error:
            log.warning("the node could not be looked at", extra={"reason": str(error)})

    def _store(self, snapshot: Snapshot) -> None:
        if snapshot != self.snapshot:
            before, self.snapshot = self.snapshot, snapshot
            self.on_change(before, snapshot)

    def _report(self, faults: Iterable[mdev.Fault], addresses: Iterable[str], *, texts: bool) -> None:
        """Tell of new faults once; forget those that are no more, of what was read."""
        now = set(faults)
        looked_at = tuple(f"/{address}/" for address in addresses)
        kept = {
            fault
            for fault in self._faults
            if not any(f"{address}" in f"{fault.path}/" for address in looked_at)
            or not (texts or fault.path.endswith("/available_instances"))
        }
        for fault in sorted(now - self._faults, key=str):
            self.on_fault(fault)
        self._faults = kept | now
