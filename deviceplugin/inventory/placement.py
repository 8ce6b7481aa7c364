"""Where the devices of a request go: which type each becomes, and on which parent.

All of a request's devices are placed at once, since what is best for the first of them depends on the others:
one type for all before several, one card under ``pack``, as many as there are under ``spread``. A plan is
only that. The kernel decides, and where it refuses another plan is made without that place.

What is surely there is planned with first; when that does not suffice, with all that the kernel says, which
may be more than can be had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from deviceplugin.inventory.capacity import Capacity
from deviceplugin.inventory.cards import Allows, Card
from deviceplugin.inventory.resources import Placement, Resource
from deviceplugin.inventory.snapshot import Parent

_STEPS = 2000
"""Places that are tried for one request before it is taken to be impossible in that way."""

_LOOKED_BACK = 128
"""Devices of several types in one request for which other ways are tried where the first leads nowhere."""

NumaNode = int | None
Refused = Collection[tuple[str, str]]
"""Parents and types that the kernel refused."""


@dataclass(frozen=True, slots=True)
class Seat:
    """A place where a device could be made."""

    parent: str
    card: str
    type: str
    aligned: bool
    """Whether it is on the NUMA node that was asked for."""
    reason: str = ""
    """Why it is this place, in a few words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a request still needs.

    Args:
        numa_nodes: the NUMA node of each device's slot.
        along: the types of its devices that exist already.
    """

    resource: Resource
    numa_nodes: tuple[NumaNode, ...]
    along: frozenset[str] = frozenset()


def plan(
    capacity: Capacity,
    wish: Wish,
    *,
    cards: Collection[Card] | None = None,
    own: Collection[str] = (),
    refused: Refused = (),
) -> tuple[Seat, ...]:
    """A seat for each device of a request, in the order of the request; none if they can't all be had.

    The slots' own NUMA nodes come first; then one type for all of them, by the resource's order of
    preference; then what its placement asks for.

    Args:
        cards: the node's cards, with what was made since the snapshot; as in the snapshot by default.
        own: the devices of this resource that exist, for its quota per card.
        refused: where not to try again.
    """
    every = tuple(capacity.cards if cards is None else cards)
    for sure in (True, False):
        planner = _Planner(capacity, wish, own, refused, sure=sure)
        for types, aligned in _ways(wish, capacity):
            seats = planner.place(every, types, aligned=aligned)
            if seats:
                return seats
    return ()


def _ways(wish: Wish, capacity: Capacity) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Which types are allowed together, and whether the NUMA node binds, the best first."""
    choices = wish.resource.choices(capacity.snapshot)
    single = [type_id for type_id in choices if wish.along <= {type_id}]
    mixed = wish.resource.mixed and len(choices) > 1 and (len(wish.numa_nodes) > 1 or wish.along)
    for aligned in (True, False):
        for type_id in single:
            yield (type_id,), aligned
        if mixed:
            yield choices, aligned


class _Planner:
    """Places one request's devices, looking back where a choice leads nowhere."""

    def __init__(
        self, capacity: Capacity, wish: Wish, own: Collection[str], refused: Refused, *, sure: bool
    ) -> None:
        self._capacity = capacity
        self._wish = wish
        self._resource = wish.resource
        self._own = own
        self._refused = frozenset(refused)
        self._refusing = {parent for parent, _ in self._refused}
        self._sure = sure
        self._steps = 0

    def place(self, cards: Sequence[Card], types: tuple[str, ...], *, aligned: bool) -> tuple[Seat, ...]:
        """Seats of these types for all devices, in their order; none if they can't all be had."""
        state, left = {card.address: card for card in cards}, self._wish.numa_nodes
        if len(types) > 1 and len(left) <= _LOOKED_BACK:
            self._steps = _STEPS
            return tuple(self._search(state, types, left, aligned=aligned) or ())
        # Devices of one type take the same from a card wherever they come first: no need to look back.
        seats: list[Seat] = []
        while left and self._suffice(state, types, left, aligned=aligned):
            ranked = self._ranked(state, types, left, aligned=aligned)
            if not ranked:
                break
            seat = self._seat(*ranked[0], left[0], places=len(ranked))
            state = _after(state, seat)
            seats.append(seat)
            left = left[1:]
        return () if left else tuple(seats)

    def _search(
        self, cards: dict[str, Card], types: tuple[str, ...], left: tuple[NumaNode, ...], *, aligned: bool
    ) -> list[Seat] | None:
        """Seats for the devices that are left; None if there are none."""
        if not left:
            return []
        if not self._suffice(cards, types, left, aligned=aligned):
            return None
        ranked = self._ranked(cards, types, left, aligned=aligned)
        for card, type_id in ranked:
            if not self._steps:
                return None
            self._steps -= 1
            seat = self._seat(card, type_id, left[0], places=len(ranked))
            rest = self._search(_after(cards, seat), types, left[1:], aligned=aligned)
            if rest is not None:
                return [seat, *rest]
        return None

    def _seat(self, card: Card, type_id: str, numa_node: NumaNode, *, places: int) -> Seat:
        """A seat for a device on a card that was chosen among so many places."""
        parent = card.offering(type_id, self._allows(card, type_id))[0]
        aligned = parent.numa_node == numa_node
        return Seat(
            parent.address, card.address, type_id, aligned, self._reason(card, type_id, aligned, places)
        )

    def _suffice(
        self, cards: dict[str, Card], types: tuple[str, ...], left: tuple[NumaNode, ...], *, aligned: bool
    ) -> bool:
        """Whether the cards' rooms, added up, suffice: if not, there is nothing to try."""
        rooms: Counter[NumaNode] = Counter()
        for card in cards.values():
            rooms[card.numa_node] += sum(self._room(card, type_id) for type_id in types)
        if aligned:
            return all(rooms[node] >= number for node, number in Counter(left).items())
        return rooms.total() >= len(left)

    def _ranked(
        self, cards: dict[str, Card], types: tuple[str, ...], left: tuple[NumaNode, ...], *, aligned: bool
    ) -> list[tuple[Card, str]]:
        """The places for the next device, the best first."""
        ranked = []
        for preference, type_id in enumerate(types):
            for card in cards.values():
                near = card.numa_node == left[0]
                room = self._room(card, type_id) if near or not aligned else 0
                if room:
                    key = (not near, preference, *self._order(card, type_id, room, len(left)), card.address)
                    ranked.append((key, card, type_id))
        ranked.sort(key=lambda entry: entry[0])
        return [(card, type_id) for _, card, type_id in ranked]

    def _order(self, card: Card, type_id: str, room: int, wanted: int) -> tuple[object, ...]:
        """The cards in the order of the placement: smaller is better."""
        held, here = card.load.total(), sum(card.imagined.values())
        if self._resource.placement is Placement.SPREAD:
            return (here, held, -room)
        # What the request has begun to fill; the card that holds most of what it wants; the least harm.
        return (not here, -min(room, wanted), self._harm(card, type_id), -card.load[type_id], -held, room)

    def _harm(self, card: Card, type_id: str) -> Fraction:
        """What a device would take from a card's other types, as a part of the whole; 0 while unknown."""
        knowledge = self._capacity.knowledge
        if card.divided or not knowledge.knows(card, type_id):
            return Fraction(0)
        after = card.having(card.address, type_id)
        harm = Fraction(0)
        for other in card.types:
            whole, before = knowledge.whole(card, other), knowledge.expected(card, other)
            if other != type_id and whole and before:
                harm += Fraction(before - (knowledge.expected(after, other) or 0), whole)
        return harm

    def _room(self, card: Card, type_id: str) -> int:
        allows = self._allows(card, type_id)
        if self._sure:
            room = self._capacity.room(card, type_id, allows)
        else:
            room = card.stated(type_id, allows)
            if card.imagined and not card.divided:
                expected = self._capacity.knowledge.expected(card, type_id)
                room = room if expected is None else min(room, expected)
        return min(room, self._resource.left_on(card, self._own))

    def _allows(self, card: Card, type_id: str) -> Allows:
        allows = self._resource.allows
        if self._refusing.isdisjoint(card.addresses):
            return allows

        def still(parent: Parent) -> bool:
            return (parent.address, type_id) not in self._refused and allows(parent)

        return still

    def _reason(self, card: Card, type_id: str, aligned: bool, places: int) -> str:
        """Why a place is the best of so many."""
        choices = self._resource.choices(self._capacity.snapshot)
        parts = [f"choice {choices.index(type_id) + 1} of {len(choices)}"] if len(choices) > 1 else []
        if card.numa_node is not None or not aligned:
            parts.append("on its slot's NUMA node" if aligned else "no room on its slot's NUMA node")
        load = card.load.total()
        parts.append(
            f"{self._resource.placement.value}: a card with {load or 'no'} device{'s' * (load != 1)}"
        )
        parts.append("the only place" if places == 1 else f"the best of {places} places")
        return ", ".join(parts)


def _after(cards: dict[str, Card], seat: Seat) -> dict[str, Card]:
    return {**cards, seat.card: cards[seat.card].having(seat.parent, seat.type)}
