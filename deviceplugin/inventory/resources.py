"""What pods can ask for: the resources that a node's types make up.

Discovery turns every type into a resource of its own; named resources stand beside them. Which types a
resource takes is told by patterns, so that it can be decided before the types are there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from deviceplugin.inventory import slots
from deviceplugin.inventory.cards import Allows, Card, anywhere
from deviceplugin.inventory.selectors import ParentSelector, matches, matches_any, underscored
from deviceplugin.inventory.snapshot import Device, Snapshot

DEFAULT_CAP = 1024
"""How many slots a resource has at the most where no ``max`` says otherwise."""

_DOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?", re.ASCII)
_MAX_NAME = 63
_MAX_DOMAIN = 253 - len("requests.")  # as a quota the resource has that before its name


class Placement(StrEnum):
    """Which card a device goes to where several could take it."""

    PACK = "pack"
    """The fullest: empty cards stay free for other types."""
    SPREAD = "spread"
    """The emptiest: each device gets the most of its card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """Which devices that somebody else made a resource offers as they are. Empty fields allow everything."""

    types: tuple[str, ...] = ()
    """Patterns over type IDs and names; the resource's own types bound it in any case."""
    parents: ParentSelector = field(default_factory=ParentSelector)
    uuids: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """Something that a pod can ask for: types that satisfy it, in order of preference."""

    name: str
    types: tuple[str, ...]
    """Patterns over type IDs and names, the preferred one first."""
    exact: bool = False
    """Whether ``types`` are IDs as they stand: a discovered resource means its own types alone."""
    parents: ParentSelector = field(default_factory=ParentSelector)
    placement: Placement = Placement.PACK
    mixed: bool = True
    """Whether the devices of one request may be of several types, where none has room for all."""
    max: int | None = None
    """At most so many devices are made for it on this node."""
    max_per_card: int | None = None
    """At most so many devices are made for it on one card."""
    adopts: Adoption | None = None
    """What of others' devices it offers as well; None: nothing."""
    attributes: tuple[tuple[str, str], ...] = ()
    """What is written to a new device before it is handed over, in this order."""

    @property
    def cap(self) -> int:
        """How many slots it can have."""
        return DEFAULT_CAP if self.max is None else self.max

    @property
    def allows(self) -> Allows:
        """Whether a parent may carry its devices."""
        return anywhere if self.parents.allows_all else self.parents.allows

    def left_on(self, card: Card, own: Collection[str]) -> int:
        """How many more devices its quota per card lets be made on a card.

        Args:
            own: the devices of this resource that exist.
        """
        if self.max_per_card is None:
            return sys.maxsize
        here = sum(device.uuid in own for parent in card.parents for device in parent.devices)
        return max(0, self.max_per_card - here - sum(card.imagined.values()))

    def adoptable(self, device: Device, snapshot: Snapshot) -> bool:
        """Whether it would offer a device that somebody else made."""
        if self.adopts is None or device.type not in self.choices(snapshot):
            return False
        parent, entry = snapshot.by_address[device.parent], snapshot.types[device.type]
        return (
            (not self.adopts.uuids or device.uuid in self.adopts.uuids)
            and (not self.adopts.types or matches_any(self.adopts.types, entry))
            and self.adopts.parents.allows(parent)
            and self.allows(parent)
        )

    def choices(self, snapshot: Snapshot) -> tuple[str, ...]:
        """The IDs of the types that satisfy it here, the preferred one first."""
        if self.exact:
            return tuple(type_id for type_id in self.types if type_id in snapshot.types)
        found = (
            entry.id for pattern in self.types for entry in snapshot.types.values() if matches(pattern, entry)
        )
        return tuple(dict.fromkeys(found))


def taker(resources: Iterable[Resource], device: Device, snapshot: Snapshot) -> Resource | None:
    """The resource that offers a device which somebody else made: the first that would; None if none does."""
    if slots.bears_mark(device.uuid):
        return None
    return next((resource for resource in resources if resource.adoptable(device, snapshot)), None)


def adopted(resources: Collection[Resource], snapshot: Snapshot) -> dict[str, dict[str, int | None]]:
    """What each resource would offer of others' devices: their UUIDs, with their NUMA nodes."""
    found: dict[str, dict[str, int | None]] = {}
    for uuid, device in snapshot.devices.items():
        if (resource := taker(resources, device, snapshot)) is not None:
            found.setdefault(resource.name, {})[uuid] = snapshot.by_address[device.parent].numa_node
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """Which types become resources of their own, and what these are called."""

    domain: str = "vfio.dev"
    by_name: bool = False
    """Call them by the type's name instead of its ID."""
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def discover(self, snapshot: Snapshot) -> tuple[tuple[Resource, ...], tuple[str, ...]]:
        """The resources of the node's types, by name, and a sentence for each type that can't be one."""
        types: dict[str, list[str]] = {}
        problems = []
        for entry in snapshot.types.values():
            if not matches_any(self.include, entry) or matches_any(self.exclude, entry):
                continue
            label = underscored(entry.name) if self.by_name and entry.name else entry.id
            name = f"{self.domain}/{label}"
            if problem := name_problem(name):
                problems.append(f"type {entry.id!r} can't be offered by itself: {problem}")
                continue
            types.setdefault(name, []).append(entry.id)
        resources = (Resource(name=name, types=tuple(ids), exact=True) for name, ids in types.items())
        return tuple(sorted(resources, key=lambda resource: resource.name)), tuple(problems)


def name_problem(name: str) -> str | None:
    """What keeps the kubelet from taking a resource's name, as a sentence; None if nothing does.

    The rules are those of Kubernetes' extended resources.
    """
    domain, slash, label = name.partition("/")
    problem = None
    if not slash or "/" in label:
        problem = "needs exactly one '/', as in 'vfio.dev/nvidia-11'"
    elif domain.endswith("kubernetes.io"):
        problem = "may not be in the domain kubernetes.io, which is Kubernetes' own"
    elif domain.startswith("requests."):
        problem = "may not begin with 'requests.', which quotas use"
    elif len(domain) > _MAX_DOMAIN or not _DOMAIN.fullmatch(domain):
        problem = f"needs a lower-case domain before the '/', which {domain!r} is not"
    elif len(label) > _MAX_NAME:
        problem = f"has {len(label)} characters after the '/', and {_MAX_NAME} are allowed"
    elif not _NAME.fullmatch(label):
        problem = (
            f"has {label!r} after the '/', where only letters, digits, '-', '_' and '.' are allowed, "
            "with a letter or digit at both ends"
        )
    return None if problem is None else f"the resource name {name!r} {problem}"
