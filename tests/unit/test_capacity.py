"""What fits where: never more than the kernel lets be made, and never less than what exists."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deviceplugin.inventory import slots
from deviceplugin.inventory.capacity import Capacity, max_instances
from deviceplugin.inventory.offer import offer
from deviceplugin.inventory.placement import Wish, plan
from deviceplugin.inventory.resources import Placement, Resource
from deviceplugin.inventory.selectors import ParentSelector
from deviceplugin.inventory.slots import SlotId
from deviceplugin.inventory.snapshot import Device, Parent, ParentType, Snapshot
from deviceplugin.simulator.node import state as kernel
from deviceplugin.simulator.node.cards import Card, Model, NodeDescription, TypeDescription
from deviceplugin.simulator.node.description import load
from deviceplugin.simulator.node.state import State
from deviceplugin.simulator.node.view import view

NODE = "worker-1"


def make(node: NodeDescription, state: State, parent: str, type_id: str, uuid: str) -> State | None:
    """The state with one more device, None where the kernel refuses it."""
    try:
        kernel.check_create(node, state, parent=parent, type_id=type_id, uuid=uuid)
    except OSError:
        return None
    return kernel.created(node, state, parent=parent, type_id=type_id, uuid=uuid)


def most(card: Card, state: State, types: frozenset[str], parents: frozenset[str]) -> int:
    """How many devices of some types some parents of a card can carry at the most, by trying all ways."""
    devices = state.on(card.parents)
    free = len(parents - {device.parent for device in devices}) if card.model.vfs else 10**6

    @cache
    def search(carried: frozenset[tuple[str, int]], left: int) -> int:
        if not left:
            return 0
        count = Counter(dict(carried))
        best = 0
        for type_id in types & card.model.offered.keys():
            if kernel.room(card.model, card.model.offered[type_id], count):
                best = max(best, 1 + search(frozenset((count + Counter([type_id])).items()), left - 1))
        return best

    return search(frozenset(Counter(device.type for device in devices).items()), free if parents else 0)


@dataclass(frozen=True)
class Moment:
    """A node at some moment, and somebody who wants devices of it."""

    node: NodeDescription
    state: State
    resource: Resource

    @property
    def snapshot(self) -> Snapshot:
        return view(self.node, self.state)


TYPES = ("t0", "t1", "t2")


@st.composite
def models(draw: st.DrawFn) -> Model:
    pools = {"memory": draw(st.integers(1, 8)), "fences": draw(st.integers(2, 8))}
    types = tuple(
        TypeDescription(
            id=type_id,
            takes={"memory": draw(st.integers(1, pools["memory"])), "fences": draw(st.integers(0, 2))},
            max=draw(st.none() | st.integers(1, 6)),
        )
        for type_id in draw(st.lists(st.sampled_from(TYPES), min_size=1, max_size=3, unique=True))
    )
    return described(
        Model(
            driver="driver",
            types=types,
            bus="pci",
            vfs=draw(st.sampled_from([0, 0, 2, 6])),
            pools=pools,
            mixes=draw(st.sampled_from(["any", "any", "size", "none"])),
        )
    )


def described(model: Model) -> Model:
    """A model whose types say how many of them fill a card."""
    types = tuple(
        replace(kind, description=f"framebuffer=1024M, max_instance={kernel.room(model, kind, Counter())}")
        for kind in model.types
    )
    return replace(model, types=types)


@st.composite
def moments(draw: st.DrawFn) -> Moment:
    cards = []
    for number in range(draw(st.integers(1, 3))):
        model = draw(models())
        address = f"0000:{number:02x}:00.0"
        vfs = tuple(f"0000:{number:02x}:01.{vf}" for vf in range(model.vfs))
        numa = draw(st.sampled_from([None, 0, 1]))
        cards.append(Card(address=address, model=model, numa=numa, parents=vfs or (address,)))
    node = NodeDescription(cards=tuple(cards), first_group=0, source="")
    state = State()
    places = st.tuples(st.sampled_from(sorted(node.card_of)), st.sampled_from(TYPES))
    for number, (address, type_id) in enumerate(draw(st.lists(places, max_size=4))):
        if type_id in node.card_of[address].model.offered:
            foreign = f"00000000-0000-4000-8000-{number:012d}"
            state = make(node, state, address, type_id, foreign) or state
    some = st.lists(st.sampled_from(sorted(node.card_of)), min_size=1, max_size=3, unique=True)
    resource = Resource(
        name="vfio.dev/mixed",
        types=tuple(draw(st.lists(st.sampled_from(TYPES), min_size=1, max_size=3, unique=True))),
        parents=ParentSelector(addresses=tuple(draw(st.just([]) | some))),
        placement=draw(st.sampled_from(list(Placement))),
    )
    return Moment(node, state, resource)


def healthy_free(moment: Moment) -> list[SlotId]:
    now = offer(Capacity(moment.snapshot), moment.resource, node_name=NODE)
    parsed = [slots.parse(slot.id) for slot in now.slots if slot.healthy]
    return [slot for slot in parsed if slot is not None and str(slot) not in moment.snapshot.devices]


@given(moments())
@settings(max_examples=300, deadline=None)
def test_no_numa_node_offers_more_than_can_be_made_on_it(moment: Moment) -> None:
    counted = Counter(slot.numa_node for slot in healthy_free(moment))
    can_be_made: Counter[int | None] = Counter()
    for card in moment.node.cards:
        allowed = frozenset(
            address
            for address in card.parents
            if moment.resource.parents.allows(moment.snapshot.by_address[address])
        )
        can_be_made[card.numa] += most(card, moment.state, frozenset(moment.resource.types), allowed)
    assert counted <= can_be_made


def had(moment: Moment, state: State, wanted: list[SlotId]) -> tuple[State, bool] | None:
    """The state after one Allocate of all of them, made as ``making`` does, and whether each is on its NUMA
    node; None if it fails."""
    aligned, refused = True, set[tuple[str, str]]()
    while wanted:
        wish = Wish(resource=moment.resource, numa_nodes=tuple(slot.numa_node for slot in wanted))
        seats = plan(Capacity(view(moment.node, state)), wish, refused=refused)
        if not seats:
            return None
        for seat in seats:
            after = make(moment.node, state, seat.parent, seat.type, str(wanted[0]))
            if after is None:
                refused.add((seat.parent, seat.type))
                break
            state, wanted, aligned = after, wanted[1:], aligned and seat.aligned
    return state, aligned


@given(moments())
@settings(max_examples=300, deadline=None)
def test_all_that_is_offered_can_be_had_one_by_one_on_its_numa_node(moment: Moment) -> None:
    state = moment.state
    for slot in healthy_free(moment):
        after = had(moment, state, [slot])
        assert after is not None, f"{slot} was Healthy, and no parent takes it"
        state, aligned = after
        assert aligned, f"{slot} was offered for room on its NUMA node, and is made elsewhere"


def steal() -> Moment:
    """A card that both types fit on, where the second type takes the room of several of the first."""
    both = Model(
        driver="driver",
        bus="pci",
        pools={"memory": 6},
        types=(
            TypeDescription(id="t0", takes={"memory": 1}),
            TypeDescription(id="t1", takes={"memory": 2}),
        ),
    )
    one = Model(
        driver="driver",
        bus="pci",
        pools={"memory": 4},
        types=(TypeDescription(id="t1", takes={"memory": 1}),),
    )
    cards = (
        Card(address="0000:00:00.0", model=both, numa=None, parents=("0000:00:00.0",)),
        Card(address="0000:01:00.0", model=one, numa=None, parents=("0000:01:00.0",)),
    )
    node = NodeDescription(cards=cards, first_group=0, source="")
    return Moment(node, State(), Resource(name="vfio.dev/mixed", types=("t0", "t1")))


@given(moments())
@example(steal())
@settings(max_examples=300, deadline=None)
def test_all_that_is_offered_can_be_had_in_one_request(moment: Moment) -> None:
    wanted = healthy_free(moment)
    after = had(moment, moment.state, wanted)
    assert after is not None, f"{len(wanted)} were Healthy, and can't be had together"


@given(moments(), st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_what_a_resource_made_stays_healthy(moment: Moment, number: int) -> None:
    state = moment.state
    for slot in healthy_free(moment)[:number]:
        after = had(moment, state, [slot])
        assert after is not None
        state = after[0]
    later = replace(moment, state=state)
    now = offer(Capacity(later.snapshot), later.resource, node_name=NODE)
    made = {uuid for uuid in state.devices if slots.bears_mark(uuid)}
    assert made <= {slot.id for slot in now.slots if slot.healthy}


# What is known of real cards.


A2_WITH_4_GB_IN_USE = """
742 16 0 / 743 8 0 / 744 16 0 / 745 8 0 / 746 4 1 / 747 2 0 / 748 1 0 / 749 16 0 / 750 8 0 / 751 4 1
/ 752 2 0 / 753 1 0 / 754 4 1 / 755 2 0 / 756 1 0
"""
"""What a virtual function said: type, max_instance, available."""


def a2(in_use: int, *, described: bool = True, vfs: int = 16) -> Snapshot:
    """The A2 of the table, with so many 4 GB devices on it."""
    rows = [row.split() for row in A2_WITH_4_GB_IN_USE.split("/")]
    parents = []
    for vf in range(vfs):
        types = tuple(
            ParentType(
                f"nvidia-{number}",
                "",
                "vfio-pci",
                f"num_heads=4, frl_config=60, framebuffer=4096M, max_instance={limit}" if described else "",
                int(available) if vf >= in_use and in_use < 4 else 0,
            )
            for number, limit, available in rows
        )
        address = f"0000:41:0{vf // 8}.{vf % 8}"
        device = Device(f"00000000-0000-4000-8000-{vf:012d}", "nvidia-746", address, vf)
        parents.append(
            Parent(address, "0000:41:00.0-pf", "nvidia", 0, None, types, (device,) if vf < in_use else ())
        )
    return Snapshot(tuple(parents))


def room(snapshot: Snapshot, type_id: str) -> int:
    """What the node's only card surely takes of a type."""
    capacity = Capacity(snapshot)
    (card,) = capacity.cards
    return capacity.room(card, type_id)


@pytest.mark.parametrize("in_use", [1, 2, 3, 4])
def test_the_virtual_functions_of_an_a2_do_not_add_up(in_use: int) -> None:
    rooms = {number: room(a2(in_use), f"nvidia-{number}") for number in range(742, 757)}
    assert rooms == {number: 4 - in_use if number in {746, 751, 754} else 0 for number in range(742, 757)}


def test_of_an_a2_that_does_not_say_how_many_fit_one_more_is_offered() -> None:
    assert room(a2(1, described=False), "nvidia-746") == 1


def test_a_card_has_no_more_room_than_virtual_functions_that_say_so() -> None:
    assert room(a2(1, vfs=3), "nvidia-746") == 2


@pytest.mark.parametrize(
    ("name", "type_id", "fits"),
    [
        ("samples", "mtty-1", 24),
        ("samples", "mtty-2", 12),
        ("samples", "mbochs-small", 64),
        ("samples", "mbochs-large", 4),
        ("nvidia-a2", "nvidia-742", 16),
        ("nvidia-a2", "nvidia-746", 4),
        ("nvidia-a2", "nvidia-748", 1),
        ("nvidia-t4", "nvidia-230", 32),
        ("nvidia-t4", "nvidia-234", 2),
        ("s390", "vfio_ccw-io", 200),
        ("s390", "vfio_ap-passthrough", 65536),
    ],
)
def test_an_empty_node_has_the_room_of_its_data_sheet(name: str, type_id: str, fits: int) -> None:
    capacity = Capacity(view(load(name), State()))
    assert sum(capacity.of(Resource(name="a/b", types=(type_id,))).values()) == fits


@pytest.mark.parametrize(
    ("description", "limit"),
    [
        ("num_heads=4, max_instance=4", 4),
        ("max_instance=16\n", 16),
        ("max_instance=0", None),
        ("max_instance=", None),
        ("max_instance=-1", None),
        ("max_instance=9999999999", None),
        ("max_instance=\u0664", None),
        ("weight: 4", None),
        ("", None),
    ],
)
def test_how_many_fill_a_card_is_taken_from_a_description_that_says_it(
    description: str, limit: int | None
) -> None:
    assert max_instances(ParentType("t", "", "", description, 1)) == limit


def test_a_type_that_no_parent_has_limits_nothing() -> None:
    assert max_instances(None) is None


def test_a_card_that_gave_some_types_room_away_has_none_of_a_type_it_never_had() -> None:
    assert room(a2(0), "nvidia-1") == 0


def test_a_resource_bound_to_some_virtual_functions_has_the_room_of_these() -> None:
    resource = Resource(
        name="a/b", types=("nvidia-746",), parents=ParentSelector(addresses=("0000:41:00.2", "0000:41:00.3"))
    )
    assert Capacity(a2(1)).of(resource) == {0: 2}


def test_a_card_that_no_selector_allows_does_not_count() -> None:
    resource = Resource(name="a/b", types=("nvidia-746",), parents=ParentSelector(numa_nodes=(1,)))
    assert Capacity(a2(1)).of(resource) == {}
