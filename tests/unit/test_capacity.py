"""What fits where: never more than the kernel lets be made, and never less than what exists."""

from __future__ import annotations

import pytest

from deviceplugin.inventory.capacity import Capacity, max_instances
from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.selectors import ParentSelector
from deviceplugin.inventory.snapshot import Device, Parent, ParentType, Snapshot
from deviceplugin.simulator.node.description import load
from deviceplugin.simulator.node.state import State
from deviceplugin.simulator.node.view import view

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
