"""What the commands that only look at a node know of it: what it has, and what is offered of that."""

from __future__ import annotations

from dataclasses import dataclass

from deviceplugin.host import mdev
from deviceplugin.host.kernel import Kernel
from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.snapshot import Snapshot
from deviceplugin.inventory.variables import clash
from deviceplugin.settings import Config

NO_BUS = (
    "this machine has no mediated device driver loaded: there is no /sys/class/mdev_bus. "
    "Load the driver of its cards (nvidia-vgpu-vfio, kvmgt, vfio_ap, mtty …); "
    "under a container, mount the node's /sys or name its root with --host-root"
)
NO_TYPES = (
    "no card offers a mediated device type. Cards with virtual functions may need these switched on first "
    "(NVIDIA: '/usr/lib/nvidia/sriov-manage -e ALL'), other drivers an option of their module "
    "(Intel: 'i915.enable_gvt=1')"
)


@dataclass(frozen=True, slots=True)
class Look:
    """A node at one moment, and its resources."""

    snapshot: Snapshot
    resources: dict[str, Resource]
    """By name: the configured ones first, then those that discovery adds, as the agent has them."""
    problems: tuple[str, ...]
    """Whatever had to be left out, a sentence each."""
    nothing: str | None
    """Why there are no types; None if there are some."""


def look(kernel: Kernel, config: Config) -> Look:
    """Look at a node.

    Raises:
        HostError: sysfs can't be read.
    """
    scan = mdev.scan(kernel.paths)
    resources, problems = resources_of(scan.snapshot, config)
    nothing = None
    if not scan.snapshot.types:
        nothing = NO_TYPES if kernel.paths.parents.exists() else NO_BUS
    return Look(scan.snapshot, resources, (*map(str, scan.faults), *problems), nothing)


def resources_of(snapshot: Snapshot, config: Config) -> tuple[dict[str, Resource], tuple[str, ...]]:
    """The resources of a node by name, the configured ones first, and a sentence for each type or discovered
    resource that can't be one.
    """
    resources = {resource.name: resource for resource in config.resources}
    discovered, problems = config.discovery.discover(snapshot)
    clashes = []
    for resource in discovered:
        if problem := clash(resource.name, resources):
            clashes.append(f"{resource.name} is not offered: {problem}")
        else:
            resources.setdefault(resource.name, resource)
    return resources, (*problems, *clashes)
