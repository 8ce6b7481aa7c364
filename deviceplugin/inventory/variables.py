"""The environment variables that a resource's devices are handed over in, by its name.

``MDEV_PCI_RESOURCE_<RESOURCE>`` is KubeVirt's, by its rule: the resource's name in upper case with ``/`` and
``.`` turned into ``_``, and ``-`` kept. The others are ours and can be read by a shell. Several names may
become one variable; a container that asks for two such resources would lose the devices of one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_NO_SHELL = re.compile("[^A-Z0-9]")


def kubevirt(resource: str) -> str:
    """KubeVirt's variable, which has the devices' UUIDs."""
    return f"MDEV_PCI_RESOURCE_{resource.upper().replace('/', '_').replace('.', '_')}"


def uuids(resource: str) -> str:
    return f"{_prefix(resource)}_UUIDS"


def types(resource: str) -> str:
    return f"{_prefix(resource)}_TYPES"


def sysfs_devices(resource: str) -> str:
    return f"{_prefix(resource)}_SYSFSDEVS"


def every(resource: str) -> frozenset[str]:
    """All of a resource's variables."""
    return frozenset(of(resource) for of in (kubevirt, uuids, types, sysfs_devices))


def clash(resource: str, others: Iterable[str]) -> str | None:
    """What keeps a resource from being offered beside others, as a sentence; None if nothing does."""
    own = every(resource)
    for other in others:
        if other != resource and (same := own & every(other)):
            return (
                f"the resource names {resource!r} and {other!r} become the same variable in a container, "
                f"{min(same)}: they have to differ in more than case and '-', '_', '.' and '/'"
            )
    return None


def _prefix(resource: str) -> str:
    return f"MDEV_{_NO_SHELL.sub('_', resource.upper())}"
