"""What fits where.

The kernel is the judge: nothing here is more than it says. It is less where drivers are known to
overstate. Each virtual function of an SR-IOV card says that it could carry an instance of whatever
still fits the card, all of them at once, while the card holds only a few; so such a card's room is
bounded by what its types say they take of it (NVIDIA's ``max_instance``), and is taken to be one where
they say nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction

from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.snapshot import Parent, ParentType, Snapshot

_MAX_INSTANCE = re.compile(r"max_instance=(\d{1,6})\b", re.ASCII)


class Capacity:
    """What still fits on each card of a node.

    Everything is worked out once, when it is made: a change on the node asks for all resources.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._rooms = {card: _rooms(parents) for card, parents in snapshot.cards.items()}

    def room(self, card: str, type_id: str) -> int:
        """How many more devices of a type the card surely takes."""
        return self._rooms[card].get(type_id, 0)

    def of(self, resource: Resource) -> dict[int | None, int]:
        """How many more devices of a resource each NUMA node surely takes, if nothing else is asked for.

        Of several types a card is counted for the first that it has room for, since that is the one that
        it would be given; what might still fit beside it is not known before it is there.
        """
        choices = resource.choices(self.snapshot)
        total: dict[int | None, int] = {}
        for card, parents in self.snapshot.cards.items():
            allowed = [parent for parent in parents if resource.parents.allows(parent)]
            if not allowed:
                continue
            room = 0
            for type_id in choices:
                # What the card's other parents carry takes from it all the same.
                room = self.room(card, type_id)
                if len(allowed) < len(parents):
                    room = min(room, _stated(allowed)[type_id])
                if room:
                    break
            node = allowed[0].numa_node
            total[node] = total.get(node, 0) + room
        return total


def max_instances(entry: ParentType | None) -> int | None:
    """How many devices of a type fill a card by themselves, where its description says so."""
    found = _MAX_INSTANCE.search(entry.description) if entry is not None else None
    return int(found[1]) or None if found else None


def _rooms(parents: Sequence[Parent]) -> dict[str, int]:
    """What one card takes of each of its types."""
    stated = _stated(parents)
    if all(parent.address == parent.card for parent in parents):
        return dict(stated)
    types = {entry.id: entry for parent in parents for entry in parent.types}
    taken = _taken(parents, types)
    rooms = {}
    for type_id, count in stated.items():
        limit = max_instances(types[type_id])
        # Where its types don't tell, the kernel's word is good for one.
        fits = 1 if limit is None or taken is None else max(0, int((1 - taken) * limit))
        rooms[type_id] = min(count, fits)
    return rooms


def _stated(parents: Iterable[Parent]) -> Counter[str]:
    """What parents say by themselves, added up."""
    stated: Counter[str] = Counter()
    for parent in parents:
        for entry in parent.types:
            stated[entry.id] += entry.available
    return stated


def _taken(parents: Iterable[Parent], types: dict[str, ParentType]) -> Fraction | None:
    """Which part of a card its devices take; None if that of some device is unknown."""
    taken = Fraction(0)
    for parent in parents:
        for device in parent.devices:
            limit = max_instances(types.get(device.type))
            if limit is None:
                return None
            taken += Fraction(1, limit)
    return taken
