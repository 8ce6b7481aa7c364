"""Where devices go: wherever they can, and there as it is promised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from hypothesis import given

from deviceplugin.inventory.resources import Placement
from tests.properties.model import Card
from tests.properties.nodes import Case, cases, examples
from tests.properties.test_offered import share_one_pool
from tests.properties.world import Request, numa_of, play, rooms


def requests(case: Case) -> Iterator[Request]:
    return (request for _, request in play(case) if request is not None)


def placed(case: Case, *, undisturbed: bool = True) -> Iterator[tuple[Request, Counter[Card], Counter[str]]]:
    """The requests that were served, with the cards and the types that they got."""
    for request in requests(case):
        if request.devices is not None and not (request.late and undisturbed):
            where = Counter(request.before.card_of(device.parent) for device in request.devices)
            yield request, where, Counter(device.type for device in request.devices)


def fewest(rooms: list[int], number: int) -> int:
    """How few cards hold so many devices."""
    return next(n for n in range(len(rooms) + 1) if sum(sorted(rooms, reverse=True)[:n]) >= number)


def plain(card: Card) -> bool:
    """Whether it can be told how much of a type a card takes, before it is tried."""
    return not card.vfs or share_one_pool(card)


def wishing(request: Request) -> tuple[int | None, ...] | int:
    """The NUMA nodes that all devices of a request can be had on; how many they are where they can't."""
    possible = request.before.can_serve(request.asked, request.resource.name, request.wishes)
    return request.wishes if possible else len(request.ids)


@given(case=cases())
@examples(500)
def test_no_request_fails_that_any_order_of_creates_could_serve(case: Case) -> None:
    for request in requests(case):
        if len(request.ids) > 1 and len(request.ids) > request.healthy:
            continue  # Somebody was quicker, and more is asked for than was left.
        each = [None] if request.resource.mixed else [[type_id] for type_id in request.asked.types]
        possible = any(
            request.before.can_serve(request.asked, request.resource.name, len(request.ids), types)
            for types in each
        )
        assert (request.devices is not None) == possible, request.error


@given(case=cases())
@examples(300)
def test_selectors_quotas_and_the_rule_of_one_type_hold(case: Case) -> None:
    for request, where, types in placed(case, undisturbed=False):
        resource, node = request.resource, request.before
        assert request.devices is not None
        assert all(device.parent in request.asked.parents for device in request.devices)
        assert set(types) <= set(request.asked.types)
        assert resource.mixed or len(types) == 1
        if resource.max_per_card is not None:
            for card, number in where.items():
                own = sum(node.owner.get(device.uuid) == resource.name for device in node.on(card))
                assert own + number <= resource.max_per_card


@given(case=cases())
@examples(300)
def test_devices_are_on_their_slots_nodes_where_these_have_room_for_them(case: Case) -> None:
    for request, _, types in placed(case):
        name, node = request.resource.name, request.before
        if not all(map(plain, node.cards)) and len(request.ids) > 1:
            continue
        only = None if request.resource.mixed else list(types)
        if node.can_serve(request.asked, name, request.wishes, only):
            for uuid, device in zip(request.ids, request.devices or (), strict=True):
                assert node.card_of(device.parent).numa_node == numa_of(uuid)


@given(case=cases())
@examples(400)
def test_the_first_type_that_has_room_for_all_is_what_all_become(case: Case) -> None:
    for request, _, types in placed(case):
        if not all(map(plain, request.before.cards)) and len(request.ids) > 1:
            continue
        wish = wishing(request)
        if not request.resource.mixed:
            wish = request.wishes
        for type_id in request.asked.types:
            if request.before.can_serve(request.asked, request.resource.name, wish, [type_id]):
                assert set(types) == {type_id}
                break


@given(case=cases())
@examples(500)
def test_packing_fills_cards_that_are_begun_and_as_few_as_possible(case: Case) -> None:
    for request, where, room, number in of_one_type(case, Placement.PACK):
        begun = [card for card in room if request.before.load(card)]
        assert len(where) == fewest(list(room.values()), number)
        if len(where) == 1:
            (card,) = where
            if any(room[other] >= number for other in begun):
                assert card in begun
            if len(card.types) == 1:
                alike = [other for other in room if same_kind(other, card) and room[other] >= number]
                load = {other: request.before.load(other).total() for other in alike}
                assert load[card] == max(load.values())


@given(case=cases())
@examples(500)
def test_spreading_takes_different_cards_and_the_emptiest(case: Case) -> None:
    for request, where, room, number in of_one_type(case, Placement.SPREAD):
        load = {card: request.before.load(card).total() for card in room}
        assert len(where) == min(number, len(room))
        if number == 1:
            (card,) = where
            if not all(load.values()):
                assert not load[card]
            if len(card.types) == 1:
                assert load[card] == min(load[other] for other in room if same_kind(other, card))


def of_one_type(
    case: Case, placement: Placement
) -> Iterator[tuple[Request, Counter[Card], dict[Card, int], int]]:
    """Requests whose devices are of one type and of one NUMA node, with the room that its cards had."""
    for request, where, types in placed(case):
        if request.resource.placement is not placement or len(types) > 1 or len(set(request.wishes)) > 1:
            continue
        (type_id,) = types
        room = rooms(request, type_id)
        if not all(map(plain, room)) and len(request.ids) > 1:
            continue
        aligned = {card: left for card, left in room.items() if card.numa_node == request.wishes[0]}
        if sum(aligned.values()) >= len(request.ids):
            yield request, where, aligned, len(request.ids)


def same_kind(card: Card, other: Card) -> bool:
    return (card.driver, card.factor, card.vfs) == (other.driver, other.factor, other.vfs)
