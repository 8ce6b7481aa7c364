"""Slots to devices: all of a request's or none, wherever there is room at that moment.

An ID says which slot it is, never where it goes. A device that exists and was never used is handed out
as it is; a used one is removed under a claim and made anew; one that does not exist is made on the best
parent that takes it. What a failed request has made is removed again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack

from deviceplugin import handover
from deviceplugin.errors import (
    AllocationError,
    BadRequest,
    DeviceBusy,
    HostError,
    NoRoom,
    TooSlow,
    UnknownDevice,
)
from deviceplugin.host.node import Node
from deviceplugin.inventory import slots
from deviceplugin.inventory.placement import Seat, seated, seats
from deviceplugin.inventory.preference import preferred
from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.snapshot import Device, Snapshot
from deviceplugin.ledger import Ledger

log = logging.getLogger(__name__)

DEADLINE = 6.0
"""Seconds that a request may take: the kubelet's sync loop waits for it."""
_TOLD = 8
"""Refusals that an error message tells of."""
_SHOWN = 64
"""Characters of a foreign ID that an error message repeats."""

Remembered = Callable[[str], Awaitable[Collection[str] | None]]
"""Which host paths the kubelet remembers for a device; None if it remembers no such device."""


class Allocation:
    """Meets the kubelet's requests.

    Args:
        offered: whether an ID was ever advertised for a resource.
        remembered: what the kubelet remembers of a device; raises KubeletError if that can't be read.
    """

    def __init__(
        self,
        node: Node,
        ledger: Ledger,
        *,
        offered: Callable[[str, str], bool],
        remembered: Remembered,
    ) -> None:
        self._node = node
        self._ledger = ledger
        self._offered = offered
        self._remembered = remembered
        self._late: dict[str, Seat] = {}
        self._cleanups: set[asyncio.Task[None]] = set()

    async def allocate(self, resource: Resource, ids: Sequence[str]) -> tuple[Device, ...]:
        """Have a device for each ID, in the order of the IDs' slots.

        Raises:
            AllocationError: not all of them can be had; none of those made for it is left.
        """
        wanted = self._checked(resource, ids)
        made: list[str] = []
        try:
            async with asyncio.timeout(DEADLINE), AsyncExitStack() as held:
                for uuid in wanted:
                    await held.enter_async_context(self._ledger.lock(uuid))
                try:
                    devices = await self._have(resource, wanted, made)
                except BaseException:
                    # Still under the locks: nobody is to find a device that is about to go.
                    await asyncio.shield(self._undo(made))
                    raise
                for device in devices:
                    if device.group is not None:
                        self._ledger.handed_over(device.uuid, device.group)
                return devices
        except TimeoutError as error:
            raise TooSlow(
                f"{_asked(resource, wanted)}: the node took more than {DEADLINE:.0f} s to answer; "
                "what it makes after all will be removed"
            ) from error

    async def prepare(self, resource: Resource, ids: Sequence[str]) -> None:
        """Make sure before a container starts that its devices are there, and count them as used.

        Raises:
            AllocationError: a device can't be had, or the container would get another one's node.
            KubeletError: it can't be told which node the container would get.
        """
        wanted = self._checked(resource, ids)
        try:
            async with asyncio.timeout(DEADLINE), AsyncExitStack() as held:
                for uuid in wanted:
                    await held.enter_async_context(self._ledger.lock(uuid))
                for uuid in wanted:
                    # Before anything can fail: from here on nobody else may get it as it is.
                    self._ledger.used(uuid)
                    self._ledger.touch(uuid)
                    await self._prepare(resource, uuid)
        except TimeoutError as error:
            raise TooSlow(
                f"{_asked(resource, wanted)}: the node took more than {DEADLINE:.0f} s to answer"
            ) from error

    def prefer(self, available: Sequence[str], required: Sequence[str], size: int) -> tuple[str, ...]:
        """The IDs that the kubelet should choose: never-used devices first, then one NUMA node.

        Never fails: what makes no sense is left out of the choice.
        """
        existing = self._node.snapshot.devices.keys()
        fresh = {uuid for uuid in available if uuid in existing and self._ledger.is_fresh(uuid)}
        return preferred(available, required, size, existing=existing, fresh=fresh)

    def close(self) -> None:
        """Give up waiting for what drivers still hold; the next agent finds it."""
        for task in tuple(self._cleanups):
            task.cancel()

    # --- one request -------------------------------------------------------------------------------

    def _checked(self, resource: Resource, ids: Sequence[str]) -> tuple[str, ...]:
        """The IDs in the order of their slots, each known to be one of this resource's."""
        if not ids:
            raise BadRequest(f"{resource.name}: the request names no device")
        for text in ids:
            if slots.parse(text) is None or not self._offered(resource.name, text):
                raise UnknownDevice(
                    f"{resource.name}: the device {text[:_SHOWN]!r} was never offered by this endpoint"
                )
        if len(set(ids)) != len(ids):
            raise BadRequest(f"{resource.name}: the request names a device twice")
        return tuple(sorted(ids, key=lambda text: str(text[19:23] + text)))

    async def _have(self, resource: Resource, wanted: tuple[str, ...], made: list[str]) -> tuple[Device, ...]:
        devices: dict[str, Device] = {}
        for uuid in wanted:
            if (device := await self._reusable(resource, uuid)) is not None:
                devices[uuid] = device
        missing = [uuid for uuid in wanted if uuid not in devices]
        expected = self._node.snapshot
        for position, uuid in enumerate(missing):
            device, expected = await self._make(
                resource, uuid, expected=expected, wanted=len(missing) - position, made=made
            )
            devices[uuid] = device
        return tuple(devices[uuid] for uuid in wanted)

    async def _reusable(self, resource: Resource, uuid: str) -> Device | None:
        """The device as it is if it was never used; None after a used one was removed."""
        if (late := self._late.get(uuid)) is not None:
            raise TooSlow(
                f"{resource.name}: the device {uuid} is still being made on {late.parent} "
                "for an earlier request"
            )
        if uuid not in self._node.snapshot.devices and not self._ledger.is_fresh(uuid):
            return None
        device = await self._node.find(uuid)
        if device is None:
            self._ledger.gone([uuid])
            return None
        fits = device.group is not None and device.type in resource.choices(self._node.snapshot)
        if fits and self._ledger.is_fresh(uuid):
            log.info("device handed out again, unused", extra=_about(resource, device))
            return device
        await self._remove_used(resource, uuid)
        return None

    async def _remove_used(self, resource: Resource, uuid: str) -> None:
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
        log.info("used device removed to be made anew", extra={"resource": resource.name, "device": uuid})

    async def _make(
        self, resource: Resource, uuid: str, *, expected: Snapshot, wanted: int, made: list[str]
    ) -> tuple[Device, Snapshot]:
        """Make a device on the best parent that takes it; returns it and the node as expected then."""
        slot = slots.parse(uuid)
        numa_node = slot.numa_node if slot is not None else None
        refusals: dict[Seat, str] = {}
        for look_first in (False, True):
            if look_first:
                # What was known may be older than the room that somebody just gave back.
                await self._node.rescan()
                expected = self._node.snapshot
            for seat in seats(expected, resource, numa_node, wanted=wanted):
                if seat.card in {late.card for late in self._late.values()}:
                    refusals[seat] = f"{seat.parent}: its card has not yet finished an earlier create"
                    continue
                try:
                    device = await self._create(seat, uuid)
                except HostError as error:
                    if isinstance(error.__cause__, FileExistsError):
                        await self._remove_used(resource, uuid)
                        device = await self._create_once_more(resource, seat, uuid)
                    else:
                        refusals[seat] = str(error)
                        continue
                made.append(uuid)
                await self._finish(resource, device, aligned=seat.aligned)
                return device, seated(expected, seat, uuid)
        raise NoRoom(self._no_room(resource, wanted, refusals))

    async def _create_once_more(self, resource: Resource, seat: Seat, uuid: str) -> Device:
        try:
            return await self._create(seat, uuid)
        except HostError as error:
            raise AllocationError(f"{resource.name}: {uuid} could not be made anew: {error}") from error

    async def _create(self, seat: Seat, uuid: str) -> Device:
        """Have the kernel make it. If the wait is given up, the device is removed when it comes."""
        task = asyncio.create_task(
            self._node.create(seat.parent, seat.type, uuid), name=f"create {uuid} on {seat.parent}"
        )
        try:
            device = await asyncio.shield(task)
        except asyncio.CancelledError:
            self._late[uuid] = seat
            cleanup = asyncio.create_task(self._remove_late(task, uuid), name=f"late {uuid}")
            self._cleanups.add(cleanup)
            cleanup.add_done_callback(self._cleanups.discard)
            raise
        self._node.look_again(seat.card)
        return device

    async def _finish(self, resource: Resource, device: Device, *, aligned: bool) -> None:
        """What has to be true of a new device before anybody gets it."""
        self._ledger.made(device.uuid)
        if device.group is None:
            raise AllocationError(
                f"{resource.name}: {device.parent} made {device.uuid}, but it has no VFIO group; "
                "is the module that drives mediated devices (vfio_mdev, vfio_iommu_type1) loaded?"
            )
        for attribute, value in resource.attributes:
            try:
                await self._node.write_attribute(device.uuid, attribute, value)
            except HostError as error:
                raise AllocationError(
                    f"{resource.name}: {device.uuid} on {device.parent}: {error}"
                ) from error
        log.info("device created", extra=_about(resource, device))
        if not aligned:
            log.warning(
                "device is on another NUMA node than its slot: there was no room left on that",
                extra=_about(resource, device),
            )

    async def _undo(self, made: Sequence[str]) -> None:
        for uuid in made:
            try:
                await self._node.remove_unused(uuid)
            except HostError as error:
                # It bears the mark and no pod has it: the reclaim will get it.
                log.warning("device of a failed request stays for now: %s", error, extra={"device": uuid})
            else:
                self._ledger.gone([uuid])
                log.info("device of a failed request removed", extra={"device": uuid})

    async def _remove_late(self, task: asyncio.Task[Device], uuid: str) -> None:
        try:
            await task
        except HostError:
            return  # It never came.
        finally:
            self._late.pop(uuid, None)
        async with self._ledger.lock(uuid):
            if self._ledger.group(uuid) is None:
                await self._undo([uuid])

    async def _prepare(self, resource: Resource, uuid: str) -> None:
        device = await self._node.find(uuid)
        if device is None:
            self._ledger.gone([uuid])
            made: list[str] = []
            try:
                device, _ = await self._make(
                    resource, uuid, expected=self._node.snapshot, wanted=1, made=made
                )
            except BaseException:
                await asyncio.shield(self._undo(made))
                raise
            self._ledger.used(uuid)
            log.info("device made again before a container starts", extra=_about(resource, device))
        if device.group is None:
            raise AllocationError(f"{resource.name}: the device {uuid} has no VFIO group")
        if self._ledger.group(uuid) == device.group:
            return
        path = handover.host_path(self._node.kernel.paths, device.group)
        known = await self._remembered(uuid)
        if known is not None and path not in known:
            raise AllocationError(
                f"{resource.name}: the device {uuid} was made again and is {path} now, but the kubelet "
                f"would give the container {', '.join(sorted(known)) or 'no device node'}, as allocated "
                "before; delete the pod so that it is allocated anew"
            )
        self._ledger.handed_over(uuid, device.group)

    def _no_room(self, resource: Resource, wanted: int, refusals: dict[Seat, str]) -> str:
        asked = f"{resource.name}: no parent could take {'the device' if wanted == 1 else 'all devices'}"
        if refusals:
            tried = [f"{seat.type} on {reason}" for seat, reason in refusals.items()]
            more = f"; and {len(tried) - _TOLD} more" if len(tried) > _TOLD else ""
            return f"{asked}: tried {'; '.join(tried[:_TOLD])}{more}"
        choices = resource.choices(self._node.snapshot)
        if not choices:
            return f"{asked}: no parent on this node offers {' or '.join(resource.types)} now"
        return f"{asked}: every parent that offers {' or '.join(choices)} is full"


def _asked(resource: Resource, wanted: Sequence[str]) -> str:
    return f"{resource.name}: {len(wanted)} device{'s' if len(wanted) > 1 else ''} asked for"


def _about(resource: Resource, device: Device) -> dict[str, object]:
    return {
        "resource": resource.name,
        "device": device.uuid,
        "type": device.type,
        "parent": device.parent,
        "group": device.group,
    }
