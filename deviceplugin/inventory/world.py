"""A node as a value, and an Allocate on it: what the agent would do, without anything that is done.

``making.Maker`` is what does it. Both plan with ``placement.plan``, and go on alike where the kernel refuses.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from deviceplugin.inventory import slots
from deviceplugin.inventory.capacity import Capacity
from deviceplugin.inventory.placement import Seat, Wish, plan
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
        self._along: frozenset[str] = frozenset()
        self._refusals: dict[tuple[str, str], str] = {}

    def have(self, uuids: Sequence[str], others: Iterable[str]) -> str:
        """Make devices beside those that others made; a sentence if they can't all be had."""
        snapshot = self._view(self.world)
        self._along = frozenset(snapshot.devices[uuid].type for uuid in others)
        before = self.world
        self._fill(uuids, ())
        if len(self.seats) < len(uuids):
            self._fill(uuids, ())  # With what the node shows now.
        if len(self.seats) < len(uuids) and self.seats:
            # What came first may stand in the way: from the start again, without the places that refused.
            self.world, self.seats = before, {}
            self._fill(uuids, tuple(self._refusals))
        if len(self.seats) == len(uuids):
            return ""
        tried = [f"{type_id} on {parent} is {why}" for (parent, type_id), why in self._refusals.items()]
        told = f": {'; '.join(tried[:_TOLD])}" if tried else ""
        return f"the kubelet would hand {len(uuids)} out, and no parent could take them all{told}"

    def _fill(self, uuids: Sequence[str], refused: Iterable[tuple[str, str]]) -> None:
        capacity = Capacity(self._view(self.world), self.world.knowledge)
        cards = {card.address: card for card in capacity.cards}
        tried = set(refused)
        while left := [uuid for uuid in uuids if uuid not in self.seats]:
            seats = plan(
                capacity, self._wish(left), cards=cards.values(), own=self._own(capacity), refused=tried
            )
            if not seats:
                return
            for uuid, seat in zip(left, seats, strict=True):
                try:
                    self.world = self.world.create(seat, uuid)
                except OSError as error:
                    self._refusals[seat.parent, seat.type] = f"refused with {_why(error)}"
                    tried.add((seat.parent, seat.type))
                    break
                self.seats[uuid] = seat
                cards[seat.card] = cards[seat.card].having(seat.parent, seat.type)

    def _wish(self, left: Sequence[str]) -> Wish:
        found = map(slots.parse, left)
        return Wish(
            resource=self._resource,
            numa_nodes=tuple(slot.numa_node if slot is not None else None for slot in found),
            along=self._along | {seat.type for seat in self.seats.values()},
        )

    def _own(self, capacity: Capacity) -> frozenset[str]:
        """The devices of the resource that exist."""
        found = ((uuid, slots.parse(uuid)) for uuid in capacity.snapshot.devices)
        return frozenset(
            uuid for uuid, slot in found if slot is not None and slot.resource_hash == self._hash
        )


def _why(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error))
