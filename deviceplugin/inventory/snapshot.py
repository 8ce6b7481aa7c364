"""The node at one moment, as the kernel shows it.

A snapshot is made by ``host`` and read by everything else. It holds parents, their types and the devices
on them, and nothing of how these are represented on the node.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True, slots=True)
class PciId:
    """A PCI function's vendor and device number, for instance ``10de:25b6``."""

    vendor: int
    device: int

    def __str__(self) -> str:
        return f"{self.vendor:04x}:{self.device:04x}"


@dataclass(frozen=True, slots=True)
class ParentType:
    """A type as one parent offers it."""

    id: str
    """The type's ID, the same for the same kind of device on every parent: ``nvidia-222``."""
    name: str
    """The driver's name for it, ``GRID T4-1Q``; empty where the driver gives none."""
    api: str
    """How a device of it is driven: ``vfio-pci``, ``vfio-ap``, ``vfio-ccw`` …; empty if unknown."""
    description: str
    """The driver's free text; empty where there is none."""
    available: int
    """How many more the kernel says this parent could create now."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device that exists."""

    uuid: str
    """Its UUID in lower case: its only identity."""
    type: str
    """The ID of its type."""
    parent: str
    """The address of the parent that carries it."""
    group: int | None
    """The VFIO group that hands it out; None while it has none."""


@dataclass(frozen=True, slots=True)
class Parent:
    """A device that others are made on. It need not be a PCI function."""

    address: str
    """Its name on the bus: a PCI address, ``mtty``, ``matrix`` …"""
    card: str
    """The card it is a part of: the address of its physical function, or its own."""
    driver: str
    """The driver that makes the devices; empty if unknown."""
    numa_node: int | None
    """Its NUMA node; None where the machine has no such notion for it."""
    pci: PciId | None
    types: tuple[ParentType, ...]
    """By ID."""
    devices: tuple[Device, ...]
    """By UUID."""

    def type(self, type_id: str) -> ParentType | None:
        """The type of that ID, or None where this parent does not offer it."""
        return next((entry for entry in self.types if entry.id == type_id), None)


@dataclass(frozen=True)
class Snapshot:
    """All parents of the node with their devices, ordered by address."""

    parents: tuple[Parent, ...] = field(default=())

    @cached_property
    def by_address(self) -> dict[str, Parent]:
        return {parent.address: parent for parent in self.parents}

    @cached_property
    def cards(self) -> dict[str, tuple[Parent, ...]]:
        """The parents of each card, by the card's address."""
        cards: dict[str, list[Parent]] = {}
        for parent in self.parents:
            cards.setdefault(parent.card, []).append(parent)
        return {card: tuple(parents) for card, parents in sorted(cards.items())}

    @cached_property
    def devices(self) -> dict[str, Device]:
        """Every device of the node, by UUID."""
        return {device.uuid: device for parent in self.parents for device in parent.devices}

    @cached_property
    def types(self) -> dict[str, ParentType]:
        """One entry per type ID, by ID: what the type is, its count being that of some parent."""
        types = {entry.id: entry for parent in reversed(self.parents) for entry in parent.types}
        return dict(sorted(types.items()))

    def carrying(self, type_id: str) -> Iterator[Parent]:
        """The parents that offer a type."""
        return (parent for parent in self.parents if parent.type(type_id) is not None)
