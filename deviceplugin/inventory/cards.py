"""A card as it is, or as it would be with some more devices on it.

Choosing places for several devices needs to look ahead: what a card takes once the first of them is there. A
card that is imagined so has the kernel's word only for what it was; ``capacity`` says what still holds then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from deviceplugin.inventory.snapshot import Parent, ParentType, Snapshot

Allows = Callable[[Parent], bool]
"""Whether a parent may be used for what is asked."""


@dataclass(frozen=True)
class Card:
    """A card's parents at one moment, and what is imagined to be made on them since."""

    address: str
    parents: tuple[Parent, ...]
    imagined: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """How many devices that are not there yet, by parent and type."""

    @property
    def driver(self) -> str:
        return self.parents[0].driver

    @property
    def numa_node(self) -> int | None:
        """Its NUMA node, which all of its parents share."""
        return self.parents[0].numa_node

    @cached_property
    def addresses(self) -> frozenset[str]:
        """The addresses of its parents."""
        return frozenset(parent.address for parent in self.parents)

    @cached_property
    def divided(self) -> bool:
        """Whether its parents are virtual functions, each of which carries one device."""
        return any(parent.address != self.address for parent in self.parents)

    @cached_property
    def types(self) -> dict[str, ParentType]:
        """Its types by ID: what they are, their count being that of some parent."""
        return {entry.id: entry for parent in self.parents for entry in parent.types}

    @cached_property
    def counts(self) -> Counter[str]:
        """What the kernel says of each type, added up over its parents."""
        counts: Counter[str] = Counter()
        for parent in self.parents:
            for entry in parent.types:
                counts[entry.id] += entry.available
        return counts

    @cached_property
    def existing(self) -> Counter[str]:
        """How many devices of each type it carries, whoever made them."""
        return Counter(device.type for parent in self.parents for device in parent.devices)

    @cached_property
    def load(self) -> Counter[str]:
        """How many devices of each type it carries, those included that are imagined."""
        load = self.existing.copy()
        for (_, type_id), number in self.imagined.items():
            load[type_id] += number
        return load

    def having(self, parent: str, type_id: str, number: int = 1) -> Card:
        """The card with so many devices more."""
        place = (parent, type_id)
        return replace(self, imagined={**self.imagined, place: self.imagined.get(place, 0) + number})

    def offering(self, type_id: str, allows: Allows) -> tuple[Parent, ...]:
        """The parents that may be used, and of which the kernel says that they could make this type."""
        taken = {parent for parent, _ in self.imagined} if self.divided else ()
        return tuple(
            parent
            for parent in self.parents
            if parent.address not in taken
            and (entry := parent.type(type_id)) is not None
            and entry.available > 0
            and allows(parent)
        )

    def stated(self, type_id: str, allows: Allows) -> int:
        """What the kernel said of those parents, added up, less what of this type is imagined since."""
        total = 0
        for parent in self.offering(type_id, allows):
            entry = parent.type(type_id)
            total += entry.available if entry is not None else 0
        if not self.divided:
            total -= self.load[type_id] - self.existing[type_id]
        return max(0, total)


def cards_of(snapshot: Snapshot) -> tuple[Card, ...]:
    """A node's cards as they are, by address."""
    return tuple(Card(address, parents) for address, parents in snapshot.cards.items())


def anywhere(_parent: Parent) -> bool:
    """Every parent may be used."""
    return True
