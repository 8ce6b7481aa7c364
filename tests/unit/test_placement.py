"""Which parent comes next."""

from __future__ import annotations

from deviceplugin.inventory.placement import seated, seats
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


def resource(
    *types: str, placement: Placement = Placement.PACK, parents: ParentSelector | None = None
) -> Resource:
    return Resource(
        name="a/b", types=types or ("small",), placement=placement, parents=parents or ParentSelector()
    )


def order(
    parents: tuple[Parent, ...], what: Resource, numa_node: int | None = None, *, wanted: int = 1
) -> list[str]:
    return [seat.parent for seat in seats(Snapshot(parents), what, numa_node, wanted=wanted)]


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
    assert order(cards, resource(placement=Placement.SPREAD)) == ["b-roomy", "c-empty", "a-half"]


def test_packing_prefers_a_card_that_carries_the_same_type() -> None:
    cards = (parent("other", small=4, holds=("large",) * 3), parent("same", small=4, holds=("small",)))
    assert order(cards, resource()) == ["same", "other"]


def test_packing_puts_all_of_a_request_on_one_card_that_holds_them() -> None:
    cards = (parent("tight", small=1, holds=("small",) * 7), parent("wide", small=8))
    assert order(cards, resource(), wanted=2) == ["wide", "tight"]


def test_a_slot_is_made_on_its_numa_node_even_on_an_emptier_card() -> None:
    cards = (parent("near", numa=1, small=8), parent("far", numa=0, small=1, holds=("small",) * 7))
    assert order(cards, resource(), numa_node=1) == ["near", "far"]


def test_a_seat_says_whether_it_is_on_the_slots_numa_node() -> None:
    cards = (
        parent("near", numa=1, small=1),
        parent("far", numa=0, small=1),
        parent("none", numa=None, small=1),
    )
    found = {seat.parent: seat.aligned for seat in seats(Snapshot(cards), resource(), 1)}
    assert found == {"near": True, "far": False, "none": False}


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
    ranked = seats(Snapshot(cards), resource("first", "second"), None)
    assert [(seat.parent, seat.type) for seat in ranked] == [("b", "first"), ("a", "second")]


def test_a_type_that_all_of_a_request_can_have_comes_before_the_preferred_one() -> None:
    cards = (parent("a", first=1, second=4),)
    ranked = seats(Snapshot(cards), resource("first", "second"), None, wanted=2)
    assert [seat.type for seat in ranked] == ["second", "first"]


def test_parents_that_the_selector_leaves_out_are_never_asked() -> None:
    cards = (parent("a", small=4), parent("b", small=4))
    assert order(cards, resource(parents=ParentSelector(addresses=("b",)))) == ["b"]


def test_of_equal_places_the_lower_address_comes_first_every_time() -> None:
    cards = tuple(parent(f"vf{n}", card="pf", small=1) for n in range(4))
    assert order(cards, resource()) == ["vf0", "vf1", "vf2", "vf3"]


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


def test_a_seat_that_was_taken_counts_until_the_kernel_is_asked() -> None:
    before = Snapshot((parent("a", small=1), parent("b", small=2)))
    (seat, *_) = seats(before, resource(), None)
    after = seated(before, seat, "new")
    assert after.devices["new"].parent == seat.parent == "a"
    assert [entry.parent for entry in seats(after, resource(), None)] == ["b"]
    assert before.devices == {}


def test_a_count_never_falls_below_zero() -> None:
    before = Snapshot((parent("a", small=1),))
    (seat,) = seats(before, resource(), None)
    twice = seated(seated(before, seat, "one"), seat, "two")
    entry = twice.by_address["a"].type("small")
    assert entry is not None
    assert entry.available == 0
