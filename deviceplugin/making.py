"""Making one device: on the best parent that takes it, ready to be handed over, or not at all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from deviceplugin.errors import AllocationError, DeviceBusy, HostError, NoRoom
from deviceplugin.host.node import Node
from deviceplugin.inventory import slots
from deviceplugin.inventory.placement import Seat, seated, seats
from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.snapshot import Device, Snapshot
from deviceplugin.ledger import Ledger

log = logging.getLogger(__name__)

_TOLD = 8
"""Refusals that an error message tells of."""


class Maker:
    """Has the node make devices, and take back what nobody got.

    Whoever calls it holds the device's lock.
    """

    def __init__(self, node: Node, ledger: Ledger) -> None:
        self._node = node
        self._ledger = ledger
        self._late: dict[str, Seat] = {}
        self._background: set[asyncio.Task[None]] = set()

    def is_late(self, uuid: str) -> Seat | None:
        """Where a driver is still making the device for a request that was given up."""
        return self._late.get(uuid)

    def close(self) -> None:
        """Give up waiting for what drivers still hold; the next agent finds it."""
        for task in tuple(self._background):
            task.cancel()

    async def make(
        self,
        resource: Resource,
        uuid: str,
        *,
        expected: Snapshot,
        wanted: int,
        made: list[str],
        keep: bool = False,
    ) -> tuple[Device, Snapshot]:
        """Make a device on the best parent that takes it; returns it and the node as expected then.

        Args:
            expected: the node as it should be by now.
            wanted: how many devices the request still needs, this one included.
            made: gets the UUID as soon as there is something to undo.
            keep: whether the device stays should it come after the request was given up.

        Raises:
            AllocationError: it can't be had.
        """
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
                    device = await self._create_anew(resource, seat, uuid, keep=keep)
                except HostError as error:
                    refusals[seat] = str(error)
                    continue
                made.append(uuid)
                await self._finish(resource, device, aligned=seat.aligned)
                return device, seated(expected, seat, uuid)
        raise NoRoom(self._no_room(resource, wanted, refusals))

    async def set_attributes(self, resource: Resource, device: Device) -> None:
        """Write what the resource says a device needs, in order.

        Raises:
            AllocationError: the driver refused something.
        """
        for attribute, value in resource.attributes:
            try:
                await self._node.write_attribute(device.uuid, attribute, value)
            except HostError as error:
                raise AllocationError(
                    f"{resource.name}: {device.uuid} on {device.parent}: {error}"
                ) from error

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
        log.info("used device removed to be made anew", extra={"resource": resource.name, "device": uuid})

    async def undo(self, made: Sequence[str]) -> None:
        """Remove what a failed request has made. What can't be removed now is left to the reclaim."""
        self._ledger.used(made)
        for uuid in made:
            try:
                await self._node.remove_unused(uuid)
            except HostError as error:
                # It bears the mark and no pod has it: the reclaim will get it.
                log.warning("device of a failed request stays for now: %s", error, extra={"device": uuid})
            else:
                self._ledger.gone([uuid])
                log.info("device of a failed request removed", extra={"device": uuid})

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
            cleanup = asyncio.create_task(self._end_late(task, uuid, keep=keep), name=f"late {uuid}")
            self._background.add(cleanup)
            cleanup.add_done_callback(self._background.discard)
            raise
        self._node.look_again(seat.card)
        return device

    async def _finish(self, resource: Resource, device: Device, *, aligned: bool) -> None:
        """What has to be true of a new device before anybody gets it."""
        self._ledger.touch(device.uuid)
        if device.group is None:
            raise AllocationError(
                f"{resource.name}: {device.parent} made {device.uuid}, but it has no VFIO group; "
                "is the module that drives mediated devices (vfio_mdev, vfio_iommu_type1) loaded?"
            )
        await self.set_attributes(resource, device)
        self._ledger.made(device.uuid)
        log.info("device created", extra=about(resource, device))
        if not aligned:
            log.warning(
                "device is on another NUMA node than its slot: there was no room left on that",
                extra=about(resource, device),
            )

    async def _end_late(self, task: asyncio.Task[Device], uuid: str, *, keep: bool) -> None:
        try:
            device = await task
        except HostError:
            return  # It never came.
        finally:
            self._late.pop(uuid, None)
        if keep:
            self._node.look_again_around(device.parent)
            log.info("device came after all and stays for its container", extra={"device": uuid})
            return
        async with self._ledger.lock(uuid):
            if not self._ledger.is_handed_over(uuid):
                await self.undo([uuid])

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


def about(resource: Resource, device: Device) -> dict[str, object]:
    """A device in the log."""
    return {
        "resource": resource.name,
        "device": device.uuid,
        "type": device.type,
        "parent": device.parent,
        "group": device.group,
    }
