"""What is learned of cards from the counts that the kernel gives, against the simulator's drivers."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest

from deviceplugin.inventory.capacity import Capacity
from deviceplugin.inventory.cards import Card
from deviceplugin.inventory.pools import Knowledge, Lesson
from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.snapshot import Device, Parent, ParentType, Snapshot
from deviceplugin.simulator.node import state as kernel
from deviceplugin.simulator.node.cards import Model
from deviceplugin.simulator.node.description import load

MODELS = {
    card.address: card.model for name in ("samples", "nvidia-t4", "intel-gvtg") for card in load(name).cards
}
T4 = "0000:3b:00.0"
GPU = "0000:00:02.0"


def carrying(model: Model, address: str = "card", **carried: int) -> Card:
    """A card of a model with so many devices of each type, as the kernel shows it."""
    names = {kind.replace("-", "_"): kind for kind in model.offered}
    return shown(model, Counter({names[name]: number for name, number in carried.items()}), address)


def shown(model: Model, load: Counter[str], address: str = "card") -> Card:
    types = tuple(
        ParentType(kind.id, "", "vfio-pci", "", kernel.room(model, kind, load))
        for kind in model.offered.values()
    )
    devices = tuple(
        Device(f"{kind}-{number}", kind, address, 0) for kind in load for number in range(load[kind])
    )
    return Card(address, (Parent(address, address, model.driver, None, None, types, devices),))


def after(*cards: Card) -> Knowledge:
    """What is known once these were seen."""
    knowledge = Knowledge()
    for card in cards:
        knowledge = knowledge.learn(card).knowledge
    return knowledge


MBOCHS = MODELS["mbochs"]


def test_what_a_large_device_takes_from_small_ones_is_learned_from_one_create() -> None:
    knowledge = after(carrying(MBOCHS), carrying(MBOCHS, mbochs_large=1))
    card = carrying(MBOCHS, mbochs_large=1)
    assert knowledge.rate(card, "mbochs-large", "mbochs-small") == 16
    assert knowledge.rate(card, "mbochs-large", "mbochs-medium") == 4
    assert knowledge.rate(card, "mbochs-small", "mbochs-large") is None


def test_what_a_small_device_takes_from_large_ones_is_a_part_of_one() -> None:
    card = carrying(MBOCHS, mbochs_small=1)
    knowledge = after(carrying(MBOCHS), card)
    assert knowledge.rate(card, "mbochs-small", "mbochs-large") == Fraction(1, 16)


def test_what_was_learned_foretells_the_counts_after_a_create_that_was_never_seen() -> None:
    seen = [carrying(MBOCHS), carrying(MBOCHS, mbochs_small=1), carrying(MBOCHS, mbochs_large=1)]
    now = carrying(MBOCHS, mbochs_small=3, mbochs_large=1)
    knowledge = after(*seen, now)
    planned = now.having("card", "mbochs-large")
    found = {type_id: knowledge.expected(planned, type_id) for type_id in planned.types}
    assert found == {"mbochs-small": 29, "mbochs-medium": 7, "mbochs-large": 1}


def test_a_card_that_carries_one_type_at_a_time_is_learned_too() -> None:
    model = MODELS[T4]
    knowledge = after(carrying(model), carrying(model, nvidia_231=1))
    planned = carrying(model, nvidia_231=1).having("card", "nvidia-231")
    assert knowledge.expected(planned, "nvidia-231") == 6
    assert knowledge.expected(planned, "nvidia-230") == 0


def test_what_one_card_taught_is_known_of_another_of_the_same_driver() -> None:
    knowledge = after(
        carrying(MBOCHS, "a"), carrying(MBOCHS, "a", mbochs_large=1), carrying(MBOCHS, "b")
    )  # fmt: skip
    planned = carrying(MBOCHS, "b").having("b", "mbochs-large")
    assert knowledge.expected(planned, "mbochs-small") == 48


def test_before_anything_was_made_nothing_is_foretold() -> None:
    planned = carrying(MBOCHS).having("card", "mbochs-large")
    assert after(carrying(MBOCHS)).expected(planned, "mbochs-small") is None


def test_a_type_is_always_known_to_take_one_of_itself() -> None:
    planned = carrying(MBOCHS).having("card", "mbochs-large")
    assert after(carrying(MBOCHS)).expected(planned, "mbochs-large") == 3


def test_more_than_the_kernel_said_is_never_expected() -> None:
    knowledge = after(
        carrying(MBOCHS), carrying(MBOCHS, mbochs_large=1), carrying(MBOCHS, mbochs_large=1, mbochs_medium=1)
    )
    parent = carrying(MBOCHS, mbochs_large=2).parents[0]
    fewer = tuple(replace(kind, available=min(kind.available, 20)) for kind in parent.types)
    planned = Card("card", (replace(parent, types=fewer),)).having("card", "mbochs-medium")
    assert knowledge.expected(planned, "mbochs-small") == 20


@pytest.mark.parametrize("address", ["mtty", "mdpy", "mbochs", T4])
@pytest.mark.parametrize("seed", range(5))
def test_after_a_while_a_driver_with_one_rule_surprises_no_more(address: str, seed: int) -> None:
    lessons = walk(MODELS[address], steps=120, seed=seed)
    assert sum(lesson.confirmed for lesson in lessons) > 20
    assert not [surprise for lesson in lessons[60:] for surprise in lesson.surprises]


@pytest.mark.parametrize("seed", range(5))
def test_a_driver_with_three_pools_is_foretold_mostly(seed: int) -> None:
    lessons = walk(MODELS[GPU], steps=200, seed=seed)
    wrong = sum(len(lesson.surprises) for lesson in lessons)
    assert sum(lesson.confirmed for lesson in lessons) >= wrong


def walk(model: Model, *, steps: int, seed: int) -> list[Lesson]:
    """A card on which devices come and go at random."""
    chance = random.Random(seed)
    carried: Counter[str] = Counter()
    knowledge, lessons = Knowledge(), []
    for _ in range(steps):
        fitting = [kind.id for kind in model.offered.values() if kernel.room(model, kind, carried)]
        if fitting and (not carried.total() or chance.random() < 0.6):
            carried[chance.choice(fitting)] += 1
        else:
            carried -= Counter([chance.choice(list(carried.elements()))])
        lessons.append(knowledge.learn(shown(model, +carried)))
        knowledge = lessons[-1].knowledge
    return lessons


def test_a_wrong_prediction_says_what_was_expected_and_is_learned_from() -> None:
    knowledge = after(carrying(MBOCHS), carrying(MBOCHS, mbochs_large=1))
    odd = carrying(MBOCHS, mbochs_large=2)
    parent = odd.parents[0]
    fewer = ParentType("mbochs-small", "", "vfio-pci", "", 30)
    types = tuple(fewer if kind.id == fewer.id else kind for kind in parent.types)
    card = Card("card", (Parent("card", "card", "mbochs", None, None, types, parent.devices),))
    lesson = knowledge.learn(card)
    (surprise,) = lesson.surprises
    assert str(surprise) == (
        "learned of card (mbochs): with 2 mbochs-large on it 30 more mbochs-small fit, "
        "by the kernel's count; the estimate was 32"
    )
    rate = lesson.knowledge.rate(card, "mbochs-large", "mbochs-small")
    assert rate is not None
    assert 17 < rate < Fraction(35, 2)  # 34 or 35 for two, and of them more than 17 for the second.


def test_a_card_that_comes_back_with_other_types_is_another_card() -> None:
    knowledge = after(carrying(MBOCHS), carrying(MBOCHS, mbochs_large=4), carrying(MODELS["mtty"]))
    assert knowledge.proved(carrying(MBOCHS), "mbochs-large") == 0


def test_what_is_known_of_a_card_goes_with_it() -> None:
    knowledge = after(carrying(MBOCHS), carrying(MBOCHS, mbochs_large=4)).forget({"card"})
    assert knowledge.proved(carrying(MBOCHS), "mbochs-large") == 0


def test_what_a_card_once_carried_it_can_carry_again() -> None:
    knowledge = after(carrying(MBOCHS), carrying(MBOCHS, mbochs_large=3, mbochs_small=5))
    assert knowledge.proved(carrying(MBOCHS), "mbochs-large") == 3
    assert knowledge.proved(carrying(MBOCHS, mbochs_large=1), "mbochs-small") == 5
    assert knowledge.proved(carrying(MBOCHS, mbochs_medium=1), "mbochs-large") == 0


def vf(number: int, available: int, *devices: str) -> Parent:
    address = f"0000:41:00.{number}"
    carried = tuple(Device(uuid, "t", address, number) for uuid in devices)
    return Parent(address, "pf", "d", 0, None, (ParentType("t", "", "", "", available),), carried)


def test_virtual_functions_that_do_not_say_how_many_fit_offer_what_was_seen_on_them() -> None:
    two, none = (vf(0, 0, "a"), vf(1, 0, "b"), vf(2, 1)), (vf(0, 1), vf(1, 1), vf(2, 1))
    resource = Resource(name="a/b", types=("t",))
    assert Capacity(Snapshot(none)).of(resource) == {0: 1}
    knowledge = Knowledge().learn(Card("pf", two)).knowledge
    assert Capacity(Snapshot(none), knowledge).of(resource) == {0: 2}
    assert Capacity(Snapshot(two), knowledge).of(resource) == {0: 1}


def test_of_several_types_what_was_seen_to_go_beside_the_first_counts() -> None:
    mtty = MODELS["mtty"]
    resource = Resource(name="a/b", types=("mtty-2", "mtty-1"))
    odd = carrying(mtty, "mtty", mtty_1=1)
    assert Capacity(Snapshot(odd.parents)).of(resource) == {None: 11}
    seen = after(carrying(mtty, "mtty", mtty_1=2, mtty_2=11))
    assert Capacity(Snapshot(odd.parents), seen).of(resource) == {None: 12}
