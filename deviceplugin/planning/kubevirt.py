"""Which of the resources' types KubeVirt has to be told of, and by what names it knows them.

KubeVirt permits VMs what its configuration lists: a type, selected by its name with spaces turned into ``_``
or by its ID, and the resource that stands for it. The list holds for the whole cluster. So neither a
resource's ``parents`` nor its ``max`` matter here, and a type that no card of this node has may well be on
another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.selectors import matches, underscored
from deviceplugin.inventory.snapshot import ParentType, Snapshot

API = "vfio-pci"
"""How KubeVirt attaches a mediated device, whatever it is."""
_GLOB = re.compile(r"[*?[]")


@dataclass(frozen=True, slots=True)
class Permitted:
    """A type that VMs may have through a resource."""

    selector: str
    resource: str
    types: tuple[str, ...]
    """The IDs that are meant; none where no card here has the type, and the selector is as configured."""


@dataclass(frozen=True, slots=True)
class Permissions:
    """All that KubeVirt is to be told."""

    devices: tuple[Permitted, ...]
    """In the order of the resources, and for each in the order of preference."""
    left_out: tuple[str, ...]
    """A sentence for everything that is not among them."""


def permit(resources: Iterable[Resource], snapshot: Snapshot) -> Permissions:
    """What KubeVirt has to be told of these resources.

    A type that is given literally and that this node does not have is taken as it stands.
    """
    devices: list[Permitted] = []
    left_out: dict[str, None] = {}
    for resource in resources:
        selected: dict[str, dict[str, None]] = {}
        for pattern in resource.types:
            found = [entry for entry in snapshot.types.values() if _means(resource, pattern, entry)]
            if not found and _GLOB.search(pattern):
                left_out[f"{resource.name}: no type here matches {pattern!r}, so none of these is listed"] = (
                    None
                )
            elif not found:
                selected.setdefault(underscored(pattern), {})
            for entry in found:
                if entry.api == API:
                    selected.setdefault(underscored(entry.name) or entry.id, {})[entry.id] = None
                else:
                    left_out[_unfit(entry)] = None
        devices += (Permitted(selector, resource.name, tuple(types)) for selector, types in selected.items())
    return Permissions(tuple(devices), tuple(left_out))


def _means(resource: Resource, pattern: str, entry: ParentType) -> bool:
    return entry.id == pattern if resource.exact else matches(pattern, entry)


def _unfit(entry: ParentType) -> str:
    return (
        f"the type {entry.id} is left out: its API is {entry.api or 'not known'}, "
        f"and KubeVirt attaches mediated devices as {API} only"
    )
