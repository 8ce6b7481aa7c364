"""Whatever comes as a device ID: it is one of those that were offered, or refused with one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.allocation import Allocation
from deviceplugin.errors import AllocationError
from deviceplugin.host.kernel import LinuxKernel
from deviceplugin.host.paths import HostPaths
from deviceplugin.inventory import slots
from deviceplugin.inventory.preference import preferred
from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.slots import MAX_NUMA_NODE, MAX_SLOTS, NodeMark, SlotId, resource_hash
from deviceplugin.ledger import Ledger
from tests import parts
from tests.fuzz.examples import fuzzed, texts

RESOURCE = Resource(name="vfio.dev/a", types=("a",))
HASH = resource_hash("n", RESOURCE.name)
OFFERED = tuple(str(SlotId(None, index, HASH)) for index in range(4))
ids = st.one_of(
    st.sampled_from(OFFERED),
    st.sampled_from(OFFERED).map(str.upper),
    st.builds(
        str, st.builds(SlotId, st.integers(0, MAX_NUMA_NODE), st.integers(0, MAX_SLOTS - 1), st.just(HASH))
    ),
    st.builds(
        lambda text, place, piece: text[:place] + piece + text[place + 1 :],
        st.sampled_from(OFFERED),
        st.integers(0, 36),
        texts,
    ),
    st.uuids().map(str),
    texts,
)


@pytest.fixture(scope="module")
def allocation() -> Allocation:
    async def remembers_nothing(_uuid: str) -> tuple[frozenset[str], ...]:
        return ()

    return parts.allocation(
        parts.node(LinuxKernel(HostPaths(Path("/nonexistent")))),
        Ledger(lambda: 0.0),
        mark=NodeMark.of("n"),
        offered=lambda _resource, uuid: uuid in OFFERED,
        remembered=remembers_nothing,
    )


@fuzzed
@given(ids)
def test_what_is_taken_for_an_id_is_one(text: str) -> None:
    slot = slots.parse(text)
    assert slot is None or str(slot) == text
    assert slots.bears_mark(text) == (slot is not None)
    if slots.is_uuid(text):
        assert len(text) == 36
        assert not set(text) - set("0123456789abcdef-")


@fuzzed
@given(st.lists(ids, max_size=5))
def test_a_request_is_for_devices_that_were_offered(allocation: Allocation, wanted: list[str]) -> None:
    try:
        checked = allocation._checked(RESOURCE, wanted)
    except AllocationError as error:
        assert str(error).startswith("vfio.dev/a: ")
        assert str(error).isprintable()
        assert len(str(error)) < 500
        assert not wanted or len(set(wanted)) < len(wanted) or set(wanted) - set(OFFERED)
    else:
        assert sorted(checked) == sorted(wanted)
        assert set(checked) <= set(OFFERED)


@fuzzed
@given(st.lists(ids, max_size=6), st.lists(ids, max_size=3), st.integers(-5, 2**31 - 1))
def test_a_preference_is_among_what_was_offered(available: list[str], required: list[str], size: int) -> None:
    chosen = preferred(available, required, size, existing=OFFERED[:2], fresh=set(OFFERED[:1]))
    assert set(chosen) <= {*available, *required}
    assert len(set(chosen)) == len(chosen)
    assert len(chosen) <= max(size, len(set(required)))
