"""Slots to devices: all of a request's or none, wherever there is room at that moment.

An ID says which slot it is, never where it goes. A device that exists and was never used is handed out
as it is; a used one is removed under a claim and made anew; one that does not exist is made on the best
parent that takes it. What a failed request has made is removed again (``transaction``).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Sequence

from deviceplugin import handover
from deviceplugin.errors import (
    AllocationError,
    BadRequest,
    HostError,
    TooSlow,
    UnknownDevice,
)
from deviceplugin.events import Events, log_fields
from deviceplugin.host.node import Node
from deviceplugin.inventory import slots
from deviceplugin.inventory.pools import Knowledge
from deviceplugin.inventory.preference import preferred
from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.slots import NodeMark, Owner
from deviceplugin.inventory.snapshot import Device
from deviceplugin.ledger import Ledger
from deviceplugin.making import Maker
from deviceplugin.refusals import RefusalLog
from deviceplugin.specs import Specs
from deviceplugin.transaction import Transactions

log = logging.getLogger(__name__)

DEADLINE = 6.0
"""Seconds that an Allocate may take: the kubelet's sync loop waits for it."""
START_DEADLINE = 25.0
"""Seconds that a PreStartContainer may take: the kubelet gives it 30, and no other pod waits for it."""
_SHOWN = 64
"""Characters of a foreign ID that an error message repeats."""

Remembered = Callable[[str], Awaitable[Collection[frozenset[str]]]]
"""What each container gets that the kubelet remembers with a device: host paths, or CDI names."""


class Allocation:
    """Meets the kubelet's requests.

    Args:
        mark: what this node's devices bear in their IDs.
        offered: whether an ID was ever advertised for a resource.
        remembered: what the kubelet remembers of a device; raises KubeletError if that can't be read.
        specs: the devices' CDI specifications; None where containers get device nodes.
        knowledge: what was learned of the node's cards.
        refusals: what cards refused of late.
        on_occupied: called with a device that somebody else made and that turned out to be in use.
        on_withdrawn: called with one that is asked for and that the configuration does not offer.
        on_late: called when ``hung`` may have changed.
    """

    def __init__(
        self,
        node: Node,
        ledger: Ledger,
        *,
        mark: NodeMark,
        offered: Callable[[str, str], bool],
        remembered: Remembered,
        specs: Specs | None,
        knowledge: Callable[[], Knowledge],
        refusals: RefusalLog,
        events: Events,
        on_occupied: Callable[[str], None],
        on_withdrawn: Callable[[str], None],
        on_late: Callable[[], None],
    ) -> None:
        self._node = node
        self._ledger = ledger
        self._mark = mark
        self._offered = offered
        self._remembered = remembered
        self._specs = specs
        self._on_occupied = on_occupied
        self._on_withdrawn = on_withdrawn
        self._maker = Maker(
            node,
            ledger,
            knowledge=knowledge,
            refusals=refusals,
            # What others made counts for no quota: what is offered goes by that, too.
            belongs=lambda name, uuid: mark.is_ours(uuid) and offered(name, uuid),
            events=events,
            on_late=on_late,
            clock=ledger.clock,
        )
        self._transactions = Transactions(ledger, undo=self._undo)

    @property
    def hung(self) -> frozenset[str]:
        """The cards of which nothing can be had, since their drivers have not finished an earlier create."""
        return self._maker.late_cards()

    async def allocate(self, resource: Resource, ids: Sequence[str]) -> tuple[Device, ...]:
        """Have a device for each ID, in the order of the IDs' slots.

        Raises:
            AllocationError: not all of them can be had; none of those made for it is left.
        """
        wanted = self._checked(resource, ids)
        async with self._transactions.begin(resource.name, wanted, DEADLINE) as made:
            devices = await self._have(resource, wanted, made)
            for device in devices:
                await self._specify(resource, device)
            for device in devices:
                if device.group is not None:
                    self._ledger.handed_over(device.uuid, device.group)
            return devices

    async def prepare(self, resource: Resource, ids: Sequence[str]) -> None:
        """Make sure before a container starts that its devices are there, and count them as used.

        Raises:
            AllocationError: a device can't be had, or the container would get another one's node.
            KubeletError: it can't be told which node the container would get.
        """
        wanted = self._checked(resource, ids)
        # Before anything can fail: from here on nobody else may get them as they are.
        self._ledger.used(wanted)
        async with self._transactions.begin(resource.name, wanted, START_DEADLINE) as made:
            for uuid in wanted:
                self._ledger.used([uuid])
                self._ledger.touch(uuid)
                await self._prepare(resource, uuid, made)

    async def restore(self, resource: Resource, uuid: str) -> None:
        """Make a device again that the kubelet remembers and the node has lost, as it does in a reboot.

        Raises:
            AllocationError: it can't be had.
            HostError: it can't be looked up.
        """
        async with self._ledger.lock(uuid):
            if self._maker.is_late(uuid) or await self._node.find(uuid) is not None:
                return
            device = (await self._maker.make(resource, [uuid], made=[], keep=True))[uuid]
            # Whose it was is not known: it is never handed out as it is, but to the pod that had it.
            self._ledger.used([uuid])
            log.info("device made again that the kubelet remembers", extra=log_fields(resource, device))
            await self._specify(resource, device)

    def prefer(self, available: Sequence[str], required: Sequence[str], size: int) -> tuple[str, ...]:
        """The IDs that the kubelet should choose: never-used devices first, then one NUMA node.

        Never fails: what makes no sense is left out of the choice.
        """
        existing = self._node.snapshot.devices.keys()
        # What others made is there in any case, and takes nothing more of a card.
        fresh = {
            uuid
            for uuid in available
            if uuid in existing and (self._ledger.is_fresh(uuid) or not self._mark.is_ours(uuid))
        }
        busy = {uuid for uuid in available if self._ledger.is_busy(uuid) or self._maker.is_late(uuid)}
        return preferred(available, required, size, existing=existing, fresh=fresh, busy=busy)

    def close(self) -> None:
        """Give up waiting for what drivers still hold; the next agent finds it."""
        self._maker.close()
        self._transactions.close()

    # --- one request -------------------------------------------------------------------------------

    def _checked(self, resource: Resource, ids: Sequence[str]) -> tuple[str, ...]:
        """The IDs in the order of their slots, each known to be one of this resource's."""
        if not ids:
            raise BadRequest(f"{resource.name}: the request names no device")
        for text in ids:
            if not self._offered(resource.name, text):
                raise UnknownDevice(
                    f"{resource.name}: the device {text[:_SHOWN]!r} was never offered by this endpoint"
                )
            if not slots.is_uuid(text):
                raise AllocationError(
                    f"{resource.name}: the device {text[:_SHOWN]!r} is of another plugin that had this "
                    "resource before; what it stands for is not known here, so no container can be started "
                    "with it: delete the pod so that it is allocated anew"
                )
        if len(set(ids)) != len(ids):
            raise BadRequest(f"{resource.name}: the request names a device twice")
        return tuple(slots.in_order(ids))

    async def _undo(self, uuid: str) -> None:
        try:
            await self._maker.undo([uuid])
        finally:
            if self._specs is not None:
                # It may have come and gone between two looks at the node.
                self._specs.tidy_soon()

    async def _have(self, resource: Resource, wanted: tuple[str, ...], made: list[str]) -> tuple[Device, ...]:
        devices: dict[str, Device] = {}
        for uuid in wanted:
            if (device := await self._reusable(resource, uuid)) is not None:
                devices[uuid] = device
        missing = [uuid for uuid in wanted if uuid not in devices]
        devices |= await self._maker.make(resource, missing, made=made, along=devices.values())
        return tuple(devices[uuid] for uuid in wanted)

    async def _reusable(self, resource: Resource, uuid: str) -> Device | None:
        """The device as it is if it was never used; None after a used one was removed."""
        owner = self._mark.owner(uuid)
        if owner is Owner.OTHER_NODE:
            raise AllocationError(
                f"{resource.name}: the device {uuid} was made under another node's name, so no other pod can "
                "have it than the one that the kubelet's records give it to"
            )
        if owner is Owner.FOREIGN:
            return await self._as_it_is(resource, uuid)
        self._refuse_late(resource, uuid)
        if uuid not in self._node.snapshot.devices and not self._ledger.is_fresh(uuid):
            return None
        device = await self._node.find(uuid)
        if device is None:
            self._ledger.gone([uuid])
            return None
        fits = device.group is not None and device.type in resource.choices(self._node.snapshot)
        if fits and self._ledger.is_fresh(uuid):
            log.info("device handed out again, unused", extra=log_fields(resource, device))
            return device
        await self._maker.remove_used(resource, uuid)
        return None

    async def _as_it_is(self, resource: Resource, uuid: str) -> Device:
        """A device that somebody else made; it is never removed, so a used one is handed on as it is."""
        device = await self._node.find(uuid)
        if device is None or device.group is None:
            self._ledger.gone([uuid])
            what = "is gone" if device is None else "has no VFIO group"
            raise AllocationError(
                f"{resource.name}: the device {uuid}, which was made by somebody else, {what}"
            )
        known = self._node.snapshot.devices.get(uuid)
        if known is not None and not resource.adoptable(known, self._node.snapshot):
            self._on_withdrawn(uuid)
            raise AllocationError(
                f"{resource.name}: the device {uuid}, which was made by somebody else, is none of those that "
                "the configuration offers; it was, or another plugin gave it to the pod that had it before"
            )
        try:
            held = await self._node.is_held(uuid)
        except HostError as error:
            raise AllocationError(f"{resource.name}: {error}") from error
        if held:
            self._on_occupied(uuid)
            raise AllocationError(
                f"{resource.name}: the device {uuid}, which was made by somebody else, is in use by "
                "something that is no pod, or by a VM that outlived its pod"
            )
        log.info("device of somebody else's handed out", extra=log_fields(resource, device))
        return device

    def _refuse_late(self, resource: Resource, uuid: str) -> None:
        if (late := self._maker.is_late(uuid)) is not None:
            raise TooSlow(
                f"{resource.name}: the device {uuid} is still being made on {late.parent} "
                "for an earlier request"
            )

    async def _prepare(self, resource: Resource, uuid: str, made: list[str]) -> None:
        self._refuse_late(resource, uuid)
        device = await self._node.find(uuid)
        if device is None and not self._mark.is_ours(uuid):
            maker = "under another node's name" if slots.bears_mark(uuid) else "by somebody else"
            raise AllocationError(
                f"{resource.name}: the device {uuid}, which was made {maker}, is gone; delete the pod "
                "so that it is allocated anew"
            )
        if device is None:
            self._ledger.gone([uuid])
            await self._remembered(uuid)  # Whom the kubelet's records don't name, nothing is made for.
            device = (await self._maker.make(resource, [uuid], made=made, keep=True))[uuid]
            # It stays whatever comes: the pod it is for is the only one that can have it.
            made.clear()
            self._ledger.used([uuid])
            log.info("device made again before a container starts", extra=log_fields(resource, device))
        elif not self._ledger.is_handed_over(uuid):
            await self._complete(resource, device)
        if device.group is None:
            raise AllocationError(f"{resource.name}: the device {uuid} has no VFIO group")
        await self._specify(resource, device)
        if not self._ledger.told_only(uuid, device.group):
            await self._compare(resource, device, device.group)
        self._ledger.handed_over(uuid, device.group)

    async def _complete(self, resource: Resource, device: Device) -> None:
        """Finish a device that this process did not make: an agent before it may have ended too early."""
        theirs = not self._mark.is_ours(device.uuid)
        if resource.attributes and not theirs and not await self._node.is_held(device.uuid):
            await self._maker.set_attributes(resource, device)

    async def _specify(self, resource: Resource, device: Device) -> None:
        """With CDI, have what the container runtime reads of a device say what it is now."""
        if self._specs is None:
            return
        try:
            await self._specs.write(device)
        except HostError as error:
            raise AllocationError(f"{resource.name}: {error}") from error

    async def _compare(self, resource: Resource, device: Device, group: int) -> None:
        """Refuse to start a container that would get another device's node.

        Every container that the kubelet remembers with this device has to get this group's path: which of
        them is about to start isn't said. With CDI the device's name will do, whose specification is true;
        but a container that was allocated before CDI was switched on is remembered with paths.
        """
        path = handover.host_path(self._node.kernel.paths, group)
        right = {path} if self._specs is None else {path, handover.cdi_name(device.uuid)}
        containers = await self._remembered(device.uuid)
        if all(right & nodes for nodes in containers):
            return
        remembered = sorted(set().union(*containers))
        raise AllocationError(
            f"{resource.name}: the device {device.uuid} is {path} now, but the kubelet "
            f"would give the container {', '.join(remembered) or 'no device node'}, as allocated before; "
            "delete the pod so that it is allocated anew"
        )
