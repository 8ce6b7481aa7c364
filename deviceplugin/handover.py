"""What a container gets of its devices: environment, device nodes and annotations.

``MDEV_PCI_RESOURCE_<RESOURCE>`` is KubeVirt's variable, by its rule: the resource's name in upper case
with ``/`` and ``.`` turned into ``_``, and ``-`` kept. The others are ours and can be read by a shell.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from deviceplugin.host.paths import SYSFS_DEVICES, HostPaths
from deviceplugin.inventory.snapshot import Device

VFIO_CONTAINER = "/dev/vfio/vfio"
_PERMISSIONS = "mrw"


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A device node that the container runtime makes in the container."""

    container_path: str
    host_path: str
    permissions: str = _PERMISSIONS


@dataclass(frozen=True, slots=True)
class Handover:
    """All that a container gets of one resource."""

    environment: dict[str, str] = field(default_factory=dict)
    nodes: tuple[DeviceNode, ...] = ()
    annotations: dict[str, str] = field(default_factory=dict)


def hand_over(paths: HostPaths, resource: str, devices: Sequence[Device]) -> Handover:
    """What a container gets of these devices, which all have a group.

    Lists in variables are separated by commas and in the same order in each.
    """
    prefix = f"MDEV_{re.sub('[^A-Z0-9]', '_', resource.upper())}"
    uuids = [device.uuid for device in devices]
    groups = sorted({device.group for device in devices if device.group is not None})
    return Handover(
        environment={
            f"MDEV_PCI_RESOURCE_{resource.upper().replace('/', '_').replace('.', '_')}": ",".join(uuids),
            f"{prefix}_UUIDS": ",".join(uuids),
            f"{prefix}_TYPES": ",".join(device.type for device in devices),
            f"{prefix}_SYSFSDEVS": ",".join(f"{SYSFS_DEVICES}/{uuid}" for uuid in uuids),
        },
        nodes=(
            DeviceNode(VFIO_CONTAINER, str(paths.container)),
            *(DeviceNode(container_path(group), host_path(paths, group)) for group in groups),
        ),
        annotations={
            f"mdev.vfio.dev/{device.uuid}": f"{device.type} on {device.parent}" for device in devices
        },
    )


def container_path(group: int) -> str:
    """Where a VFIO group's node is found inside a container."""
    return f"/dev/vfio/{group}"


def host_path(paths: HostPaths, group: int) -> str:
    """Where a VFIO group's node is on the node."""
    return str(paths.group(group))
