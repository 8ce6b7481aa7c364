"""What a container gets of its devices: environment, annotations, and device nodes or their CDI names.

``inventory.variables`` says what the variables are called. With CDI the container runtime looks a device's
nodes up by its name when it makes the container, in the specification that is written for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from deviceplugin.host.paths import SYSFS_DEVICES, HostPaths
from deviceplugin.inventory import variables
from deviceplugin.inventory.snapshot import Device

VFIO_CONTAINER = "/dev/vfio/vfio"
_PERMISSIONS = "mrw"
_CDI_KIND = "vfio.dev/mdev"
_CDI_VERSION = "0.5.0"
"""The first in which names may begin with a digit, and nodes have another path on the host."""


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
    cdi_names: tuple[str, ...] = ()
    """What stands for the nodes where CDI is on."""


def hand_over(paths: HostPaths, resource: str, devices: Sequence[Device], *, cdi: bool = False) -> Handover:
    """What a container gets of these devices, which all have a group.

    Lists in variables are separated by commas and in the same order in each.

    Args:
        cdi: name the devices, whose specifications are written, instead of their nodes.
    """
    uuids = [device.uuid for device in devices]
    groups = sorted({device.group for device in devices if device.group is not None})
    return Handover(
        environment={
            variables.kubevirt(resource): ",".join(uuids),
            variables.uuids(resource): ",".join(uuids),
            variables.types(resource): ",".join(device.type for device in devices),
            variables.sysfs_devices(resource): ",".join(f"{SYSFS_DEVICES}/{uuid}" for uuid in uuids),
        },
        nodes=() if cdi else _nodes(paths, groups),
        annotations={
            f"mdev.vfio.dev/{device.uuid}": f"{device.type} on {device.parent}" for device in devices
        },
        cdi_names=tuple(map(cdi_name, uuids)) if cdi else (),
    )


def _nodes(paths: HostPaths, groups: Sequence[int]) -> tuple[DeviceNode, ...]:
    return (
        DeviceNode(VFIO_CONTAINER, str(paths.container)),
        *(DeviceNode(container_path(group), host_path(paths, group)) for group in groups),
    )


def cdi_name(uuid: str) -> str:
    """What a container runtime knows a device by."""
    return f"{_CDI_KIND}={uuid}"


def specification(paths: HostPaths, device: Device) -> dict[str, Any]:
    """The CDI specification of a device that has a group."""
    assert device.group is not None, "checked before it is handed over"
    nodes = [
        {"path": node.container_path, "hostPath": node.host_path, "permissions": node.permissions}
        for node in _nodes(paths, [device.group])
    ]
    return {
        "cdiVersion": _CDI_VERSION,
        "kind": _CDI_KIND,
        "devices": [{"name": device.uuid, "containerEdits": {"deviceNodes": nodes}}],
    }


def container_path(group: int) -> str:
    """Where a VFIO group's node is found inside a container."""
    return f"/dev/vfio/{group}"


def host_path(paths: HostPaths, group: int) -> str:
    """Where a VFIO group's node is on the node."""
    return str(paths.group(group))
