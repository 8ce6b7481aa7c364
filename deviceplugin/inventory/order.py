"""One request under way: which of its devices have a place, which still need one, and where not to try again.

Whoever carries it out tells it what came of each place. A way that leads nowhere can be begun anew: what
refused beside another type that this request had put there may be tried again then, and what refused anyhow
may not. A card of which several parents refused is left until nothing else has room, wherever the placement
would go: it may have died, and each of its refusals may take a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from deviceplugin.inventory import slots
from deviceplugin.inventory.capacity import Capacity
from deviceplugin.inventory.cards import Card
from deviceplugin.inventory.placement import Seat, Wish, plan
from deviceplugin.inventory.refusals import SEVERAL
from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.snapshot import Parent, Snapshot

Place = tuple[str, str]
"""A parent and a type."""


class Order:
    """A request for devices of one resource.

    Args:
        uuids: the devices that are to be made, in the order of their slots.
        along: the types of its devices that exist already.
    """

    def __init__(self, resource: Resource, uuids: Sequence[str], along: Iterable[str]) -> None:
        self.resource = resource
        self.uuids = tuple(uuids)
        self.seats: dict[str, Seat] = {}
        """Where each device was made."""
        self.refusals: dict[Place, str] = {}
        """Why each parent and type that was tried did not take a device."""
        self._along = frozenset(along)
        self.by_card: Counter[str] = Counter()
        """How many places of each card refused since it last took a device of this request."""
        self.ended = False
        """Whether it has been tried for long enough."""
        self._firm: set[Place] = set()
        self._shunned: frozenset[Place] = frozenset()
        self._tried: dict[Place, tuple[Parent, ...]] = {}
        self._fleeting: set[Place] = set()
        self._capacity = Capacity(Snapshot())
        self._cards: dict[str, Card] = {}
        self._own: Collection[str] = ()

    @property
    def left(self) -> list[str]:
        """The devices that are still to be made."""
        return [uuid for uuid in self.uuids if uuid not in self.seats]

    def go_on(self, capacity: Capacity, *, own: Collection[str] = ()) -> None:
        """Go by what the node is like now, in which what was made so far may be seen already.

        Args:
            own: the devices of the resource that exist, for its quota per card.
        """
        self._capacity, self._own = capacity, own
        self._cards = {card.address: card for card in capacity.cards}
        # What has moved since, and what refused for no reason of its own, may be tried again.
        now = {parent: card.parents for card in capacity.cards for parent in card.addresses}
        self._tried = {
            place: known
            for place, known in self._tried.items()
            if place in self._shunned or (place not in self._fleeting and now.get(place[0]) == known)
        }
        self._fleeting.clear()

    def plan(
        self, *, busy: Collection[str] = (), waiting: Collection[tuple[str, str]] = (), patient: bool = True
    ) -> list[tuple[str, Seat]]:
        """A seat for each device that is left; none if they can't all be had.

        Args:
            busy: the cards that are not to be used now.
            waiting: cards and types that refused lately, used only if nothing else has room.
            patient: whether such cards, and those that refused here, are tried at all.
        """
        dubious = {card for card, number in self.by_card.items() if number >= SEVERAL}
        shunned = {
            (parent, type_id)
            for address, type_id in waiting
            if address in self._cards
            for parent in self._cards[address].addresses
        }
        seats = self._plan({*busy, *dubious}, {*self._tried, *shunned})
        if not seats and patient and (dubious or shunned):
            seats = self._plan(busy, self._tried)
        return seats

    def _plan(self, busy: Collection[str], refused: Collection[Place]) -> list[tuple[str, Seat]]:
        found = map(slots.parse, self.left)
        wish = Wish(
            resource=self.resource,
            numa_nodes=tuple(slot.numa_node if slot is not None else None for slot in found),
            along=self._along | {seat.type for seat in self.seats.values()},
        )
        free = [card for card in self._cards.values() if card.address not in busy]
        seats = plan(self._capacity, wish, cards=free, own=self._own, refused=refused)
        return list(zip(self.left, seats, strict=True)) if seats else []

    def made(self, uuid: str, seat: Seat) -> None:
        """A device has its place."""
        self.seats[uuid] = seat
        self._cards[seat.card] = self._cards[seat.card].having(seat.parent, seat.type)
        del self.by_card[seat.card]

    def refused(self, seat: Seat, why: str, *, fleeting: bool = False) -> bool:
        """A place did not take a device; whether that has nothing to do with what this request put beside it.

        Args:
            fleeting: whether that says nothing of its card's room.
        """
        place = (seat.parent, seat.type)
        if place not in self.refusals:
            self.by_card[seat.card] += 1
        self.refusals[place] = why
        self._tried[place] = self._cards[seat.card].parents
        if fleeting:
            self._fleeting.add(place)
        beside = {other.type for other in self.seats.values() if other.card == seat.card}
        firm = beside <= {seat.type}
        if firm:
            self._firm.add(place)
        return firm

    def begin_anew(self) -> None:
        """Nothing is made any more; what refused with no other type of this request beside it is left out."""
        self.seats = {}
        self._shunned = frozenset(self._firm)
        self._tried = {place: known for place, known in self._tried.items() if place in self._firm}
