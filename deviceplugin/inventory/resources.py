"""What pods can ask for: the resources that a node's types make up.

Discovery turns every type into a resource of its own; named resources stand beside them. Which types a
resource takes is told by patterns, so that it can be decided before the types are there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase

from deviceplugin.inventory.snapshot import Parent, ParentType, Snapshot

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
class ParentSelector:
    """Which parents may carry a resource's devices; empty fields allow everything."""

    addresses: tuple[str, ...] = ()
    """Globs over the parent's or its card's address."""
    drivers: tuple[str, ...] = ()
    numa_nodes: tuple[int, ...] = ()

    def allows(self, parent: Parent) -> bool:
        return (
            (not self.addresses or _any_glob(self.addresses, parent.address, parent.card))
            and (not self.drivers or _any_glob(self.drivers, parent.driver))
            and (not self.numa_nodes or parent.numa_node in self.numa_nodes)
        )


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
    max: int | None = None
    """At most so many devices of it on this node."""
    attributes: tuple[tuple[str, str], ...] = ()
    """What is written to a new device before it is handed over, in this order."""

    @property
    def cap(self) -> int:
        """How many slots it can have."""
        return DEFAULT_CAP if self.max is None else self.max

    def choices(self, snapshot: Snapshot) -> tuple[str, ...]:
        """The IDs of the types that satisfy it here, the preferred one first."""
        if self.exact:
            return tuple(type_id for type_id in self.types if type_id in snapshot.types)
        found = (
            entry.id for pattern in self.types for entry in snapshot.types.values() if matches(pattern, entry)
        )
        return tuple(dict.fromkeys(found))


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
            if not _matches_any(self.include, entry) or _matches_any(self.exclude, entry):
                continue
            label = underscored(entry.name) if self.by_name and entry.name else entry.id
            name = f"{self.domain}/{label}"
            if problem := name_problem(name):
                problems.append(f"type {entry.id!r} can't be offered by itself: {problem}")
                continue
            types.setdefault(name, []).append(entry.id)
        resources = (Resource(name=name, types=tuple(ids), exact=True) for name, ids in types.items())
        return tuple(sorted(resources, key=lambda resource: resource.name)), tuple(problems)


def underscored(name: str) -> str:
    """A type's name as resources are called after it: ``GRID T4-1Q`` becomes ``GRID_T4-1Q``."""
    return name.replace(" ", "_")


def matches(pattern: str, entry: ParentType) -> bool:
    """Whether a pattern means this type, by ID or by name; spaces and underscores are the same."""
    wanted = underscored(pattern)
    return fnmatchcase(underscored(entry.id), wanted) or (
        bool(entry.name) and fnmatchcase(underscored(entry.name), wanted)
    )


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


def _matches_any(patterns: Iterable[str], entry: ParentType) -> bool:
    return any(matches(pattern, entry) for pattern in patterns)


def _any_glob(patterns: Iterable[str], *values: str) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in patterns for value in values)
