"""What a node offers: never more than can be made, never less than is promised."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

from hypothesis import example, given

from deviceplugin.inventory.capacity import Capacity
from deviceplugin.inventory.offer import offer
from deviceplugin.inventory.resources import Resource
from tests.properties.model import Asked, Card, Driver, Type
from tests.properties.nodes import Case, cases, examples
from tests.properties.world import NODE_NAME, World, numa_of, play


def per_node(ids: list[str]) -> Counter[int | None]:
    return Counter(map(numa_of, ids))


def offered(case: Case) -> Iterator[tuple[World, Resource, Asked, list[str]]]:
    """Every resource at every moment of a history, with its free Healthy slots."""
    for world, _ in play(case):
        for resource, asked in world.resources:
            yield world, resource, asked, world.free(resource)


@given(case=cases())
@examples(400)
def test_no_more_is_offered_than_any_order_of_creates_could_make(case: Case) -> None:
    for world, resource, asked, free in offered(case):
        own = sum(name == resource.name for name in world.node.owner.values())
        for numa, number in per_node(free).items():
            possible = sum(
                world.node.most(card, asked, resource.name)
                for card in world.node.cards
                if card.numa_node == numa
            )
            assert number <= possible
        assert not free or resource.max is None or own + len(free) <= resource.max


def one_type_takes_the_room_of_several() -> Case:
    """A card that both types fit on, where one device of the second has the room of two of the first."""
    first, second = Type(id="first", takes=(1,)), Type(id="second", takes=(2,))
    both = Driver(name="both", pools=(6,), types=(first, second))
    one = Driver(name="one", pools=(4,), types=(Type(id="second", takes=(1,)),))
    node = (Card(address="card0", driver=both), Card(address="card1", driver=one))
    asked = Asked(types=("first", "second"), parents=frozenset({"card0", "card1"}))
    return Case(cards=node, resources=((Resource(name="vfio.dev/both", types=asked.types), asked),), steps=())


@given(case=cases())
@example(case=one_type_takes_the_room_of_several())
@examples(150)
def test_all_that_is_offered_can_be_had_in_one_request_on_the_nodes_that_were_said(case: Case) -> None:
    for world, resource, asked, free in offered(case):
        if not free:
            continue
        request = world.copy().request(resource, asked, free)
        if not resource.mixed and not any(
            world.node.can_serve(asked, resource.name, len(free), [type_id]) for type_id in asked.types
        ):
            assert request.devices is None
            continue
        assert request.devices is not None, request.error
        if not resource.mixed:
            continue  # One type comes before the node there.
        for uuid, device in zip(free, request.devices, strict=True):
            assert world.node.card_of(device.parent).numa_node == numa_of(uuid)


@given(case=cases())
@examples(150)
def test_all_that_is_offered_can_be_had_one_by_one(case: Case) -> None:
    for world, resource, asked, free in offered(case):
        twin = world.copy()
        random.Random(len(free)).shuffle(free)
        for uuid in free:
            request = twin.request(resource, asked, [uuid])
            twin.settle()
            assert request.devices is not None, request.error
            assert twin.node.card_of(request.devices[0].parent).numa_node == numa_of(uuid)


@given(case=cases())
@examples(150)
def test_what_a_resource_made_stays_healthy(case: Case) -> None:
    for world, resource, _, _ in offered(case):
        made = {uuid for uuid in world.node.devices if world.node.owner.get(uuid) == resource.name}
        assert made <= {slot.id for slot in world.offer(resource).slots if slot.healthy}


@given(case=cases())
@examples(400)
def test_no_less_is_offered_than_is_promised(case: Case) -> None:
    for world, resource, asked, free in offered(case):
        own = sum(name == resource.name for name in world.node.owner.values())
        promised: Counter[int | None] = Counter()
        for card in world.node.cards:
            promised[card.numa_node] += promised_of(world, resource, asked, card)
        if resource.max is None:
            for numa, number in promised.items():
                assert per_node(free)[numa] >= number
        else:
            assert len(free) >= min(promised.total(), resource.max - own)


@given(case=cases())
@examples(300)
def test_of_a_single_type_on_ordinary_cards_exactly_what_can_be_made_is_offered(case: Case) -> None:
    for world, resource, asked, free in offered(case):
        if len(asked.types) > 1 or resource.max is not None or any(card.vfs for card in world.node.cards):
            continue
        for numa in {card.numa_node for card in world.node.cards}:
            here = [card for card in world.node.cards if card.numa_node == numa]
            assert per_node(free)[numa] == sum(world.node.most(card, asked, resource.name) for card in here)


@given(case=cases())
@examples(100)
def test_what_was_learned_takes_nothing_from_the_offer(case: Case) -> None:
    for world, resource, _, free in offered(case):
        without = offer(Capacity(world.node.snapshot()), resource, node_name=NODE_NAME)
        ids = [slot.id for slot in without.slots if slot.healthy and slot.id not in world.node.devices]
        assert len(free) >= len(ids)


def promised_of(world: World, resource: Resource, asked: Asked, card: Card) -> int:
    """What docs/architecture.md promises of one card: what the first type with room has there."""
    rooms = (promised_of_type(world, resource, asked, card, type_id) for type_id in asked.types)
    return next(filter(None, rooms), 0)


def promised_of_type(world: World, resource: Resource, asked: Asked, card: Card, type_id: str) -> int:
    node, load = world.node, world.node.load(card)
    entry = next((entry for entry in card.types if entry.id == type_id), None)
    parents = [parent for parent in card.parents if parent in asked.parents]
    if entry is None or not any(node.available(parent, type_id) for parent in parents):
        return 0
    places = node.free(card, asked, resource.name)
    if not card.vfs:
        return min(places, node.available(card.address, type_id))
    before = max(
        seen[type_id] - load[type_id]
        for seen in world.seen[card.address]
        if all(seen[t] >= load[t] for t in load)
    )
    described = {other.id: card.alone(other.id) for other in card.types if other.described}
    if not entry.described or any(other not in described for other in load):
        return min(places, max(1, before))
    left = 1 - sum(Fraction(number, described[other]) for other, number in load.items())
    bound = min(places, int(left * described[type_id]))
    if share_one_pool(card):
        assert bound == node.most(card, asked, resource.name, [type_id])
    return bound


def share_one_pool(card: Card) -> bool:
    """Whether the types of a card differ only in what they take of one pool, and fill it."""
    driver = card.driver
    return (
        len(driver.pools) == 1
        and driver.instances is None
        and all(
            entry.described and entry.max is None and entry.takes[0] and not driver.pools[0] % entry.takes[0]
            for entry in driver.types
        )
    )
