"""What the kernel announces of a device's life: the uevents of the mdev core and of VFIO (Linux 6.1)."""

from __future__ import annotations

from deviceplugin.simulator.node.cards import NodeDescription
from deviceplugin.simulator.node.state import Device, Draft
from deviceplugin.simulator.node.tree import devpath, subsystem

_GROUP_MAJOR = 243
"""A number that the kernel gives out as it comes; only its being there is imitated."""


def device_events(
    node: NodeDescription, parent: str, uuid: str, actions: tuple[str, ...]
) -> tuple[Draft, ...]:
    """What the mdev bus tells of a device."""
    card = node.card_of[parent]
    driver = {"DRIVER": card.model.driver}
    return tuple(
        (action, f"{devpath(card, parent)}/{uuid}", "mdev", driver if action == "bind" else {})
        for action in actions
    )


def vfio_events(node: NodeDescription, action: str, device: Device) -> tuple[Draft, ...]:
    """What VFIO tells of a device: its group comes first and goes last."""
    here = f"{devpath(node.card_of[device.parent], device.parent)}/{device.uuid}"
    properties = {"MAJOR": str(_GROUP_MAJOR), "MINOR": str(device.group), "DEVNAME": f"vfio/{device.group}"}
    group: Draft = (action, f"/devices/virtual/vfio/{device.group}", "vfio", properties)
    handle: Draft = (action, f"{here}/vfio-dev/vfio{device.group}", "vfio-dev", {})
    return (group, handle) if action == "add" else (handle, group)


def parent_event(node: NodeDescription, address: str, state: str) -> Draft:
    """What the mdev core tells of a parent that ``registered`` or ``unregistered``."""
    card = node.card_of[address]
    return ("change", devpath(card, address), subsystem(card), {"MDEV_STATE": state})
