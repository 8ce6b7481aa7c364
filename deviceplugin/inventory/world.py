"""A node as a value, and an Allocate on it: what the agent would do, without anything that is done.

``making.Maker`` is what does it. Both carry out an ``Order``, and go on alike where the kernel refuses.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from deviceplugin.inventory import slots
from deviceplugin.inventory.capacity import Capacity
from deviceplugin.inventory.order import Order
from deviceplugin.inventory.placement import Seat
from deviceplugin.inventory.pools import Knowledge
from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.snapshot import Snapshot

_TOLD = 3
"""Refusals that a sentence names."""


class World(Protocol):
    """A node as a value: each create makes another one."""

    @property
    def surely(self) -> Snapshot:
        """The node with the counts that the kernel shows at the least."""

    @property
    def at_most(self) -> Snapshot:
        """The node with the counts that the kernel shows at the most."""

    @property
    def knowledge(self) -> Knowledge:
        """What was learned of its cards."""

    def create(self, seat: Seat, uuid: str) -> World:
        """The node with a device more.

        Raises:
            OSError: the kernel refuses it.
        """

    def settled(self) -> World:
        """The node after the agent has learned from what it shows."""


class Allocation:
    """One Allocate, carried out as the agent does it.

    Args:
        least: whether it goes by the node's counts at their least, or at their most.
    """

    def __init__(self, world: World, resource: Resource, node_name: str, *, least: bool) -> None:
        self.world = world
        self.seats: dict[str, Seat] = {}
        self._resource = resource
        self._hash = slots.resource_hash(node_name, resource.name)
        self._view: Callable[[World], Snapshot] = (lambda w: w.surely) if least else (lambda w: w.at_most)

    def have(self, uuids: Sequence[str], others: Iterable[str]) -> str:
        """Make devices beside those that others made; a sentence if they can't all be had."""
        snapshot, before = self._view(self.world), self.world
        order = Order(self._resource, uuids, (snapshot.devices[uuid].type for uuid in others))
        self._fill(order)
        if order.left:
            self._fill(order)  # With what the node shows now.
        if order.left and order.seats:
            # What came first may stand in the way.
            self.world = before
            order.begin_anew()
            self._fill(order)
        self.seats = order.seats
        if not order.left:
            return ""
        tried = [f"{type_id} on {parent} is {why}" for (parent, type_id), why in order.refusals.items()]
        told = f": {'; '.join(tried[:_TOLD])}" if tried else ""
        return f"the kubelet would hand {len(uuids)} out, and no parent could take them all{told}"

    def _fill(self, order: Order) -> None:
        snapshot = self._view(self.world)
        own = slots.of_resource(snapshot.devices, self._hash)
        order.go_on(Capacity(snapshot, self.world.knowledge), own=own)
        while order.left:
            seats = order.plan()
            if not seats:
                return
            for uuid, seat in seats:
                try:
                    self.world = self.world.create(seat, uuid)
                except OSError as error:
                    order.refused(seat, f"refused with {_why(error)}")
                    break
                order.made(uuid, seat)


def _why(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error))
