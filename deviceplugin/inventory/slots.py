"""Device IDs: the UUID that a slot's device bears once it exists.

::

    6d646576-RRRR-8NNN-VIII-HHHHHHHHHHHH        RFC 9562, UUID version 8

    6d646576   "mdev" in ASCII: the mark of what this plugin makes, and alone may remove
    R, H       64 bits of a hash of the node's name and the resource's
    N          the slot's NUMA node plus one, 0 for none
    V, I       two variant bits (10) and the slot's index, 14 bits

An ID can be computed from what it stands for and read back without a table, so an agent that starts
anew advertises the same ones, and whoever finds such a UUID in sysfs knows where it comes from.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

MARK = "6d646576"
MAX_SLOTS = 1 << 14
"""How many slots of one resource one NUMA node can have: the index has 14 bits."""
MAX_NUMA_NODE = 0xFFE

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
_LENGTH = 36
_VARIANT = 0x8000
_REMEMBERED = 1 << 13
"""IDs whose meaning is remembered: each change on the node asks for all of them again."""


@dataclass(frozen=True, slots=True, order=True)
class SlotId:
    """A device ID, taken apart."""

    numa_node: int | None
    index: int
    resource_hash: int

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


def is_ours(uuid: str) -> bool:
    """Whether a device bears this plugin's mark, from whatever configuration or node name it comes."""
    return parse(uuid) is not None


def resource_hash(node_name: str, resource: str) -> int:
    """The 64 bits that tell one node's resource from all others."""
    digest = hashlib.sha256(f"{node_name}\0{resource}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
