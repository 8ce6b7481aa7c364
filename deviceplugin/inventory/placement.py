"""Which parent next.

Placement only ranks: the kernel decides, and a parent that refuses leads to the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from deviceplugin.inventory.capacity import Capacity
from deviceplugin.inventory.resources import Placement, Resource
from deviceplugin.inventory.snapshot import Device, Parent, Snapshot


@dataclass(frozen=True, slots=True)
class Seat:
    """A place where a device could be made."""

    parent: str
    card: str
    type: str
    aligned: bool
    """Whether it is on the NUMA node that was asked for."""


def seats(
    snapshot: Snapshot, resource: Resource, numa_node: int | None, *, wanted: int = 1
) -> tuple[Seat, ...]:
    """Where the next of ``wanted`` devices should be made, the best place first.

    The slot's own NUMA node comes first; then a type that all of them can have before one that only some
    can, the resource's own order of types, cards that hold all of them, and what its placement asks for.
    """
    capacity = Capacity(snapshot)
    ranked: list[tuple[tuple[object, ...], Seat]] = []
    for preference, type_id in enumerate(resource.choices(snapshot)):
        rooms = {card: capacity.room(card, type_id) for card in snapshot.cards}
        enough = sum(rooms.values()) >= wanted
        for card, parents in snapshot.cards.items():
            fullness = _fullness(parents, type_id, rooms[card], resource.placement, wanted)
            for parent in parents:
                entry = parent.type(type_id)
                if entry is None or entry.available == 0 or not resource.parents.allows(parent):
                    continue
                aligned = parent.numa_node == numa_node
                # What seems full is asked last: the kernel is the judge.
                key = (rooms[card] == 0, not aligned, not enough, preference, fullness, parent.address)
                ranked.append((key, Seat(parent.address, card, type_id, aligned)))
    ranked.sort(key=lambda entry: entry[0])
    return tuple(seat for _, seat in ranked)


def seated(snapshot: Snapshot, seat: Seat, uuid: str) -> Snapshot:
    """The node as it should be once a device was made there, until the kernel has been asked.

    What is left of the card's other types is unknown until then, and taken to be nothing.
    """
    device = Device(uuid=uuid, type=seat.type, parent=seat.parent, group=None)

    def after(parent: Parent) -> Parent:
        here = parent.address == seat.parent
        return replace(
            parent,
            types=tuple(
                replace(entry, available=max(0, entry.available - here) if entry.id == seat.type else 0)
                for entry in parent.types
            ),
            devices=(*parent.devices, device) if here else parent.devices,
        )

    return Snapshot(
        tuple(after(parent) if parent.card == seat.card else parent for parent in snapshot.parents)
    )


def _fullness(
    parents: Sequence[Parent], type_id: str, room: int, placement: Placement, wanted: int
) -> tuple[int, ...]:
    """The cards in the order of ``placement``: smaller is better."""
    held = sum(len(parent.devices) for parent in parents)
    alike = sum(device.type == type_id for parent in parents for device in parent.devices)
    if placement is Placement.SPREAD:
        return (held, -room)
    return (room < wanted, -alike, -held, room)
