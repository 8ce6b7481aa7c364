"""What each resource advertises: its slots, and which of them are Healthy.

While an agent lives a resource's list only grows, since a kubelet may crash when an ID disappears; what
can't be had now is Unhealthy instead.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from deviceplugin.inventory import slots
from deviceplugin.inventory.capacity import Capacity
from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.slots import MAX_SLOTS, SlotId

_NONE: Mapping[str, int | None] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class OfferedSlot:
    """A line of the list that the kubelet gets."""

    id: str
    healthy: bool
    numa_node: int | None


@dataclass(frozen=True, slots=True)
class Offer:
    """What one resource advertises: its own slots by NUMA node and index, then what it adopted by ID."""

    resource: str
    slots: tuple[OfferedSlot, ...] = ()

    @property
    def healthy(self) -> int:
        return sum(slot.healthy for slot in self.slots)


def offer(
    capacity: Capacity,
    resource: Resource,
    *,
    node_name: str,
    listed: Iterable[str] = (),
    held: Collection[str] = (),
    pulled: Collection[str] = (),
    stuck: Collection[str] = (),
    adopted: Mapping[str, int | None] = _NONE,
) -> Offer:
    """What a resource advertises on this node.

    Args:
        listed: the IDs that were advertised before, which stay.
        held: the IDs of this resource that the kubelet has given to containers, under whatever node name.
            They are the first to be Healthy: after a reboot their devices are gone, and only a Healthy
            one is given back to its pod.
        pulled: the IDs whose device vanished under a running pod. They stay Unhealthy, whatever room
            there is: that is how the pod's status comes to show it.
        stuck: the IDs whose device exists and can't be had, since something holds it that no pod knows of.
        adopted: the devices that somebody else made and that are offered as they are, with their NUMA nodes.
            What was listed of such stays listed, and so does what the kubelet holds.
    """
    own = slots.resource_hash(node_name, resource.name)
    remembered, before = _slots(held), _slots(listed)
    existing = {
        slot
        for slot in _slots(capacity.snapshot.devices)
        if slot.resource_hash == own or slot in remembered or slot in before
    }
    healthy, lost = existing - _slots(stuck), _slots(pulled) - existing
    spare = max(0, min(resource.cap, MAX_SLOTS) - len(existing))
    fitting = capacity.of(resource, own={str(slot) for slot in existing})
    for node, fits in sorted(fitting.items(), key=lambda entry: _order(entry[0])):
        room = min(fits, spare)
        claimed = sorted(slot for slot in remembered - existing - lost if slot.numa_node == node)[:room]
        healthy.update(claimed)
        index = 0
        fresh = room - len(claimed)
        while fresh > 0 and index < MAX_SLOTS:
            slot = SlotId(node, index, own)
            index += 1
            if slot not in healthy and slot not in lost and slot not in existing:
                healthy.add(slot)
                fresh -= 1
        spare -= room
    every = healthy | existing | remembered | before
    ordered = sorted(every, key=lambda slot: (_order(slot.numa_node), slot.index))
    own_slots = (OfferedSlot(str(slot), slot in healthy, slot.numa_node) for slot in ordered)
    return Offer(resource.name, (*own_slots, *_others(capacity, adopted, (*listed, *held), stuck)))


def _others(
    capacity: Capacity, adopted: Mapping[str, int | None], known: Iterable[str], stuck: Collection[str]
) -> Iterator[OfferedSlot]:
    """The slots of devices that others made, by ID."""
    foreign = {text for text in known if slots.is_uuid(text) and slots.parse(text) is None}
    devices = capacity.snapshot.devices
    for uuid in sorted(foreign.union(adopted)):
        there = uuid in adopted and uuid in devices and devices[uuid].group is not None
        yield OfferedSlot(uuid, there and uuid not in stuck, adopted.get(uuid))


def _slots(ids: Iterable[str]) -> set[SlotId]:
    return {slot for text in ids if (slot := slots.parse(text)) is not None}


def _order(numa_node: int | None) -> int:
    return -1 if numa_node is None else numa_node
