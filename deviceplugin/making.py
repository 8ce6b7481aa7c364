"""Making devices: where they are best placed, on parents that take them, ready to be handed over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from deviceplugin.errors import AllocationError, DeviceBusy, HostError, NoRoom
from deviceplugin.events import Events
from deviceplugin.inventory.capacity import Capacity
from deviceplugin.inventory.order import Order
from deviceplugin.inventory.placement import Seat
from deviceplugin.inventory.pools import Knowledge
from deviceplugin.inventory.refusals import counts
from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.snapshot import Device, Snapshot
from deviceplugin.ledger import Ledger
from deviceplugin.refusals import RefusalLog

_PATIENCE = 3.0
"""Seconds of a request in which cards that refuse are tried on when nothing else has room."""
_ENOUGH = 4.5
"""Seconds of a request after which a refusal is its last try: the kubelet's sync loop waits for the answer.

What is made for a container that the kubelet remembers has more time, and is tried to its end."""
_TOLD = 8
"""Cards and errors that a message tells of."""


class MakingNode(Protocol):
    """The node as creation sees it; see ``host.node.Node``."""

    @property
    def snapshot(self) -> Snapshot: ...
    async def rescan(self) -> None: ...
    def look_again(self, *cards: str) -> None: ...
    def look_again_around(self, parent: str) -> None: ...
    def has(self, uuid: str) -> bool: ...
    async def find(self, uuid: str) -> Device | None: ...
    async def create(self, parent: str, type_id: str, uuid: str) -> Device: ...
    async def write_attribute(self, uuid: str, attribute: str, value: str) -> str | None: ...
    async def remove_unused(self, uuid: str) -> bool: ...


class Maker:
    """Has the node make devices, and take back what nobody got.

    Whoever calls it holds the devices' locks.

    Args:
        knowledge: what was learned of the node's cards.
        refusals: what cards refused of late.
        belongs: whether a device is a resource's, by the resource's name and the device's UUID.
        on_late: called when a driver begins or ends to keep a card longer than anybody waits.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        node: MakingNode,
        ledger: Ledger,
        *,
        knowledge: Callable[[], Knowledge],
        refusals: RefusalLog,
        belongs: Callable[[str, str], bool],
        events: Events,
        on_late: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._node = node
        self._ledger = ledger
        self._knowledge = knowledge
        self._refusals = refusals
        self._belongs = belongs
        self._events = events
        self._on_late = on_late
        self._clock = clock
        self._late: dict[str, Seat] = {}
        self._removals: dict[str, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()

    def is_late(self, uuid: str) -> Seat | None:
        """Where a driver is still making the device for a request that was given up."""
        return self._late.get(uuid)

    def late_cards(self) -> frozenset[str]:
        """The cards whose drivers are still making a device for a request that was given up."""
        return frozenset(seat.card for seat in self._late.values())

    def close(self) -> None:
        """Give up waiting for what drivers still hold; the next agent finds it."""
        for task in tuple(self._background):
            task.cancel()

    async def make(
        self,
        resource: Resource,
        uuids: Sequence[str],
        *,
        made: list[str],
        along: Collection[Device] = (),
        keep: bool = False,
    ) -> dict[str, Device]:
        """Make devices where they are best placed, each on a parent that takes it.

        Args:
            along: the devices of the request that are there already.
            made: gets each UUID as soon as there is something to undo.
            keep: whether a device stays should it come after the request was given up.

        Raises:
            AllocationError: they can't all be had. Those in ``made`` are there.
        """
        order = Order(resource, uuids, (device.type for device in along))
        devices: dict[str, Device] = {}
        began = self._clock()
        await self._fill(order, devices, made, keep=keep, began=began)
        if order.left and not order.ended:
            # What was known may be older than the room that somebody just gave back.
            await self._node.rescan()
            await self._fill(order, devices, made, keep=keep, began=began)
        if order.left and devices and not order.ended:
            # What came first may stand in the way.
            await self.undo(list(devices))
            if not any(map(self._node.has, devices)):
                for uuid in devices:
                    made.remove(uuid)
                devices.clear()
                order.begin_anew()
                await self._node.rescan()
                await self._fill(order, devices, made, keep=keep, began=began)
        if order.left:
            raise NoRoom(self._no_room(order))
        return devices

    async def _fill(
        self, order: Order, devices: dict[str, Device], made: list[str], *, keep: bool, began: float
    ) -> None:
        """Make what an order still lacks, as far as there are places that have not refused.

        Args:
            began: when the request did.
        """
        order.go_on(Capacity(self._node.snapshot, self._knowledge()), own=self._own(order.resource))
        while order.left:
            busy = {seat.card: seat for seat in self._late.values()}
            for seat in busy.values():
                order.refusals[seat.parent, seat.type] = (
                    f"{seat.parent}: its card has not yet finished an earlier create"
                )
            seats = order.plan(
                busy=busy, waiting=self._refusals.waiting(), patient=self._clock() < began + _PATIENCE
            )
            if not seats:
                return
            for uuid, seat in seats:
                try:
                    device = await self._create_anew(order.resource, seat, uuid, keep=keep)
                except HostError as error:
                    if order.refused(seat, str(error), fleeting=not counts(error.__cause__)):
                        self._refused(seat, error)
                    if not keep and self._clock() >= began + _ENOUGH:
                        order.ended = True
                        return
                    break
                self._refusals.made(seat)
                made.append(uuid)
                await self._finish(order.resource, device, seat)
                devices[uuid] = device
                order.made(uuid, seat)

    def _refused(self, seat: Seat, error: HostError) -> None:
        """Remember that a card did not take a device, and see what it is like now."""
        self._refusals.refused(seat, self._node.snapshot, error.__cause__)
        self._node.look_again(seat.card)

    def _own(self, resource: Resource) -> frozenset[str]:
        """The devices of a resource that exist, where that matters."""
        if resource.max_per_card is None:
            return frozenset()
        return frozenset(uuid for uuid in self._node.snapshot.devices if self._belongs(resource.name, uuid))

    async def set_attributes(self, resource: Resource, device: Device) -> None:
        """Write what the resource says a device needs, in order.

        Raises:
            AllocationError: the driver refused something.
        """
        for attribute, value in resource.attributes:
            try:
                reads = await self._node.write_attribute(device.uuid, attribute, value)
            except HostError as error:
                raise AllocationError(
                    f"{resource.name}: {device.uuid} on {device.parent}: {error}"
                ) from error
            self._events.attribute_set(resource, device, attribute, value, reads)

    async def remove_used(self, resource: Resource, uuid: str) -> None:
        """Remove a device that somebody had before, under a claim.

        Raises:
            AllocationError: somebody still has it, or the node refused.
        """
        self._ledger.used([uuid])
        try:
            await self._node.remove_unused(uuid)
        except DeviceBusy as error:
            raise AllocationError(
                f"{resource.name}: the device {uuid} is still held by the VM that had it before; "
                f"it will be free when that VM has ended ({error})"
            ) from error
        except HostError as error:
            raise AllocationError(f"{resource.name}: a used device could not be renewed: {error}") from error
        self._ledger.gone([uuid])
        self._events.renewing(resource, uuid)

    async def undo(self, made: Sequence[str]) -> None:
        """Remove what a failed request has made. What can't be removed now is left to the reclaim.

        Whoever lets go of its lock while it may still be there has to count it as used before.
        """
        for uuid in made:
            # Whoever gives up waiting for a driver, and then undoes again, waits for the same removal.
            task = self._removals.get(uuid)
            if task is None:
                task = asyncio.create_task(self._undo(uuid), name=f"undo {uuid}")
                self._removals[uuid] = task
                self._keep(task)
            await asyncio.shield(task)

    async def _undo(self, uuid: str) -> None:
        card = ""
        try:
            card = await self._card_of(uuid)
            self._refusals.undoing(card)
            await self._node.remove_unused(uuid)
        except HostError as error:
            # It bears the mark and no pod has it: the reclaim will get it.
            self._events.left_over(uuid, str(error))
        else:
            self._ledger.gone([uuid])
            self._events.undone(uuid)
        finally:
            self._refusals.undone(card)
            del self._removals[uuid]

    async def _card_of(self, uuid: str) -> str:
        """The card that a device is on; empty if that can't be told."""
        try:
            device = await self._node.find(uuid)
        except HostError:
            return ""
        parent = self._node.snapshot.by_address.get(device.parent) if device is not None else None
        return parent.card if parent is not None else ""

    def _keep(self, task: asyncio.Task[None]) -> None:
        """Hold on to a task that nobody may be waiting for."""
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _create_anew(self, resource: Resource, seat: Seat, uuid: str, *, keep: bool) -> Device:
        """Have the kernel make it; one that is there, though nobody knew, is removed under a claim first."""
        try:
            return await self._create(seat, uuid, keep=keep)
        except HostError as error:
            if not isinstance(error.__cause__, FileExistsError):
                raise
        await self.remove_used(resource, uuid)
        return await self._create(seat, uuid, keep=keep)

    async def _create(self, seat: Seat, uuid: str, *, keep: bool) -> Device:
        """Have the kernel make it. If the wait is given up, the device may be removed when it comes."""
        task = asyncio.create_task(
            self._node.create(seat.parent, seat.type, uuid), name=f"create {uuid} on {seat.parent}"
        )
        try:
            device = await asyncio.shield(task)
        except asyncio.CancelledError:
            self._late[uuid] = seat
            self._on_late()
            cleanup = asyncio.create_task(self._end_late(task, uuid, seat, keep=keep), name=f"late {uuid}")
            self._keep(cleanup)
            raise
        self._node.look_again(seat.card)
        return device

    async def _finish(self, resource: Resource, device: Device, seat: Seat) -> None:
        """What has to be true of a new device before anybody gets it."""
        self._ledger.touch(device.uuid)
        if device.group is None:
            raise AllocationError(
                f"{resource.name}: {device.parent} made {device.uuid}, but it has no VFIO group; "
                "is the module that drives mediated devices (vfio_mdev, vfio_iommu_type1) loaded?"
            )
        await self.set_attributes(resource, device)
        self._ledger.made(device.uuid)
        self._events.created(resource, device, seat)

    async def _end_late(self, task: asyncio.Task[Device], uuid: str, seat: Seat, *, keep: bool) -> None:
        try:
            device = await task
        except HostError as error:
            self._refused(seat, error)
            return  # It never came.
        finally:
            self._late.pop(uuid, None)
            self._on_late()
        if keep:
            self._node.look_again_around(device.parent)
            self._events.came_late(uuid)
            return
        async with self._ledger.lock(uuid):
            if not self._ledger.is_handed_over(uuid):
                await self.undo([uuid])

    def _tried(self, order: Order) -> list[str]:
        """What refused, with the reason; functions of one card that did so alike are told of together."""
        alike: dict[tuple[str, str, str], list[str]] = {}
        for (parent, type_id), why in order.refusals.items():
            known = self._node.snapshot.by_address.get(parent)
            card = known.card if known is not None else parent
            alike.setdefault((card, type_id, why.removeprefix(f"{parent}: ")), []).append(parent)
        return [
            f"{type_id} on {f'{len(parents)} functions of {card}' if parents[1:] else parents[0]}: {why}"
            for (card, type_id, why), parents in alike.items()
        ]

    def _no_room(self, order: Order) -> str:
        resource, number = order.resource, len(order.uuids)
        asked = f"{resource.name}: no parent could take {'the device' if number == 1 else 'all devices'}"
        if order.refusals:
            tried = self._tried(order)
            more = f"; and {len(tried) - _TOLD} more" if len(tried) > _TOLD else ""
            rest = "; there was no time to try any others" if order.ended else ""
            return f"{asked}: tried {'; '.join(tried[:_TOLD])}{more}{rest}"
        choices = resource.choices(self._node.snapshot)
        if not choices:
            return f"{asked}: no parent on this node offers {' or '.join(resource.types)} now"
        if number > 1 and not resource.mixed and len(choices) > 1:
            types = ", ".join(choices)
            return f"{asked}: of none of {types} do {number} fit, and 'mixed: false' forbids several"
        quota = f" or has its {resource.max_per_card} of them" if resource.max_per_card is not None else ""
        return f"{asked}: every parent that offers {' or '.join(choices)} is full{quota}"
