"""What is learned of cards whose types draw on one pool: true, and used to choose between them."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.inventory.cards import Card as RealCard
from deviceplugin.inventory.resources import Placement, Resource
from tests.properties.model import Asked, Card, Node, foreign_uuid
from tests.properties.nodes import examples, pool_drivers
from tests.properties.world import World

CHANCES = st.integers(0, 1 << 32).map(random.Random)


@st.composite
def pool_cards(draw: st.DrawFn) -> tuple[Card, ...]:
    """Cards of one driver, without virtual functions."""
    driver = draw(pool_drivers("red"))
    factors = draw(st.lists(st.sampled_from([1, 1, 2]), min_size=1, max_size=4))
    return tuple(
        Card(address=f"card{number}", driver=driver, factor=factor) for number, factor in enumerate(factors)
    )


def taught(cards: tuple[Card, ...]) -> World:
    """A world whose first card was seen with one device of each type, and without."""
    world = World(Node(cards), ())
    for entry in cards[0].types:
        assert world.node.create(cards[0].address, entry.id, f"lesson-{entry.id}") is not None
        world.settle()
        world.node.remove(f"lesson-{entry.id}")
    world.settle()
    return world


def fill(world: World, chance: random.Random) -> None:
    """Put something on each card, as others would."""
    for card in world.node.cards:
        for _ in range(chance.randint(0, 8)):
            world.node.create(card.address, chance.choice(card.types).id, foreign_uuid(chance))
    world.settle()


@given(cards=pool_cards(), chance=CHANCES)
@examples(100)
def test_what_a_device_would_leave_is_foretold_for_every_type_on_every_card_of_the_driver(
    cards: tuple[Card, ...], chance: random.Random
) -> None:
    world = taught(cards)
    fill(world, chance)
    parents = world.node.snapshot().cards
    for card in cards:
        load = world.node.load(card)
        for made in card.types:
            if world.node.available(card.address, made.id):
                imagined = RealCard(card.address, parents[card.address]).having(card.address, made.id)
                for other in card.types:
                    foretold = world.knowledge.expected(imagined, other.id)
                    assert foretold == card.alone(other.id, load + Counter([made.id]))


@given(cards=pool_cards(), chance=CHANCES)
@examples(100)
def test_every_count_that_comes_is_the_one_that_was_foretold(
    cards: tuple[Card, ...], chance: random.Random
) -> None:
    world = taught(cards)
    for _ in range(3):
        fill(world, chance)
        for address, parents in world.node.snapshot().cards.items():
            lesson = world.knowledge.learn(RealCard(address, parents))
            assert not lesson.surprises


@given(cards=pool_cards(), chance=CHANCES)
@examples(150)
def test_packing_chooses_the_card_that_costs_the_other_types_least(
    cards: tuple[Card, ...], chance: random.Random
) -> None:
    world = taught(cards)
    fill(world, chance)
    type_id = chance.choice(cards[0].types).id
    asked = Asked(types=(type_id,), parents=frozenset(card.address for card in cards))
    resource = Resource(name="test/a", types=(type_id,), placement=Placement.PACK)
    request = world.request(resource, asked, world.spare(resource, 1, None))
    if request.devices is None:
        return
    before = request.before
    chosen = before.card_of(request.devices[0].parent)
    for card in cards:
        alike = card.factor == chosen.factor and bool(before.load(card)) == bool(before.load(chosen))
        if alike and before.available(card.address, type_id):
            here, there = losses(before, chosen, type_id), losses(before, card, type_id)
            assert here == there or any(here[other] < there[other] for other in here)


def losses(node: Node, card: Card, made: str) -> dict[str, int]:
    """How many fewer of each other type a card takes with one device more."""
    load = node.load(card)
    after = load + Counter([made])
    return {
        other.id: card.alone(other.id, load) - card.alone(other.id, after)
        for other in card.types
        if other.id != made
    }
