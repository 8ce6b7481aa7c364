"""Device IDs: what they say, and that nothing else is taken for one."""

from __future__ import annotations

import tracemalloc
import uuid

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deviceplugin.inventory import slots
from deviceplugin.inventory.slots import MAX_NUMA_NODE, MAX_SLOTS, NodeMark, Owner, SlotId

numa_nodes = st.none() | st.integers(0, MAX_NUMA_NODE)
indexes = st.integers(0, MAX_SLOTS - 1)
hashes = st.integers(0, 2**64 - 1)
slot_ids = st.builds(SlotId, numa_nodes, indexes, hashes)
names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=80)


@given(slot_ids)
@example(SlotId(None, 0, 0))
@example(SlotId(MAX_NUMA_NODE, MAX_SLOTS - 1, 2**64 - 1))
def test_an_id_reads_back_as_what_it_stands_for(slot: SlotId) -> None:
    assert slots.parse(str(slot)) == slot


@given(slot_ids)
def test_an_id_is_a_version_8_uuid_that_bears_the_mark(slot: SlotId) -> None:
    text = str(slot)
    parsed = uuid.UUID(text)
    assert str(parsed) == text
    assert (parsed.version, parsed.variant) == (8, uuid.RFC_4122)
    assert bytes.fromhex(text[:8]) == b"mdev"
    assert slots.is_uuid(text)
    assert slots.bears_mark(text)


@given(slot_ids, slot_ids)
def test_different_slots_have_different_ids(one: SlotId, other: SlotId) -> None:
    assert (str(one) == str(other)) == (one == other)


def test_no_two_slots_of_a_node_share_an_id() -> None:
    ids = {
        str(SlotId(node, index, slots.resource_hash("worker-1", resource)))
        for node in (None, 0, 1, MAX_NUMA_NODE)
        for index in (*range(0, MAX_SLOTS, 97), MAX_SLOTS - 1)
        for resource in ("vfio.dev/nvidia-1", "vfio.dev/nvidia-11", "vfio.dev/nvidia-111")
    }
    assert len(ids) == 4 * (len(range(0, MAX_SLOTS, 97)) + 1) * 3


@given(names, names, names, names)
def test_an_id_tells_the_node_and_the_resource_each_for_itself(
    node: str, resource: str, other_node: str, other_resource: str
) -> None:
    one = SlotId(None, 0, slots.resource_hash(node, resource))
    other = SlotId(1, 2, slots.resource_hash(other_node, other_resource))
    assert (one.resource == other.resource) == (resource == other_resource)
    assert (one.node == other.node) == (NodeMark.of(node) == NodeMark.of(other_node))
    assert one.resource == slots.resource_bits(resource)
    if node == other_node:
        assert one.node == other.node


def test_whose_a_device_is_shows_in_its_id() -> None:
    mark = NodeMark.of("worker-1")
    ours = str(SlotId(None, 0, slots.resource_hash("worker-1", "vfio.dev/nvidia-11")))
    others = str(SlotId(None, 0, slots.resource_hash("worker-2", "vfio.dev/nvidia-11")))
    assert (mark.owner(ours), mark.owner(others)) == (Owner.OURS, Owner.OTHER_NODE)
    assert mark.owner(str(uuid.uuid4())) is mark.owner("42") is Owner.FOREIGN
    assert [mark.is_ours(each) for each in (ours, others, str(uuid.uuid4()))] == [True, False, False]
    assert ours[9:13] != others[9:13]
    assert ours[:9] + ours[13:] == others[:9] + others[13:]


def test_ids_never_change_between_versions_of_the_agent() -> None:
    # An agent of another version would take devices in use for slots it does not know.
    slot = SlotId(1, 5, slots.resource_hash("worker-1", "vfio.dev/nvidia-11"))
    assert str(slot) == "6d646576-1302-8002-8005-1e5eacf11f80"


@given(st.text(max_size=60) | st.text(alphabet="0123456789abcdefABCDEF-6d7", min_size=30, max_size=40))
@example("6d646576" * 5000)
@example("6d646576-0000-8000-8000-000000000000\n")
@example("6d646576-0000-8000-8000-00000000000\u0660")
def test_text_is_an_id_only_if_it_is_written_like_one(text: str) -> None:
    slot = slots.parse(text)
    assert slot is None or str(slot) == text


def test_texts_of_any_length_are_not_kept_in_memory() -> None:
    tracemalloc.start()
    try:
        for count in range(50):
            assert slots.parse(f"{slots.MARK}{count}" + "x" * 100_000) is None
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "nothing"),
        ("6D646576-0000-8000-8000-000000000000", "upper case"),
        ("6d646576-0000-4000-8000-000000000000", "version 4"),
        ("6d646576-0000-8000-c000-000000000000", "another variant"),
        ("6d646577-0000-8000-8000-000000000000", "another mark"),
        ("6d646576000080008000000000000000", "without dashes"),
        ("{6d646576-0000-8000-8000-000000000000}", "in braces"),
        ("urn:uuid:6d646576-0000-8000-8000-000000000000", "a URN"),
    ],
)
def test_a_foreign_uuid_is_not_ours(text: str, why: str) -> None:
    assert slots.parse(text) is None, why
    assert not slots.bears_mark(text), why


@given(st.uuids(version=4))
def test_no_random_uuid_is_ever_taken_for_ours(random: uuid.UUID) -> None:
    assert slots.is_uuid(str(random))
    assert not slots.bears_mark(str(random))
