"""Device IDs: the UUID that a slot's device bears once it exists.

::

    6d646576-PPPP-8NNN-VIII-HHHHHHHHHHHH        RFC 9562, UUID version 8

    6d646576   "mdev" in ASCII: the mark of what this plugin makes
    P          16 bits of a hash of the node's name
    N          the slot's NUMA node plus one, 0 for none
    V, I       two variant bits (10) and the slot's index, 14 bits
    H          48 bits of a hash of the resource's name

An ID can be computed from what it stands for and read back without a table, so an agent that starts
anew advertises the same ones, and whoever finds such a UUID in sysfs knows where it comes from. Several
nodes can share one kernel, whose sysfs shows the devices of all: an agent removes what bears the mark and
its own node's bits, and nothing else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

MARK = "6d646576"
MAX_SLOTS = 1 << 14
"""How many slots of one resource one NUMA node can have: the index has 14 bits."""
MAX_NUMA_NODE = 0xFFE

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
_LENGTH = 36
_VARIANT = 0x8000
_RESOURCE_BITS = 48
_REMEMBERED = 1 << 13
"""IDs whose meaning is remembered: each change on the node asks for all of them again."""


@dataclass(frozen=True, slots=True, order=True)
class SlotId:
    """A device ID, taken apart."""

    numa_node: int | None
    index: int
    resource_hash: int
    """The node's 16 bits, then the resource's 48."""

    @property
    def node(self) -> int:
        """The bits of the node's name."""
        return self.resource_hash >> _RESOURCE_BITS

    @property
    def resource(self) -> int:
        """The bits of the resource's name."""
        return self.resource_hash & ((1 << _RESOURCE_BITS) - 1)

    def __str__(self) -> str:
        return _text(self)


@lru_cache(_REMEMBERED)
def _text(slot: SlotId) -> str:
    digits = f"{slot.resource_hash:016x}"
    node = 0 if slot.numa_node is None else slot.numa_node + 1
    return f"{MARK}-{digits[:4]}-8{node:03x}-{_VARIANT | slot.index:04x}-{digits[4:]}"


def is_uuid(text: str) -> bool:
    """Whether ``text`` is a UUID as sysfs writes it: 36 characters, lower case."""
    return _UUID.fullmatch(text) is not None


def parse(text: str) -> SlotId | None:
    """Take a device ID apart; None for whatever is not one of this plugin's."""
    # Whoever asks may ask with texts of any length, and none of those is to be remembered.
    return _parse(text) if len(text) == _LENGTH else None


@lru_cache(_REMEMBERED)
def _parse(text: str) -> SlotId | None:
    if not is_uuid(text) or not text.startswith(MARK) or text[14] != "8" or text[19] not in "89ab":
        return None
    node = int(text[15:18], 16)
    return SlotId(
        numa_node=None if node == 0 else node - 1,
        index=int(text[19:23], 16) & ~_VARIANT,
        resource_hash=int(text[9:13] + text[24:], 16),
    )


def in_order(ids: Iterable[str]) -> list[str]:
    """Device IDs by their slots' index; in this order a request is served."""
    return sorted(ids, key=lambda text: text[19:23] + text)


def of_resource(uuids: Iterable[str], hashed: int) -> frozenset[str]:
    """Those of the devices that were made for a resource, told by its ``resource_hash``."""
    return frozenset(
        uuid for uuid in uuids if (slot := parse(uuid)) is not None and slot.resource_hash == hashed
    )


def bears_mark(uuid: str) -> bool:
    """Whether this plugin made a device, on whichever node and under whatever configuration."""
    return parse(uuid) is not None


def resource_hash(node_name: str, resource: str) -> int:
    """The 64 bits that tell one node's resource from all others: the node's 16, then the resource's 48."""
    return _hash(node_name, 16) << _RESOURCE_BITS | resource_bits(resource)


def resource_bits(resource: str) -> int:
    """The bits of a resource's name."""
    return _hash(resource, _RESOURCE_BITS)


def _hash(text: str, bits: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[: bits // 8], "big")


class Owner(StrEnum):
    """Who made a device."""

    OURS = "ours"
    """This node's agent, which may remove it."""
    OTHER_NODE = "other-node"
    """This plugin under another node's name: a node on the same kernel, or this one before it was renamed."""
    FOREIGN = "foreign"
    """Somebody else."""


@dataclass(frozen=True, slots=True)
class NodeMark:
    """What this node's devices bear in their IDs: the plugin's mark, and the bits of the node's name."""

    bits: int

    @classmethod
    def of(cls, node_name: str) -> NodeMark:
        """The mark of the node of that name."""
        return cls(_hash(node_name, 16))

    def owner(self, uuid: str) -> Owner:
        """Who made a device."""
        slot = parse(uuid)
        if slot is None:
            return Owner.FOREIGN
        return Owner.OURS if slot.node == self.bits else Owner.OTHER_NODE

    def is_ours(self, uuid: str) -> bool:
        """Whether this node's agent made a device, and so may remove it."""
        return self.owner(uuid) is Owner.OURS
