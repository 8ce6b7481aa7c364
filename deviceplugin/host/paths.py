"""Where things are on the node: every path in one place, under a root that tests can move."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SYSFS_DEVICES = "/sys/bus/mdev/devices"
"""Where a mediated device is found by its UUID, as every consumer on the node names it."""


@dataclass(frozen=True, slots=True)
class HostPaths:
    """The paths of a node whose root directory is ``root``: ``/`` for the machine itself."""

    root: Path = Path("/")

    @property
    def parents(self) -> Path:
        """One link per parent."""
        return self.root / "sys/class/mdev_bus"

    @property
    def devices(self) -> Path:
        """One link per mediated device, named by its UUID."""
        return self.root / SYSFS_DEVICES.lstrip("/")

    @property
    def sysfs(self) -> Path:
        """The root of sysfs; a uevent's ``DEVPATH`` begins here."""
        return self.root / "sys"

    @property
    def vfio(self) -> Path:
        """The directory of the VFIO device nodes."""
        return self.root / "dev/vfio"

    @property
    def container(self) -> Path:
        """The VFIO container's device node, which every user of a group needs beside the group's own."""
        return self.vfio / "vfio"

    @property
    def cdi(self) -> Path:
        """Where container runtimes look for CDI specifications that don't outlive the node's running."""
        return self.root / "var/run/cdi"

    def parent(self, address: str) -> Path:
        return self.parents / address

    def type(self, address: str, type_id: str) -> Path:
        return self.parent(address) / "mdev_supported_types" / type_id

    def create(self, address: str, type_id: str) -> Path:
        """The attribute that a UUID is written to."""
        return self.type(address, type_id) / "create"

    def device(self, uuid: str) -> Path:
        return self.devices / uuid

    def remove(self, uuid: str) -> Path:
        """The attribute that ends a device."""
        return self.device(uuid) / "remove"

    def group(self, group: int) -> Path:
        """The device node of a VFIO group."""
        return self.vfio / str(group)

    def group_number(self, group: int) -> Path:
        """The file with the device number of a VFIO group's device node, as in ``511:7``."""
        return self.sysfs / "class/vfio" / str(group) / "dev"
