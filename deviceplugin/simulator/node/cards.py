"""The cards of a node as its description gives them: frozen data, with the little that follows from it.

Each field is a key of the description file; ``docs/nodes.md`` says what it is for.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Literal

import msgspec

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}\Z")]
AttributePath = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*\Z")
]
Amount = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
Count = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
Access = Literal["ro", "rw", "wo"]


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """A file that a driver adds to each of its devices."""

    access: Access = "rw"
    initial: str = ""
    """What it reads at first; ``{uuid}`` stands for the device's UUID."""
    chops: bool = False
    """The driver drops the last character of what is written, counting on a newline there."""


@dataclass(frozen=True, kw_only=True)
class TypeDescription:
    """A type as the driver of a model defines it."""

    id: Name
    name: str | None = None
    description: str | None = None
    takes: dict[Name, Amount] = field(default_factory=dict)
    """How much of each pool one device uses."""
    max: Count | None = None
    """How many of this type a card carries at most."""
    attributes: dict[AttributePath, Access | Attribute] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A kind of card, with the rules of its driver."""

    driver: Name
    types: tuple[TypeDescription, ...]
    bus: Literal["virtual", "pci", "matrix", "css"] = "virtual"
    api: str = "vfio-pci"
    vendor: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)] = 0
    device: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)] = 0
    vfs: Annotated[int, msgspec.Meta(ge=0, le=248)] = 0
    """So many virtual functions are the parents, in place of the card itself; each carries one device."""
    instances: Amount | None = None
    """So many devices of whatever type: the mdev core counts them, the driver does not."""
    pools: dict[Name, Amount] = field(default_factory=dict)
    """What the card has of each thing that its types take."""
    mixes: Literal["any", "none", "size"] = "any"
    """Which types go together on one card: any, one type alone, or those that take equally much."""
    full: Literal["EUSERS", "ENOSPC"] | None = None
    attributes: dict[AttributePath, Access | Attribute] = field(default_factory=dict)

    @cached_property
    def offered(self) -> dict[str, TypeDescription]:
        """By ID, the types that an empty card has room for; drivers do not list the others."""
        return {kind.id: kind for kind in self.types if self.fits(kind)}

    def fits(self, kind: TypeDescription) -> bool:
        return all(amount <= self.pools[pool] for pool, amount in kind.takes.items())

    @property
    def full_errno(self) -> int:
        """The errno of a create that finds no room; the mdev core's own counting says EUSERS."""
        return int(getattr(errno, self.full or ("ENOSPC" if self.instances is None else "EUSERS")))

    def device_attributes(self, type_id: str) -> dict[str, Attribute]:
        """The driver's files in a device of that type."""
        merged = {**self.attributes, **self.offered[type_id].attributes}
        return {
            path: entry if isinstance(entry, Attribute) else Attribute(access=entry)
            for path, entry in merged.items()
        }


@dataclass(frozen=True, kw_only=True)
class Card:
    """A card of the node, with the addresses of its parents."""

    address: str
    model: Model
    numa: int | None
    parents: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class NodeDescription:
    """A node: its cards in the file's order."""

    cards: tuple[Card, ...]
    first_group: int
    source: str
    """The text that this was read from, which reads as this again."""

    @cached_property
    def card_of(self) -> dict[str, Card]:
        """The card of each parent, by the parent's address."""
        return {parent: card for card in self.cards for parent in card.parents}
