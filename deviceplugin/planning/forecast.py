"""A node as it would be with devices that nobody makes: what can be told of it beforehand.

Only the kernel knows what a card still takes once a device is there. Of a type by itself it says so already;
what is left of the others follows from what was seen of cards that are alike, and from what types say of
themselves. Where neither tells, all that is known is that a card never takes more with a device than without.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from deviceplugin.inventory.capacity import described_room
from deviceplugin.inventory.cards import Card, anywhere, cards_of
from deviceplugin.inventory.pools import Knowledge
from deviceplugin.inventory.snapshot import Device, Parent, Snapshot


@dataclass(frozen=True, slots=True)
class Bounds:
    """A number of which only so much is known."""

    at_least: int
    at_most: int


def first_look(snapshot: Snapshot) -> Knowledge:
    """What one look at a node teaches: of each card its own state and those of the cards that are like it."""
    knowledge = Knowledge()
    groups: dict[object, list[Card]] = {}
    for card in cards_of(snapshot):
        groups.setdefault(_kind(card), []).append(card)
    for alike in groups.values():
        states = {_state(card): card for card in alike}.values()
        for card in alike:
            for other in (*states, card):
                knowledge = knowledge.learn(_as_if(other, card)).knowledge
    return knowledge


@dataclass(frozen=True)
class ExpectedNode:
    """A node that was looked at, and what is imagined to be made on it since."""

    look: Snapshot
    knowledge: Knowledge
    made: tuple[Device, ...] = ()

    @cached_property
    def surely(self) -> Snapshot:
        """With the counts that the kernel would show at the least."""
        return self._with(self.made, least=True)

    @cached_property
    def at_most(self) -> Snapshot:
        """With the counts that the kernel could show at the most."""
        return self._with(self.made, least=False)

    def create(self, parent: str, type_id: str, uuid: str) -> ExpectedNode:
        """The node with a device more; nothing is known here that would refuse it."""
        return replace(self, made=(*self.made, Device(uuid, type_id, parent, None)))

    def settled(self) -> ExpectedNode:
        """The node as it is: what is only expected teaches nothing."""
        return self

    def _with(self, made: Iterable[Device], *, least: bool) -> Snapshot:
        by_parent: dict[str, list[Device]] = {}
        for device in made:
            by_parent.setdefault(device.parent, []).append(device)
        found: list[Parent] = []
        for looked_at in cards_of(self.look):
            card = looked_at
            for parent in card.parents:
                for device in by_parent.get(parent.address, ()):
                    card = card.having(parent.address, device.type)
            if not card.imagined:
                found.extend(card.parents)
                continue
            bounds = {type_id: expected_count(self.knowledge, card, type_id) for type_id in card.types}
            counts = {
                type_id: bound.at_least if least else bound.at_most for type_id, bound in bounds.items()
            }
            found.extend(
                _filled(card, parent, by_parent.get(parent.address, []), counts) for parent in card.parents
            )
        return Snapshot(tuple(sorted(found, key=lambda parent: parent.address)))


def expected_count(knowledge: Knowledge, card: Card, type_id: str) -> Bounds:
    """What the kernel would say of a type on an imagined card.

    Of a card with virtual functions this is whether those that are free still offer the type: 1 or 0.
    """
    stated = card.stated(type_id, anywhere)
    told = described_room(card, type_id)
    mixes = any(made != type_id for _, made in card.imagined)
    most = stated if told is None else min(stated, told)
    if card.divided:
        stated, most = min(stated, 1), min(most, 1)
    if not stated:
        return Bounds(0, 0)
    if not mixes and (told is not None or not card.divided):
        # Of one type alone the kernel says all; where virtual functions overstate, its description does.
        known: int | None = most if card.divided else stated
    else:
        known = knowledge.expected(card, type_id) if mixes else None
    if known is not None:
        known = min(known, stated)
        return Bounds(known, known)
    return Bounds(min(most, knowledge.proved(card, type_id)), most)


def _filled(card: Card, parent: Parent, made: list[Device], counts: dict[str, int]) -> Parent:
    """A parent with devices more, on a card of which the kernel shows these counts."""
    types = tuple(
        replace(
            entry,
            available=counts[entry.id]
            if not card.divided
            else 0
            if made
            else min(entry.available, counts[entry.id]),
        )
        for entry in parent.types
    )
    devices = tuple(sorted((*parent.devices, *made), key=lambda device: device.uuid))
    return replace(parent, types=types, devices=devices)


def _kind(card: Card) -> object:
    """What cards have in common that take the same."""
    first = card.parents[0]
    types = tuple((entry.id, entry.description) for entry in card.types.values())
    return card.driver, first.pci, card.divided, len(card.parents), types


def _state(card: Card) -> object:
    counts = tuple((entry.id, entry.available) for parent in card.parents for entry in parent.types)
    return tuple(sorted(card.existing.items())), counts


def _as_if(card: Card, other: Card) -> Card:
    """What a card shows, as if the other one showed it."""
    if card.divided:
        return replace(card, address=other.address)
    parent = replace(card.parents[0], address=other.address, card=other.address)
    return Card(other.address, (parent,))
