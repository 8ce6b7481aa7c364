"""Where the devices of a request go."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from deviceplugin.inventory.capacity import Capacity
from deviceplugin.inventory.cards import Card
from deviceplugin.inventory.placement import Seat, Wish, plan
from deviceplugin.inventory.pools import Knowledge
from deviceplugin.inventory.resources import Placement, Resource
from deviceplugin.inventory.selectors import ParentSelector
from deviceplugin.inventory.snapshot import Device, Parent, ParentType, Snapshot


def parent(
    address: str,
    *,
    numa: int | None = 0,
    card: str | None = None,
    holds: tuple[str, ...] = (),
    **available: int,
) -> Parent:
    """A parent with so many available of each type and devices of the types that it holds."""
    types = tuple(ParentType(name, "", "vfio-pci", "", count) for name, count in available.items())
    devices = tuple(Device(f"{address}-{n}", name, address, n) for n, name in enumerate(holds))
    return Parent(address, card or address, "driver", numa, None, types, devices)


def resource(*types: str, **more: object) -> Resource:
    return replace(Resource(name="a/b", types=types or ("small",)), **more)  # type: ignore[arg-type]


def seats(
    parents: tuple[Parent, ...], what: Resource, *numa_nodes: int | None, **more: object
) -> tuple[Seat, ...]:
    """The seats of one request, for a slot on each of these NUMA nodes."""
    wish = Wish(resource=what, numa_nodes=numa_nodes or (0,))
    return plan(Capacity(Snapshot(parents)), wish, **more)  # type: ignore[arg-type]


def order(parents: tuple[Parent, ...], what: Resource, numa_node: int | None = 0) -> list[str]:
    """The parents in the order in which they are tried, each refusing."""
    refused: set[tuple[str, str]] = set()
    found = []
    while chosen := seats(parents, what, numa_node, refused=refused):
        found.append(chosen[0].parent)
        refused.add((chosen[0].parent, chosen[0].type))
    return found


def places(parents: tuple[Parent, ...], what: Resource, number: int) -> list[str]:
    """The parents of one request's devices, all with slots on NUMA node 0."""
    return [seat.parent for seat in seats(parents, what, *[0] * number)]


SPREAD = {"placement": Placement.SPREAD}


def test_packing_fills_the_fullest_card_that_still_has_room() -> None:
    cards = (
        parent("empty", small=8),
        parent("half", small=4, holds=("small",) * 4),
        parent("nearly", small=1, holds=("small",) * 7),
        parent("full", small=0, holds=("small",) * 8),
    )
    assert order(cards, resource()) == ["nearly", "half", "empty"]


def test_spreading_takes_the_emptiest_card_first() -> None:
    cards = (
        parent("a-half", small=4, holds=("small",) * 4),
        parent("b-roomy", small=16),
        parent("c-empty", small=8),
    )
    assert order(cards, resource(**SPREAD)) == ["b-roomy", "c-empty", "a-half"]


def test_packing_prefers_a_card_that_carries_the_same_type() -> None:
    cards = (parent("other", small=4, holds=("large",) * 3), parent("same", small=4, holds=("small",)))
    assert order(cards, resource()) == ["same", "other"]


def test_packing_puts_all_of_a_request_on_one_card_that_holds_them() -> None:
    cards = (parent("tight", small=1, holds=("small",) * 7), parent("wide", small=8))
    assert places(cards, resource(), 2) == ["wide", "wide"]


def test_packing_takes_as_few_cards_as_a_request_needs() -> None:
    cards = (
        parent("one", small=1, holds=("small",) * 7),
        parent("two", small=2, holds=("small",) * 6),
        parent("three", small=3),
    )
    assert places(cards, resource(), 5) == ["three", "three", "three", "two", "two"]
    assert places(cards, resource(), 4) == ["three", "three", "three", "one"]


def test_spreading_puts_the_devices_of_a_request_on_different_cards() -> None:
    cards = (parent("empty", small=8), parent("busy", small=4, holds=("small",) * 4))
    assert places(cards, resource(**SPREAD), 2) == ["empty", "busy"]
    assert places(cards, resource(**SPREAD), 3) == ["empty", "busy", "empty"]


def test_a_slot_is_made_on_its_numa_node_even_on_an_emptier_card() -> None:
    cards = (parent("near", numa=1, small=8), parent("far", numa=0, small=1, holds=("small",) * 7))
    assert order(cards, resource(), numa_node=1) == ["near", "far"]


def test_a_seat_says_whether_it_is_on_the_slots_numa_node() -> None:
    cards = (
        parent("near", numa=1, small=1),
        parent("far", numa=0, small=1),
        parent("none", numa=None, small=1),
    )
    found = {seat.parent: seat.aligned for seat in seats(cards, resource(), 1, 1, 1)}
    assert found == {"near": True, "far": False, "none": False}


def test_each_slot_of_a_request_is_made_on_its_own_numa_node() -> None:
    cards = (parent("a", numa=0, small=4), parent("b", numa=1, small=4))
    assert [seat.parent for seat in seats(cards, resource(), 1, 0, 1)] == ["b", "a", "b"]


def test_a_full_numa_node_leads_to_the_next_one() -> None:
    cards = (parent("near", numa=1, small=0), parent("far", numa=0, small=1))
    assert order(cards, resource(), numa_node=1) == ["far"]


def test_the_slots_numa_node_counts_more_than_the_preferred_type() -> None:
    # Both slots were offered: one for the room on node 0, of the second choice, and one for that on node 1.
    cards = (parent("a", numa=0, second=1), parent("b", numa=1, first=1))
    assert order(cards, resource("first", "second"), numa_node=0)[0] == "a"


def test_a_slot_without_a_numa_node_leaves_the_room_of_numa_nodes_to_their_slots() -> None:
    cards = (parent("a", numa=0, small=1), parent("b", numa=None, small=1))
    assert order(cards, resource(), numa_node=None)[0] == "b"


def test_the_preferred_type_is_made_while_there_is_room_for_it() -> None:
    cards = (parent("a", first=0, second=4), parent("b", first=1, second=0))
    assert order(cards, resource("first", "second")) == ["b", "a"]


def test_a_type_that_all_of_a_request_can_have_comes_before_the_preferred_one() -> None:
    cards = (parent("a", first=1), parent("b", second=2))
    assert [seat.type for seat in seats(cards, resource("first", "second"), 0, 0)] == ["second", "second"]


def test_a_request_that_no_type_has_room_for_is_met_by_several() -> None:
    cards = (parent("a", first=1), parent("b", second=2))
    found = [seat.type for seat in seats(cards, resource("first", "second"), 0, 0, 0)]
    assert found == ["first", "second", "second"]


def test_several_types_in_one_request_can_be_forbidden() -> None:
    cards = (parent("a", first=1), parent("b", second=2))
    alone = resource("first", "second", mixed=False)
    assert seats(cards, alone, 0, 0, 0) == ()
    assert [seat.type for seat in seats(cards, alone, 0, 0)] == ["second", "second"]


def test_what_comes_to_a_device_that_is_there_is_of_its_type() -> None:
    cards = (parent("a", first=4, second=4),)
    wish = Wish(resource=resource("first", "second"), numa_nodes=(0,), along=frozenset({"second"}))
    (seat,) = plan(Capacity(Snapshot(cards)), wish)
    assert seat.type == "second"


def test_a_first_choice_that_would_leave_the_others_nowhere_is_not_made() -> None:
    # Of "first" only one fits, on the card that carries one type at a time and holds two of "second".
    exclusive = parent("a", first=1, second=2)
    cards = (exclusive, parent("b", third=1))
    found = seats(cards, resource("first", "second", "third"), 0, 0, 0)
    assert sorted(seat.type for seat in found) == ["second", "second", "third"]


def test_parents_that_the_selector_leaves_out_are_never_asked() -> None:
    cards = (parent("a", small=4), parent("b", small=4))
    assert order(cards, resource(parents=ParentSelector(addresses=("b",)))) == ["b"]


def test_a_quota_per_card_sends_the_next_device_to_another_card() -> None:
    cards = (parent("a", small=4, holds=("small",)), parent("b", small=4))
    limited = resource(max_per_card=2)
    assert [seat.parent for seat in seats(cards, limited, 0, 0, 0, own=["a-0"])] == ["b", "b", "a"]
    assert seats(cards, limited, 0, 0, 0, 0, own=["a-0"]) == ()


def test_of_equal_places_the_lower_address_comes_first_every_time() -> None:
    cards = tuple(parent(f"vf{n}", card="pf", small=1) for n in range(4))
    assert order(cards, resource()) == ["vf0", "vf1", "vf2", "vf3"]


def test_each_virtual_function_carries_one_device() -> None:
    cards = tuple(parent(f"vf{n}", card="pf", small=1) for n in range(4))
    assert places(cards, resource(), 4) == ["vf0", "vf1", "vf2", "vf3"]
    assert places(cards, resource(), 5) == []


def test_every_place_that_the_kernel_counts_is_asked_before_a_request_fails() -> None:
    # Its types say that the card is full; the kernel, which is the judge, says that one more fits.
    full = ParentType("large", "", "vfio-pci", "max_instance=1", 0)
    small = ParentType("small", "", "vfio-pci", "max_instance=4", 1)
    cards = (
        Parent("vf0", "pf", "d", 0, None, (full,), (Device("u", "large", "vf0", 1),)),
        Parent("vf1", "pf", "d", 0, None, (full, small), ()),
    )
    assert order(cards, resource()) == ["vf1"]


def test_there_is_no_place_where_no_type_fits() -> None:
    assert order((parent("a", small=4),), resource("large")) == []
    assert order((), resource()) == []


def test_a_seat_says_why_it_was_chosen() -> None:
    cards = (parent("a", small=1, holds=("small",) * 7), parent("b", small=8))
    (seat,) = seats(cards, resource())
    assert seat.reason == "on its slot's NUMA node, pack: a card with 7 devices, the best of 2 places"


def learned(*states: Parent) -> Knowledge:
    knowledge = Knowledge()
    for state in states:
        knowledge = knowledge.learn(Card(state.address, (state,))).knowledge
    return knowledge


def test_of_cards_with_a_known_pool_that_is_taken_which_loses_least_for_the_other_types() -> None:
    # 256 of memory; small takes 4, large 64. On "a" one more small costs the last large, on "b" none.
    knowledge = learned(
        parent("a", small=64, large=4),
        parent("a", small=63, large=3, holds=("small",)),
        parent("a", small=48, large=3, holds=("large",)),
    )
    a = parent("a", small=16, large=1, holds=("large",) * 3)
    b = parent("b", small=31, large=1, holds=("large", "large", *("small",) * 1))
    for address, state in (("b", parent("b", small=64, large=4)), ("a", a), ("b", b)):
        knowledge = knowledge.learn(Card(address, (state,))).knowledge
    capacity = Capacity(Snapshot((a, b)), knowledge)
    (seat,) = plan(capacity, Wish(resource=resource(), numa_nodes=(0,)))
    assert seat.parent == "b"
    assert knowledge.rate(Card("a", (a,)), "large", "small") == Fraction(16)


def test_a_card_that_was_given_up_on_is_not_planned_with() -> None:
    cards = Capacity(Snapshot((parent("a", small=1), parent("b", small=1)))).cards
    (seat,) = seats((parent("a", small=1), parent("b", small=1)), resource(), cards=cards[1:])
    assert seat.parent == "b"
