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
from deviceplugin.inventory.slots import MAX_SLOTS, NodeMark, SlotId

_MAX_OTHERS = 2 << 20
"""Bytes of a list that others' IDs may take; a kubelet takes 4 MiB, and as many slots as there can be of our
own don't need the other half."""
_LINE = 32
"""Bytes that a line takes beside its ID, and a few more."""
_NONE_HELD: Mapping[str, Collection[int]] = MappingProxyType({})
_NONE: Mapping[str, int | None] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class OfferedSlot:
    """A line of the list that the kubelet gets."""

    id: str
    healthy: bool
    numa_node: int | None
    other_numa_nodes: tuple[int, ...] = ()
    """More of them; only what another plugin listed can have several."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What one resource advertises: its own slots by NUMA node and index, then all others by ID."""

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
    held: Mapping[str, Collection[int]] = _NONE_HELD,
    pulled: Collection[str] = (),
    stuck: Collection[str] = (),
    adopted: Mapping[str, int | None] = _NONE,
) -> Offer:
    """What a resource advertises on this node.

    Args:
        listed: the IDs that were advertised before, which stay.
        held: the IDs of this resource that the kubelet has given to containers, with the NUMA nodes that it
            knows of them. Those that bear this node's mark are the first to be Healthy: after a reboot
            their devices are gone, and only a Healthy one is given back to its pod. All others are listed
            whatever they look like, and Unhealthy unless adopted.
        pulled: the IDs whose device vanished under a running pod. They stay Unhealthy, whatever room
            there is: that is how the pod's status comes to show it.
        stuck: the IDs whose device exists and can't be had, since something holds it that no pod knows of.
        adopted: the devices that somebody else made and that are offered as they are, with their NUMA nodes.
            What was listed of such stays listed, and so does what the kubelet holds.
    """
    own = slots.resource_hash(node_name, resource.name)
    mark = NodeMark.of(node_name)
    remembered, before = _slots(mark, held), _slots(mark, listed)
    existing = {
        slot
        for slot in _slots(mark, capacity.snapshot.devices)
        if slot.resource_hash == own or slot in remembered or slot in before
    }
    healthy, lost = existing - _slots(mark, stuck), _slots(mark, pulled) - existing
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
    before_others = {text for text in listed if not mark.is_ours(text)}
    new_others = {text for text in held if not mark.is_ours(text)} - before_others
    known = _that_fit((*sorted(before_others), *sorted(new_others)))
    return Offer(resource.name, (*own_slots, *_others(capacity, adopted, known, held, stuck)))


def _others(
    capacity: Capacity,
    adopted: Mapping[str, int | None],
    known: Collection[str],
    held: Mapping[str, Collection[int]],
    stuck: Collection[str],
) -> Iterator[OfferedSlot]:
    """The slots of devices that others made, by ID: those that are adopted are offered, no others.

    A kubelet that admits a pod again aligns it with the NUMA nodes of its devices. One that was listed
    without them, beside slots that have them, is listed with all: else its pod could not be admitted.
    """
    devices = capacity.snapshot.devices
    everywhere = {parent.numa_node for parent in capacity.snapshot.parents if parent.numa_node is not None}
    for uuid in sorted({*known, *adopted}):
        there = uuid in adopted and uuid in devices and devices[uuid].group is not None
        if uuid in adopted:
            yield OfferedSlot(uuid, there and uuid not in stuck, adopted[uuid])
            continue
        slot = slots.parse(uuid)
        own = {slot.numa_node} if slot is not None and slot.numa_node is not None else everywhere
        numa_nodes = sorted(held.get(uuid) or own)
        yield OfferedSlot(uuid, False, next(iter(numa_nodes), None), tuple(numa_nodes[1:]))


def _that_fit(ids: Iterable[str]) -> list[str]:
    """So many IDs of others that a list with them fits into a message."""
    fit, room = [], _MAX_OTHERS
    for text in ids:
        try:
            room -= len(text.encode()) + _LINE
        except UnicodeEncodeError:
            continue  # No plugin can have listed it.
        if room < 0:
            break
        fit.append(text)
    return fit


def _slots(mark: NodeMark, ids: Iterable[str]) -> set[SlotId]:
    """Those of the IDs that bear this node's mark."""
    return {slot for text in ids if (slot := slots.parse(text)) is not None and slot.node == mark.bits}


def _order(numa_node: int | None) -> int:
    return -1 if numa_node is None else numa_node
