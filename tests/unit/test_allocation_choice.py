"""Which devices the kubelet is asked to choose."""

from __future__ import annotations

from collections.abc import Collection
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deviceplugin.inventory import slots
from deviceplugin.inventory.slots import NodeMark, SlotId
from deviceplugin.inventory.snapshot import Device, Parent, Snapshot
from deviceplugin.ledger import Ledger
from deviceplugin.simulator.node.description import load
from deviceplugin.simulator.node.kernel import SimulatedKernel
from tests import parts

HASH = slots.resource_hash("worker-1", "vfio.dev/mtty-1")


def slot(index: int, numa: int | None = None) -> str:
    return str(SlotId(numa, index, HASH))


def numa_of(text: str) -> int | None:
    parsed = slots.parse(text)
    return None if parsed is None else parsed.numa_node


async def _no_memory(_uuid: str) -> Collection[frozenset[str]]:
    return ()


class Chooser:
    """An allocation on a node with devices, of which some were never used."""

    def __init__(self, kernel: SimulatedKernel) -> None:
        self.node = parts.node(kernel)
        self.set(used=(), fresh=())

    def set(self, *, used: Collection[str] = (), fresh: Collection[str] = ()) -> None:
        devices = tuple(Device(uuid, "mtty-1", "mtty", 1) for uuid in sorted({*used, *fresh}))
        self.node.snapshot = Snapshot((Parent("mtty", "mtty", "mtty", None, None, (), devices),))
        ledger = Ledger(lambda: 0.0)
        for uuid in fresh:
            ledger.made(uuid)
        self.allocation = parts.allocation(
            self.node,
            ledger,
            mark=NodeMark.of("worker-1"),
            offered=lambda _resource, _uuid: True,
            remembered=_no_memory,
        )

    def __call__(self, available: Collection[str], size: int, *, required: Collection[str] = ()) -> list[str]:
        return list(self.allocation.prefer(list(available), list(required), size))


@pytest.fixture(scope="module")
def choose(tmp_path_factory: pytest.TempPathFactory) -> Chooser:
    directory: Path = tmp_path_factory.mktemp("choice")
    return Chooser(SimulatedKernel.build(directory / "node", load("samples")))


def test_a_device_that_exists_and_was_never_used_comes_first(choose: Chooser) -> None:
    choose.set(used=[slot(0)], fresh=[slot(5)])
    assert choose([slot(n) for n in range(8)], 1) == [slot(5)]


def test_a_slot_without_a_device_comes_before_one_whose_device_was_used(choose: Chooser) -> None:
    choose.set(used=[slot(0), slot(1)])
    assert choose([slot(n) for n in range(4)], 2) == [slot(2), slot(3)]
    assert choose([slot(0), slot(1)], 1) == [slot(0)]


def test_the_devices_of_a_request_come_from_one_numa_node_where_it_has_enough(choose: Chooser) -> None:
    choose.set()
    available = [slot(0, 0), slot(0, 1), slot(1, 1), slot(2, 1)]
    assert choose(available, 3) == [slot(0, 1), slot(1, 1), slot(2, 1)]


def test_what_the_kubelet_requires_decides_on_the_numa_node(choose: Chooser) -> None:
    choose.set()
    available = [slot(n, numa) for numa in (0, 1) for n in range(3)]
    assert choose(available, 2, required=[slot(2, 1)]) == [slot(2, 1), slot(0, 1)]


def test_a_request_that_no_numa_node_can_meet_alone_is_met_by_as_few_as_possible(choose: Chooser) -> None:
    choose.set()
    available = [
        *(slot(n, 0) for n in range(3)),
        *(slot(n, 1) for n in range(4, 6)),
        *(slot(n, 2) for n in range(6, 8)),
        slot(0, 3),
    ]
    assert len({numa_of(uuid) for uuid in choose(available, 5)}) == 2


@pytest.mark.parametrize("size", [-5, 0, 1, 100, 2**31 - 1])
def test_no_request_however_odd_fails(choose: Chooser, size: int) -> None:
    choose.set(used=[slot(0)])
    odd = ["", "nonsense", "x" * 10_000, "\ud800", slot(0), slot(0), slot(1)]
    for available in (odd, []):
        for required in (odd, [], ["only required"]):
            chosen = choose(available, size, required=required)
            assert set(required) <= set(chosen) <= {*available, *required}
            assert len(chosen) == len(set(chosen))


some_slots = st.sets(st.builds(slot, st.integers(0, 5), st.sampled_from([None, 0, 1])), max_size=9)


@given(some_slots, some_slots, some_slots, st.integers(0, 8), st.randoms())
@settings(max_examples=300, deadline=None)
def test_a_choice_is_the_best_there_is_and_does_not_depend_on_the_order(
    choose: Chooser,
    available: set[str],
    used: set[str],
    fresh: set[str],
    size: int,
    random: st.random_module,  # type: ignore[valid-type]
) -> None:
    choose.set(used=used - fresh, fresh=fresh)
    in_some_order = sorted(available)
    random.shuffle(in_some_order)  # type: ignore[attr-defined]
    chosen = choose(in_some_order, size)
    assert chosen == choose(sorted(available), size)
    assert len(chosen) == min(size, len(available))
    assert set(chosen) <= available
    # As many never-used devices as can be had, and then as few NUMA nodes as these allow.
    most = min(size, len(fresh & available))
    assert len(fresh & set(chosen)) == most
    fewest = min(
        (
            len({numa_of(uuid) for uuid in others})
            for others in combinations(sorted(available), len(chosen))
            if len(fresh & set(others)) == most
        ),
        default=0,
    )
    assert len({numa_of(uuid) for uuid in chosen}) == fewest
