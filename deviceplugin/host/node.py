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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import NoReturn

from deviceplugin.errors import HostError
from deviceplugin.host import mdev, vfio
from deviceplugin.host.kernel import Kernel, Uevent
from deviceplugin.host.listening import Listening
from deviceplugin.host.reading import CardReader, Seen
from deviceplugin.host.threads import in_thread
from deviceplugin.inventory.cards import Card
from deviceplugin.inventory.snapshot import Device, Parent, ParentType, Snapshot

log = logging.getLogger(__name__)

SETTLE = 0.003
"""Seconds from an event to the look at the node, so that a burst leads to one look."""
CONFIRM = 0.04
"""Seconds to a second look: some events are sent before the driver has done its part."""
REMOVE_DEADLINE = 10.0
"""Seconds that are waited for a driver to remove a device."""
PROMPT = 0.25
"""Seconds after which a look at everything takes over what it has seen; slower cards come later."""
SWEEP = 60.0
"""Seconds between looks at everything that no event asks for."""
DEAF_SWEEP = 5.0
"""The same while the kernel's events can't be had."""


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
        on_change: Callable[[Snapshot, Snapshot], None],
        on_fault: Callable[[mdev.Fault], None],
        on_scan: Callable[[float], None],
        on_settled: Callable[[Sequence[Card]], None],
        on_deaf: Callable[[Exception], None],
    ) -> None:
        self.kernel = kernel
        self.snapshot = Snapshot()
        self.on_change = on_change
        self.on_settled = on_settled
        self.on_deaf = on_deaf
        self._reader = CardReader(
            kernel.paths,
            on_late=lambda seen: self._see([seen]),
            on_again=self._look_once_more,
            on_scan=on_scan,
            on_fault=on_fault,
        )
        self._seen: dict[str, int] = {}
        self._made: dict[str, tuple[int, Device]] = {}
        self._looks: dict[str | None, _Look] = {}
        self._looking: asyncio.TaskGroup | None = None

    # --- looking -----------------------------------------------------------------------------------

    async def rescan(self) -> None:
        """Look at everything, each card for itself: one whose driver blocks keeps what was known of it.

        Raises:
            HostError: sysfs can't be read; the snapshot stays as it was.
        """
        began = self._reader.next_number()
        cards = await in_thread(lambda: mdev.cards(self.kernel.paths), name="list cards")
        gone = (self.snapshot.cards.keys() | self._seen.keys()) - cards.keys()
        for card in cards:
            self._seen.setdefault(card, 0)
        looks = {asyncio.create_task(self._reader.read(card, found)) for card, found in cards.items()}
        try:
            done, slower = await asyncio.wait(looks, timeout=PROMPT) if looks else (set(), set())
            self._see([Seen(began, card, ()) for card in gone] + _results(done))
            if slower:
                done, _ = await asyncio.wait(slower)
                self._see(_results(done))
        finally:
            for look in looks:
                look.cancel()

    async def refresh(self, card: str) -> None:
        """Look at one card."""
        await self._read(card, [parent.address for parent in self.snapshot.cards.get(card, ())])

    async def _read(self, card: str, addresses: Sequence[str]) -> None:
        seen = await self._reader.read(card, addresses, known=self.snapshot)
        self._see([seen] if seen is not None else [])

    def _see(self, looks: Iterable[Seen]) -> None:
        """Take over what looks saw, unless one that began later has been there."""
        known = dict(self.snapshot.cards)
        settled = []
        for look in looks:
            if self._seen.get(look.card, 0) < look.began:
                self._seen[look.card] = look.began
                # What was counted beforehand is no look.
                if look.parents and known.get(look.card) == look.parents and not self._is_ahead(look):
                    settled.append(Card(look.card, look.parents))
                known[look.card] = self._with_made(look)
        self._take_over(known)
        if settled:
            self.on_settled(settled)

    def _is_ahead(self, look: Seen) -> bool:
        """Whether its card is known with a device that no look before this one showed."""
        addresses = {parent.address for parent in look.parents}
        return any(device.parent in addresses for _, device in self._made.values())

    def _with_made(self, look: Seen) -> tuple[Parent, ...]:
        """What a look saw, with the devices that were made since it began."""
        parents = look.parents
        for uuid, (number, device) in tuple(self._made.items()):
            if device.parent not in {parent.address for parent in parents}:
                continue
            if number < look.began:
                del self._made[uuid]
            else:
                parents = _with_device(parents, device)
        return parents

    def _note(self, device: Device) -> None:
        """A device was made, which the next look will show: it is known and counted until then.

        Where types share what a card has, that leaves nothing of the others until that look. So of cards that
        are looked at quickly only functions are counted so: they carry one device and no more.
        """
        parent = self.snapshot.by_address.get(device.parent)
        if parent is not None and (parent.address != parent.card or self._reader.is_slow(parent.card)):
            self._made[device.uuid] = (self._reader.next_number(), device)
            card = self.snapshot.cards[parent.card]
            self._take_over(self.snapshot.cards | {parent.card: _with_device(card, device)})

    def _take_over(self, cards: Mapping[str, tuple[Parent, ...]]) -> None:
        every = sorted(itertools.chain(*cards.values()), key=lambda parent: parent.address)
        snapshot = Snapshot(tuple(every))
        if snapshot != self.snapshot:
            before, self.snapshot = self.snapshot, snapshot
            self.on_change(before, snapshot)

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

    def _look_once_more(self, card: str, addresses: Sequence[str]) -> None:
        """Look at a slow card once more, unconfirmed: else each look would lead to the next one for ever."""
        if self._looking is not None:
            look = self._look_once(card, addresses)
            self._looking.create_task(look, name=f"look at {card} once more")

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
        device = await in_thread(
            lambda: mdev.create(self.kernel, parent, type_id, uuid), name=f"create on {parent}"
        )
        self._note(device)
        return device

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
                removed = await in_thread(
                    lambda: vfio.remove_unused(self.kernel, uuid, still_wanted=lambda: not given_up.is_set()),
                    name=f"remove {uuid}",
                )
                self._made.pop(uuid, None)
                return removed
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

    async def _look_once(self, card: str | None, addresses: Sequence[str] | None = None) -> None:
        try:
            if card is None:
                await self.rescan()
            elif addresses is None:
                await self.refresh(card)
            else:
                await self._read(card, addresses)
        except HostError as error:
            log.warning("the node could not be looked at", extra={"reason": str(error)})


def _results(looks: Iterable[asyncio.Task[Seen | None]]) -> list[Seen]:
    """What finished looks saw.

    Raises:
        HostError: sysfs can't be read.
    """
    return [seen for look in looks if (seen := look.result()) is not None]


def _with_device(parents: tuple[Parent, ...], device: Device) -> tuple[Parent, ...]:
    """A card's parents with one more device, and with no more room than that surely leaves."""

    def taken(parent: Parent, entry: ParentType) -> ParentType:
        if parent.address != parent.card or entry.id != device.type:
            # A function carries one device; and what others take of a pool is not known.
            return replace(entry, available=0)
        return replace(entry, available=max(0, entry.available - 1))

    def carrying(parent: Parent) -> Parent:
        if parent.address != device.parent or any(one.uuid == device.uuid for one in parent.devices):
            return parent
        devices = sorted((*parent.devices, device), key=lambda one: one.uuid)
        types = tuple(taken(parent, entry) for entry in parent.types)
        return replace(parent, types=types, devices=tuple(devices))

    return tuple(map(carrying, parents))
