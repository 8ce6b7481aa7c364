"""The living node: a snapshot that follows what happens.

Events drive it. An event about a device leads to another look at its card, since the types of a card
draw on the same capacity; an event about a parent, and lost events, lead to a look at everything. A
slow sweep behind catches what no event tells.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import NoReturn

from deviceplugin.errors import HostError
from deviceplugin.host import mdev, vfio
from deviceplugin.host.kernel import Kernel, UeventsLost
from deviceplugin.host.threads import in_thread
from deviceplugin.inventory.snapshot import Device, Parent, Snapshot

log = logging.getLogger(__name__)

SETTLE = 0.003
"""Seconds from an event to the look at the node, so that a burst leads to one look."""
CONFIRM = 0.04
"""Seconds to a second look: some events are sent before the driver has done its part."""
REMOVE_DEADLINE = 10.0
"""Seconds that are waited for a driver to remove a device."""
SWEEP = 60.0
"""Seconds between looks at everything that no event asks for."""


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
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        on_change: Callable[[Snapshot, Snapshot], None] = lambda _old, _new: None,
        on_fault: Callable[[mdev.Fault], None] = lambda _fault: None,
    ) -> None:
        self.kernel = kernel
        self.snapshot = Snapshot()
        self.on_change = on_change
        self.on_fault = on_fault
        self._looks_begun = itertools.count(1)
        self._seen: dict[str, int] = {}
        self._seen_all = 0
        self._faults: set[mdev.Fault] = set()
        self._looks: dict[str | None, _Look] = {}
        self._looking: asyncio.TaskGroup | None = None

    # --- looking -----------------------------------------------------------------------------------

    async def rescan(self) -> None:
        """Look at everything.

        Raises:
            HostError: sysfs can't be read; the snapshot stays as it was.
        """
        began = next(self._looks_begun)
        result = await in_thread(lambda: mdev.scan(self.kernel.paths), name="scan")
        self._report(result.faults)
        cards = result.snapshot.cards.keys() | self.snapshot.cards.keys() | self._seen.keys()
        self._see(began, {card: result.snapshot.cards.get(card, ()) for card in cards})
        self._seen_all = max(self._seen_all, began)

    async def refresh(self, card: str) -> None:
        """Look at one card."""
        began = next(self._looks_begun)
        before = self.snapshot
        addresses = [parent.address for parent in before.cards.get(card, ())]
        result = await in_thread(
            lambda: mdev.scan(self.kernel.paths, addresses, known=before), name=f"scan {card}"
        )
        self._report(result.faults, card=addresses)
        self._see(began, {card: result.snapshot.parents})

    def _see(self, began: int, cards: Mapping[str, tuple[Parent, ...]]) -> None:
        """Take over what a look saw of some cards, unless a look that began later has been there."""
        known = dict(self.snapshot.cards)
        for card, parents in cards.items():
            if self._seen.get(card, self._seen_all) < began:
                self._seen[card] = began
                known[card] = parents
        every = sorted(itertools.chain(*known.values()), key=lambda parent: parent.address)
        self._store(Snapshot(tuple(every)))

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

    async def find(self, uuid: str) -> Device | None:
        """Ask sysfs itself for a device."""
        return await in_thread(lambda: mdev.find(self.kernel.paths, uuid), name="find")

    # --- doing -------------------------------------------------------------------------------------

    async def create(self, parent: str, type_id: str, uuid: str) -> Device:
        """Make a device; see ``mdev.create``."""
        return await in_thread(
            lambda: mdev.create(self.kernel, parent, type_id, uuid), name=f"create on {parent}"
        )

    async def write_attribute(self, uuid: str, attribute: str, value: str) -> None:
        """Set an attribute of a device; see ``mdev.write_attribute``."""
        await in_thread(
            lambda: mdev.write_attribute(self.kernel, uuid, attribute, value), name=f"attribute {uuid}"
        )

    async def remove_unused(self, uuid: str) -> bool:
        """Remove a device if nobody uses it; see ``vfio.remove_unused``."""
        device = self.snapshot.devices.get(uuid)
        try:
            async with asyncio.timeout(REMOVE_DEADLINE):
                removed = await in_thread(
                    lambda: vfio.remove_unused(self.kernel, uuid), name=f"remove {uuid}"
                )
        except TimeoutError as error:
            raise HostError(
                f"the driver has not removed {uuid} within {REMOVE_DEADLINE:.0f} s; the claim on it stays"
            ) from error
        parent = self.snapshot.by_address.get(device.parent) if device is not None else None
        self.look_again(*([parent.card] if parent is not None else []))
        return removed

    # --- following ---------------------------------------------------------------------------------

    async def follow(self) -> NoReturn:
        """Keep the snapshot current; runs until it is cancelled.

        Raises:
            OSError: events can't be had.
        """
        loop = asyncio.get_running_loop()
        source = self.kernel.uevents()

        def receive() -> None:
            try:
                for event in source.receive():
                    self._heed(event.subsystem, event.devpath, "MDEV_STATE" in event.properties)
            except UeventsLost:
                log.info("the kernel dropped events, looking at everything again")
                self.look_again()

        try:
            async with asyncio.TaskGroup() as looking:
                self._looking = looking
                loop.add_reader(source.fileno(), receive)
                try:
                    while True:
                        # First of all for what happened before the listening began.
                        self.look_again()
                        await asyncio.sleep(SWEEP)
                finally:
                    # From here on the group takes no more looks.
                    self._looking = None
                    loop.remove_reader(source.fileno())
        finally:
            source.close()

    def _heed(self, subsystem: str, devpath: str, parent_moved: bool) -> None:
        if parent_moved:
            self.look_again()
        elif subsystem == "mdev":
            parent = self.snapshot.by_address.get(PurePosixPath(devpath).parent.name)
            self.look_again(*([parent.card] if parent is not None else []))

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

    def _report(self, faults: Iterable[mdev.Fault], card: Iterable[str] | None = None) -> None:
        """Tell of new faults once; forget those that are no more, of the parents looked at."""
        now = set(faults)
        looked_at = None if card is None else tuple(f"/{address}/" for address in card)
        # A look at a card reads its counts again, and not its texts.
        kept = {
            fault
            for fault in self._faults
            if looked_at is not None
            and not (fault.path.endswith("/available_instances") and any(a in fault.path for a in looked_at))
        }
        for fault in sorted(now - self._faults, key=str):
            self.on_fault(fault)
        self._faults = kept | now
