"""What each resource would offer on a node that is looked at, for every command that tells it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deviceplugin.cli.look import Look
from deviceplugin.inventory.capacity import Capacity
from deviceplugin.inventory.offer import offer
from deviceplugin.inventory.resources import adopted


@dataclass(frozen=True, slots=True)
class NodeCount:
    numa_node: int | None
    devices: int


@dataclass(frozen=True, slots=True)
class Offered:
    """A resource as it would be offered, with the keys of the JSON output."""

    resource: str
    types: tuple[str, ...]
    devices: int
    adopted: int
    """How many of them somebody else made."""
    room: int
    """How many of them do not exist yet."""
    numa_nodes: tuple[NodeCount, ...]


def offered(found: Look, node_name: str) -> Iterator[Offered]:
    """What an agent of that name would offer here, as far as nothing but the node itself matters."""
    capacity = Capacity(found.snapshot)
    others = adopted(found.resources.values(), found.snapshot)
    for name, resource in found.resources.items():
        taken = others.get(name, {})
        now = offer(capacity, resource, node_name=node_name, adopted=taken)
        healthy = [slot for slot in now.slots if slot.healthy]
        nodes = dict.fromkeys(slot.numa_node for slot in healthy)
        yield Offered(
            resource=name,
            types=resource.choices(found.snapshot),
            devices=len(healthy),
            adopted=sum(slot.id in taken for slot in healthy),
            room=sum(slot.id not in found.snapshot.devices for slot in healthy),
            numa_nodes=tuple(
                NodeCount(node, sum(slot.numa_node == node for slot in healthy)) for node in nodes
            ),
        )
