"""What fits where.

The kernel is the judge: nothing here is more than it says. It is less where drivers are known to
overstate. Each virtual function of an SR-IOV card says that it could carry an instance of whatever
still fits the card, all of them at once, while the card holds only a few; so such a card's room is
bounded by what its types say they take of it (NVIDIA's ``max_instance``). Where they say nothing it is
what the card was seen to carry before, and one more at the least.

Of a card that is imagined with devices that are not there yet, the kernel's word holds for the type that
these are of. Whether another one fits beside them is known only if it was seen.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from fractions import Fraction
from functools import cached_property
from types import MappingProxyType

from deviceplugin.inventory.cards import Allows, Card, anywhere, cards_of
from deviceplugin.inventory.pools import Knowledge
from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.snapshot import ParentType, Snapshot

_MAX_INSTANCE = re.compile(r"max_instance=(\d{1,6})\b", re.ASCII)
_NOTHING_LEARNED = Knowledge()
_NO_LIMITS: Mapping[tuple[str, str], int] = MappingProxyType({})


class Capacity:
    """What still fits on each card of a node.

    Args:
        hung: the cards whose drivers have not finished what they were asked for; nothing is to be had of
            them until they have.
        limits: how many of a type a card is good for at the most, by card and type: what it refused of late
            is not to be had.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        knowledge: Knowledge = _NOTHING_LEARNED,
        *,
        hung: Collection[str] = (),
        limits: Mapping[tuple[str, str], int] = _NO_LIMITS,
    ) -> None:
        self.snapshot = snapshot
        self.knowledge = knowledge
        self._hung = hung
        self._limits = limits
        self._rooms: dict[tuple[str, str, Allows], int] = {}

    @cached_property
    def cards(self) -> tuple[Card, ...]:
        """The node's cards as they are, by address."""
        return cards_of(self.snapshot)

    def room(self, card: Card, type_id: str, allows: Allows = anywhere) -> int:
        """How many more devices of a type a card surely takes on the parents that may be used."""
        if card.imagined:
            return self._room(card, type_id, allows)
        # Many ask for the same: what is so of the card as it is is worked out once.
        key = (card.address, type_id, allows)
        if key not in self._rooms:
            self._rooms[key] = self._room(card, type_id, allows)
        return self._rooms[key]

    def of(self, resource: Resource, *, own: Collection[str] = ()) -> dict[int | None, int]:
        """How many more devices of a resource each NUMA node surely takes, if nothing else is asked for.

        Of several types a card is counted for the first that it has room for, since that is the one that
        it would be given, and then for the others, as far as they are known to go beside it.

        Args:
            own: the devices of this resource that exist, for its quota per card.
        """
        choices = resource.choices(self.snapshot)
        total: dict[int | None, int] = {}
        for card in self.cards:
            if card.address not in self._hung and any(map(resource.allows, card.parents)):
                room = min(self._in_turn(card, choices, resource.allows), resource.left_on(card, own))
                total[card.numa_node] = total.get(card.numa_node, 0) + room
        return total

    def _in_turn(self, card: Card, choices: Iterable[str], allows: Allows) -> int:
        """How many devices a card takes if it is given one choice as long as that goes, then the next."""
        total = 0
        for type_id in choices:
            room = self.room(card, type_id, allows)
            total += room
            if room and card.divided:
                break  # Its room may be more than is known, and then there is less for the next choice.
            if room:
                card = card.having(card.address, type_id, room)
        return total

    def _room(self, card: Card, type_id: str, allows: Allows) -> int:
        room = self._room_as_told(card, type_id, allows)
        limit = self._limits.get((card.address, type_id))
        return room if limit is None else min(room, limit)

    def _room_as_told(self, card: Card, type_id: str, allows: Allows) -> int:
        stated = card.stated(type_id, allows)
        if not stated:
            return 0
        proved = self.knowledge.proved(card, type_id)
        if any(imagined != type_id for _, imagined in card.imagined):
            # Only what was seen is known to go beside them.
            return min(stated, proved)
        if not card.divided:
            return stated
        told = described_room(card, type_id)
        if told is None:
            told = 1 - sum(card.imagined.values())  # Then the kernel's word is good for one.
        return min(stated, max(0, told, proved))


def max_instances(entry: ParentType | None) -> int | None:
    """How many devices of a type fill a card by themselves, where its description says so."""
    found = _MAX_INSTANCE.search(entry.description) if entry is not None else None
    return int(found[1]) or None if found else None


def described_room(card: Card, type_id: str) -> int | None:
    """How many more of a type fit by what its card's types say of themselves; None if they don't tell."""
    limit, taken = max_instances(card.types.get(type_id)), _taken(card.load, card.types)
    return None if limit is None or taken is None else max(0, int((1 - taken) * limit))


def _taken(load: Mapping[str, int], types: Mapping[str, ParentType]) -> Fraction | None:
    """Which part of a card its devices take; None if that of some device is unknown."""
    taken = Fraction(0)
    for type_id, number in load.items():
        limit = max_instances(types.get(type_id))
        if limit is None:
            return None
        taken += Fraction(number, limit)
    return taken
