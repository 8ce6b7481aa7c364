"""What a resource advertises: slots that never vanish, and which of them are Healthy."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from deviceplugin.inventory import slots
from deviceplugin.inventory.capacity import Capacity
from deviceplugin.inventory.offer import Offer, offer
from deviceplugin.inventory.resources import DEFAULT_CAP, Resource
from deviceplugin.inventory.slots import MAX_SLOTS, SlotId
from deviceplugin.inventory.snapshot import Device, Parent, ParentType, Snapshot

NODE = "worker-1"
SERIAL = Resource(name="vfio.dev/serial", types=("serial",))


def slot(index: int, numa: int | None = None, resource: str = SERIAL.name) -> str:
    return str(SlotId(numa, index, slots.resource_hash(NODE, resource)))


def parent(room: int, *devices: str, numa: int | None = None) -> Parent:
    address = f"card{numa}"
    carried = tuple(Device(uuid, "serial", address, 1) for uuid in sorted(devices))
    kinds = (ParentType("serial", "", "vfio-pci", "", room),)
    return Parent(address, address, "serial", numa, None, kinds, carried)


def offered(
    *parents: Parent,
    resource: Resource = SERIAL,
    listed: tuple[str, ...] = (),
    held: tuple[str, ...] | Mapping[str, Collection[int]] = (),
    pulled: tuple[str, ...] = (),
    stuck: tuple[str, ...] = (),
    adopted: Mapping[str, int | None] | None = None,
) -> Offer:
    return offer(
        Capacity(Snapshot(parents)),
        resource,
        node_name=NODE,
        listed=listed,
        held=dict.fromkeys(held, ()) if isinstance(held, tuple) else held,
        pulled=pulled,
        stuck=stuck,
        adopted=adopted or {},
    )


def healthy(made: Offer) -> list[str]:
    return [entry.id for entry in made.slots if entry.healthy]


def test_a_resource_offers_what_can_be_made() -> None:
    assert healthy(offered(parent(3))) == [slot(0), slot(1), slot(2)]


def test_a_restarted_agent_offers_the_very_same_ids() -> None:
    assert offered(parent(3)) == offered(parent(3))


def test_what_exists_is_healthy_though_nothing_more_fits() -> None:
    assert healthy(offered(parent(0, slot(7)))) == [slot(7)]


def test_a_slot_that_lost_its_room_turns_unhealthy_and_stays() -> None:
    made = offered(parent(1), listed=(slot(0), slot(1), slot(2)))
    assert [(entry.id, entry.healthy) for entry in made.slots] == [
        (slot(0), True),
        (slot(1), False),
        (slot(2), False),
    ]


def test_a_resource_whose_parents_vanished_keeps_its_list_with_nothing_healthy() -> None:
    made = offered(listed=(slot(0), slot(1)))
    assert (len(made.slots), made.healthy) == (2, 0)


def test_free_slots_turn_healthy_lowest_index_first() -> None:
    assert healthy(offered(parent(2, slot(0), slot(2)))) == [slot(0), slot(1), slot(2), slot(3)]


def test_after_a_reboot_the_slots_of_pods_are_the_first_to_be_healthy() -> None:
    assert healthy(offered(parent(2), held=(slot(9),))) == [slot(0), slot(9)]
    assert healthy(offered(parent(1), held=(slot(9), slot(5)))) == [slot(5)]


def test_a_slot_that_the_kubelet_names_is_listed_though_there_is_no_room() -> None:
    made = offered(parent(0), held=(slot(9),))
    assert [(entry.id, entry.healthy) for entry in made.slots] == [(slot(9), False)]


def test_slots_of_other_resources_and_nodes_are_not_listed() -> None:
    foreign = (slot(0, resource="vfio.dev/other"), "00000000-0000-4000-8000-000000000000")
    made = offered(parent(1, *foreign))
    assert [entry.id for entry in made.slots] == [slot(0)]


def test_what_the_kubelet_remembers_of_another_plugin_is_listed_whatever_it_looks_like() -> None:
    for other in ("42", "", "nonsense", "0" * 5000, "NVIDIA-GPU/über 1", THEIRS, THEIRS.upper()):
        made = offered(parent(1), held=(other,))
        assert {entry.id: entry.healthy for entry in made.slots} == {slot(0): True, other: False}
        again = offered(parent(1), listed=(other,))
        assert {entry.id: entry.healthy for entry in again.slots} == {slot(0): True, other: False}


def test_another_plugins_device_keeps_the_numa_nodes_that_the_kubelet_knows() -> None:
    held = {"41": frozenset({1}), "42": frozenset({1, 0}), "43": frozenset[int]()}
    made = offered(parent(1, numa=0), parent(1, numa=2), held=held)
    found = {slot.id: (slot.numa_node, *slot.other_numa_nodes) for slot in made.slots if not slot.healthy}
    assert found == {"41": (1,), "42": (0, 1), "43": (0, 2)}, (
        "without any, its pod could not be admitted again"
    )
    assert [slot.numa_node for slot in offered(parent(1), held={"43": ()}).slots] == [None, None]


def test_others_ids_are_listed_as_far_as_they_fit_into_a_message() -> None:
    large = tuple(f"{number:04}" + "x" * 9_996 for number in range(300))
    made = offered(parent(1), held=("\ud800", *large))
    listed = {entry.id for entry in made.slots} - {slot(0)}
    assert listed == set(large[: len(listed)])
    assert 1 << 20 < sum(map(len, listed)) < 2 << 20
    # What was listed once stays, and nothing that comes later takes its place.
    later = offered(parent(1), listed=tuple(listed), held=("0",))
    assert listed <= {entry.id for entry in later.slots}


THEIRS = "00000000-0000-4000-8000-000000000000"


def test_what_somebody_else_made_and_the_kubelet_holds_stays_listed_and_is_given_to_nobody_else() -> None:
    made = offered(parent(0, THEIRS), held=(THEIRS,))
    assert [(entry.id, entry.healthy) for entry in made.slots] == [(THEIRS, False)]


def test_an_adopted_device_is_a_slot_under_its_own_uuid() -> None:
    made = offered(parent(1, THEIRS, numa=1), adopted={THEIRS: 1})
    assert [(entry.id, entry.healthy, entry.numa_node) for entry in made.slots] == [
        (slot(0, 1), True, 1),
        (THEIRS, True, 1),
    ]


def test_an_adopted_device_that_went_or_is_in_use_is_unhealthy_and_stays_listed() -> None:
    assert not healthy(offered(adopted={THEIRS: None}, listed=(THEIRS,)))
    made = offered(parent(0, THEIRS), adopted={THEIRS: None}, stuck=(THEIRS,))
    assert [(entry.id, entry.healthy) for entry in made.slots] == [(THEIRS, False)]


def test_a_quota_bounds_what_is_made_and_not_what_is_adopted() -> None:
    quota = Resource(name=SERIAL.name, types=("serial",), max=0)
    assert healthy(offered(parent(9, THEIRS), resource=quota, adopted={THEIRS: None})) == [THEIRS]


def test_a_quota_per_card_counts_what_each_card_carries_of_the_resource() -> None:
    quota = Resource(name=SERIAL.name, types=("serial",), max_per_card=2)
    made = offered(parent(9, slot(0, 0), THEIRS, numa=0), parent(9, numa=1), resource=quota)
    assert healthy(made) == [slot(0, 0), slot(1, 0), slot(0, 1), slot(1, 1)]


def test_what_the_kubelet_holds_under_another_node_name_is_listed_and_offered_to_nobody() -> None:
    former = str(SlotId(1, 3, slots.resource_hash("former-name", SERIAL.name)))
    for there in (parent(1, former), parent(1)):
        made = offered(there, held=(former,))
        assert [(entry.id, entry.healthy, entry.numa_node) for entry in made.slots] == [
            (slot(0), True, None),
            (former, False, 1),
        ]


def test_what_another_node_made_of_the_same_resource_is_none_of_this_ones() -> None:
    others = str(SlotId(None, 0, slots.resource_hash("another", SERIAL.name)))
    quota = Resource(name=SERIAL.name, types=("serial",), max=2)
    assert [entry.id for entry in offered(parent(9, others), resource=quota).slots] == [slot(0), slot(1)]


def test_each_numa_node_has_slots_of_its_own() -> None:
    made = offered(parent(1), parent(2, numa=0), parent(1, numa=3))
    assert [(entry.id, entry.numa_node) for entry in made.slots] == [
        (slot(0), None),
        (slot(0, 0), 0),
        (slot(1, 0), 0),
        (slot(0, 3), 3),
    ]


def test_a_quota_counts_what_exists() -> None:
    quota = Resource(name=SERIAL.name, types=("serial",), max=2)
    assert healthy(offered(parent(9, slot(5)), resource=quota)) == [slot(0), slot(5)]


def test_a_quota_that_came_too_late_lets_no_device_turn_unhealthy() -> None:
    quota = Resource(name=SERIAL.name, types=("serial",), max=1)
    assert offered(parent(9, slot(0), slot(1), slot(2)), resource=quota).healthy == 3


def test_a_quota_of_nothing_offers_nothing() -> None:
    assert offered(parent(9), resource=Resource(name=SERIAL.name, types=("serial",), max=0)).slots == ()


def test_a_count_that_no_hardware_can_mean_is_capped() -> None:
    assert offered(parent(65536)).healthy == DEFAULT_CAP


def test_there_are_never_more_slots_than_ids() -> None:
    huge = Resource(name=SERIAL.name, types=("serial",), max=MAX_SLOTS)
    assert offered(parent(10**18), resource=huge).healthy == MAX_SLOTS


rooms = st.integers(0, 6)
indexes = st.sets(st.integers(0, 8), max_size=4)
numas = st.sampled_from([None, 0, 1])
ids = st.sets(st.builds(slot, st.integers(0, 9), numas), max_size=6)


@st.composite
def nodes(draw: st.DrawFn) -> tuple[Parent, ...]:
    wanted = draw(st.lists(numas, unique=True, max_size=3))
    return tuple(
        parent(draw(rooms), *(slot(index, numa) for index in draw(indexes)), numa=numa) for numa in wanted
    )


@given(st.lists(st.tuples(nodes(), ids, st.none() | st.integers(0, 12)), min_size=1, max_size=5))
@settings(deadline=None)
def test_whatever_happens_to_a_node_its_list_is_one_that_a_kubelet_survives(
    moments: list[tuple[tuple[Parent, ...], set[str], int | None]],
) -> None:
    listed: set[str] = set()
    for parents, held, quota in moments:
        resource = Resource(name=SERIAL.name, types=("serial",), max=quota)
        made = offered(*parents, resource=resource, listed=tuple(listed), held=tuple(held))
        now = [entry.id for entry in made.slots]
        assert len(now) == len(set(now))
        assert listed <= set(now)
        existing = {device.uuid for entry in parents for device in entry.devices}
        up = set(healthy(made))
        assert existing <= up
        room = sum(entry.types[0].available for entry in parents)
        cap = resource.cap
        assert len(up - existing) == max(0, min(room, cap - len(existing)))
        # A pod's slot goes before one that nobody has, as far as there is room on its NUMA node.
        for entry in parents:
            mine = {
                text
                for text in held - existing
                if (s := slots.parse(text)) and s.numa_node == entry.numa_node
            }
            free = {
                text for text in up - existing if (s := slots.parse(text)) and s.numa_node == entry.numa_node
            }
            assert mine <= up or free <= mine
        listed.update(now)


def test_a_slot_whose_device_vanished_under_its_pod_is_unhealthy_though_there_is_room() -> None:
    listed = (slot(0), slot(1))
    made = offered(parent(2), listed=listed, held=(slot(0),), pulled=(slot(0),))
    assert healthy(made) == [slot(1), slot(2)]
    assert [entry.id for entry in made.slots] == [slot(0), slot(1), slot(2)]


def test_a_device_that_came_back_is_healthy_again() -> None:
    assert healthy(offered(parent(0, slot(0)), listed=(slot(0),), pulled=(slot(0),))) == [slot(0)]


def test_a_device_that_something_holds_beyond_its_pod_is_unhealthy_and_stays_listed() -> None:
    made = offered(parent(1, slot(0)), stuck=(slot(0),))
    assert healthy(made) == [slot(1)]
    assert [entry.id for entry in made.slots] == [slot(0), slot(1)]
