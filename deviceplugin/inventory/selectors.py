"""Patterns over what a node has: which types are meant, and which parents.

A pattern is a name as it stands or a glob. It can be written before the node has what it means, so one that
finds nothing is no error; ``unmatched`` says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase

from deviceplugin.inventory.snapshot import Parent, ParentType, Snapshot

_BRANDS = ("GRID_", "NVIDIA_")
"""What NVIDIA's drivers put before a type's name, one generation this, the next one that, or nothing."""
_GLOB = re.compile(r"[*?[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentFilter:
    """Parents by what they are. Of each field one pattern has to match; empty fields match everything."""

    addresses: tuple[str, ...] = ()
    """Globs over the parent's or its card's address."""
    drivers: tuple[str, ...] = ()
    """Globs over the driver's name."""
    numa_nodes: tuple[int, ...] = ()
    pci: tuple[str, ...] = ()
    """Globs over the PCI vendor and device ID, ``10de:25b6``; what is not a PCI function matches none."""

    def matches(self, parent: Parent) -> bool:
        return (
            (not self.addresses or _any_glob(self.addresses, parent.address, parent.card))
            and (not self.drivers or _any_glob(self.drivers, parent.driver))
            and (not self.numa_nodes or parent.numa_node in self.numa_nodes)
            and (not self.pci or (parent.pci is not None and _any_glob(self.pci, str(parent.pci))))
        )

    @property
    def empty(self) -> bool:
        return not (self.addresses or self.drivers or self.numa_nodes or self.pci)

    def unmatched(self, snapshot: Snapshot) -> Iterator[tuple[str, str]]:
        """Each pattern that no parent of the node matches, with its field as the configuration spells it."""
        for entry in fields(self):
            for pattern in getattr(self, entry.name):
                alone = ParentFilter(**{entry.name: (pattern,)})
                if not any(map(alone.matches, snapshot.parents)):
                    yield _SPELLED.get(entry.name, entry.name), str(pattern)


_SPELLED = {"numa_nodes": "numaNodes"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentSelector(ParentFilter):
    """Which parents may carry a resource's devices."""

    exclude: ParentFilter = field(default_factory=ParentFilter)
    """Those that match it may not; an empty one excludes nothing."""

    def allows(self, parent: Parent) -> bool:
        return self.matches(parent) and (self.exclude.empty or not self.exclude.matches(parent))

    @property
    def allows_all(self) -> bool:
        return self.empty and self.exclude.empty

    def finds_nothing(self, snapshot: Snapshot, *, within: str = "") -> Iterator[str]:
        """A clause for each pattern that means nothing on this node.

        Args:
            within: where in the configuration it stands, as in ``adoptExisting.``.
        """
        own = ParentFilter(
            addresses=self.addresses, drivers=self.drivers, numa_nodes=self.numa_nodes, pci=self.pci
        )
        for where, selector in (("parents", own), ("parents.exclude", self.exclude)):
            for key, pattern in selector.unmatched(snapshot):
                yield f"no parent here matches its {within}{where}.{key}: {pattern}"


def underscored(name: str) -> str:
    """A type's name as resources are called after it: ``GRID T4-1Q`` becomes ``GRID_T4-1Q``."""
    return name.replace(" ", "_")


def matches(pattern: str, entry: ParentType) -> bool:
    """Whether a pattern means this type, by ID or by name; spaces and underscores are the same.

    A name is the same in all generations of a driver: ``GRID T4-1Q`` means ``NVIDIA T4-1Q`` too, and so does
    ``T4-1Q``.
    """
    wanted = underscored(pattern)
    if fnmatchcase(underscored(entry.id), wanted):
        return True
    if not entry.name:
        return False
    name = underscored(entry.name)
    if _GLOB.search(wanted):
        return fnmatchcase(name, wanted) or fnmatchcase(_unbranded(name), wanted)
    return _unbranded(name) == _unbranded(wanted)


def matches_any(patterns: Iterable[str], entry: ParentType) -> bool:
    return any(matches(pattern, entry) for pattern in patterns)


def _unbranded(name: str) -> str:
    for brand in _BRANDS:
        if name.startswith(brand):
            return name.removeprefix(brand)
    return name


def _any_glob(patterns: Iterable[str], *values: str) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in patterns for value in values)
