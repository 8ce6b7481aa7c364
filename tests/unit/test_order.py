"""A request under way, and what came of the places that were tried for it."""

from __future__ import annotations

from deviceplugin.inventory.capacity import Capacity
from deviceplugin.inventory.order import Order
from deviceplugin.inventory.placement import Seat
from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.slots import SlotId
from deviceplugin.inventory.snapshot import Parent, ParentType, Snapshot

FIRST, SECOND = (str(SlotId(None, index, 1)) for index in range(2))


def card(address: str, **available: int) -> Parent:
    types = tuple(ParentType(name, "", "vfio-pci", "", count) for name, count in available.items())
    return Parent(address, address, "driver", None, None, types, ())


def order(*cards: Parent, types: tuple[str, ...] = ("large", "small")) -> Order:
    begun = Order(Resource(name="a/b", types=types), [FIRST, SECOND], ())
    begun.go_on(Capacity(Snapshot(cards)))
    return begun


def places(planned: list[tuple[str, Seat]]) -> list[tuple[str, str, str]]:
    return [(uuid, seat.type, seat.parent) for uuid, seat in planned]


def test_a_place_that_refused_is_not_tried_again_while_the_node_is_as_it_was() -> None:
    one = order(card("a", large=1), card("b", large=1), card("c", large=1))
    one.refused(one.plan()[0][1], "EIO")
    assert places(one.plan()) == [(FIRST, "large", "b"), (SECOND, "large", "c")]
    assert one.refusals == {("large", "a")[::-1]: "EIO"}


def test_what_is_made_counts_for_what_is_left() -> None:
    one = order(card("a", large=1), card("b", large=1))
    ((uuid, seat), _) = one.plan()
    one.made(uuid, seat)
    assert one.left == [SECOND]
    assert places(one.plan()) == [(SECOND, "large", "b")]


def test_a_busy_card_is_left_out_and_may_be_used_later() -> None:
    one = order(card("a", large=2), card("b", large=2))
    assert {place[2] for place in places(one.plan(busy=["a"]))} == {"b"}
    assert one.plan(busy=["a", "b"]) == []
    assert {place[2] for place in places(one.plan())} == {"a"}


def functions(address: str, number: int) -> tuple[Parent, ...]:
    kind = ParentType("large", "", "vfio-pci", "max_instance=5", 1)
    return tuple(Parent(f"{address}.{n}", address, "driver", None, None, (kind,), ()) for n in range(number))


def refuse_two(one: Order) -> None:
    for _ in range(2):
        seat = one.plan()[0][1]
        assert seat.card == "a"
        one.refused(seat, "EIO")


def divided(*others: Parent) -> Order:
    begun = Order(Resource(name="a/b", types=("large",)), [FIRST], ())
    begun.go_on(Capacity(Snapshot((*functions("a", 5), *others))))
    return begun


def test_after_two_refusals_of_a_card_another_one_is_tried_first() -> None:
    one = divided(card("b", large=9))
    refuse_two(one)
    on_b = one.plan()[0][1]
    assert on_b.card == "b"
    one.refused(on_b, "EIO")
    # Nothing else has room: the rest of the card, unless time is short.
    assert one.plan()[0][1].card == "a"
    assert one.plan(patient=False) == []


def test_a_card_that_took_a_device_after_all_counts_its_refusals_anew() -> None:
    one = order(*functions("a", 5), card("b", large=1), types=("large",))
    refuse_two(one)
    one.made(FIRST, Seat("a.4", "a", "large", aligned=True))
    assert one.plan()[0][1].card == "a"


def test_a_card_that_refused_lately_is_used_only_if_nothing_else_has_room() -> None:
    one = divided(card("b", large=9))
    assert one.plan(waiting=[("a", "small")])[0][1].card == "a"
    assert one.plan(waiting=[("a", "large")])[0][1].card == "b"
    assert one.plan(waiting=[("a", "large"), ("b", "large")])[0][1].card == "a"
    assert one.plan(waiting=[("a", "large"), ("b", "large")], patient=False) == []


def test_what_refused_is_tried_again_only_if_its_card_moved_or_the_refusal_said_nothing() -> None:
    one = order(card("a", large=2), card("b", large=2), card("c", large=2), types=("large",))
    for name, fleeting in (("a", False), ("b", False), ("c", True)):
        one.refused(Seat(name, name, "large", aligned=True), "E", fleeting=fleeting)
    assert one.plan() == []
    one.go_on(Capacity(Snapshot((card("a", large=2), card("b", large=1), card("c", large=2)))))
    assert {seat.card for _, seat in one._plan((), one._tried)} == {"c"}
    one.refused(Seat("c", "c", "large", aligned=True), "E")
    assert one.plan() == []  # Two, and b takes one.


def test_begun_anew_it_tries_what_stood_in_its_own_way_and_not_what_refused_anyhow() -> None:
    cards = (card("a", large=1, small=2), card("b", large=1))
    one = order(*cards)
    (uuid, on_a), (_, on_b) = one.plan()
    one.made(uuid, on_a)
    one.refused(on_b, "EIO")
    # The kernel still says two small ones, as before the large one was there.
    ((_, small),) = one.plan()
    one.refused(small, "ENOSPC")
    assert one.plan() == []
    one.begin_anew()
    one.go_on(Capacity(Snapshot(cards)))
    assert places(one.plan()) == [(FIRST, "small", "a"), (SECOND, "small", "a")]


def test_what_comes_to_devices_that_are_there_is_of_their_type() -> None:
    begun = Order(Resource(name="a/b", types=("large", "small")), [FIRST], ["small"])
    begun.go_on(Capacity(Snapshot((card("a", large=1, small=1),))))
    assert places(begun.plan()) == [(FIRST, "small", "a")]


def test_begun_anew_it_leaves_out_a_card_that_takes_fewer_of_a_type_than_it_says() -> None:
    cards = (card("a", large=2), card("b", small=2))
    one = order(*cards)
    (uuid, first), (_, second) = one.plan()
    one.made(uuid, first)
    one.refused(second, "EIO")
    one.begin_anew()
    one.go_on(Capacity(Snapshot(cards)))
    assert places(one.plan()) == [(FIRST, "small", "b"), (SECOND, "small", "b")]
