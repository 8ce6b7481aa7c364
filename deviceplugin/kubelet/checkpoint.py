"""What the kubelet remembers: its device manager's checkpoint file.

It names init containers too and survives restarts. It is written when something is allocated and when a
list of devices arrives, not when a device becomes free; so it proves that a device is free only when it
was written after the question came up. Its checksum covers the kubelet's own data structures and can't
be verified from outside; the file is replaced as a whole, so it is never half written.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import msgspec
from google.protobuf.message import DecodeError

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.errors import KubeletError, in_words

_GROUP = re.compile(r"\d{1,10}", re.ASCII)
_NUMA_NODE = re.compile(r"\d{1,4}", re.ASCII)
_NO_NODE = "-1"
"""Under which a device is filed that has no NUMA node."""
_MAX_BYTES = 16 << 20
"""A device takes some hundred bytes in it, and its container's answer a few thousand."""
_MAX_DEVICES = 100_000
"""Bounds, with the bytes, what reading it takes: 100 MiB."""


class _Data(msgspec.Struct):
    PodDeviceEntries: list[msgspec.Raw] | None
    """Go writes an empty list as null. Each is read by itself, so that not all are in memory at once."""


class _File(msgspec.Struct):
    Data: _Data


class _Entry(msgspec.Struct):
    DeviceIDs: dict[str, list[str] | None] | list[str] | None
    """By NUMA node today, and a plain list before Kubernetes 1.20."""
    ResourceName: str = ""
    AllocResp: bytes | None = None

    @property
    def groups(self) -> dict[str, list[str]]:
        """Its device IDs by NUMA node."""
        by_node = self.DeviceIDs if isinstance(self.DeviceIDs, dict) else {_NO_NODE: self.DeviceIDs}
        return {node: group or [] for node, group in by_node.items()}


_FILE = msgspec.json.Decoder(_File)
_ENTRY = msgspec.json.Decoder(_Entry)


@dataclass(frozen=True, slots=True)
class Holding:
    """One container's share of one resource."""

    resource: str
    paths: frozenset[str]
    """The host paths of the device nodes that the container gets with it."""
    cdi_names: frozenset[str] = frozenset()
    """The CDI names that its nodes are looked up by, where it was allocated with CDI."""
    numa_nodes: frozenset[int] = frozenset()
    """The NUMA nodes that the device was listed with; none if it was listed without."""

    @property
    def first_group(self) -> int:
        """The lowest number among its device nodes: that of the VFIO group that was made first."""
        names = (path.rpartition("/")[2] for path in self.paths)
        return min((int(name) for name in names if _GROUP.fullmatch(name)), default=-1)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The kubelet's memory at the moment the file was written."""

    version: tuple[int, int, int]
    """Tells one writing of the file from another."""
    holdings: dict[str, tuple[Holding, ...]]
    """What is remembered of each device ID that a container has, of whichever plugin it is."""

    @property
    def devices(self) -> dict[str, str]:
        """The resource that each device belongs to, in the order of their VFIO groups as far as known."""
        ordered = sorted(self.holdings.items(), key=lambda entry: (entry[1][0].first_group, entry[0]))
        return {uuid: holdings[0].resource for uuid, holdings in ordered}

    @property
    def named(self) -> dict[str, dict[str, frozenset[int]]]:
        """The IDs of each resource, with their NUMA nodes. Two resources may have the same IDs."""
        found: dict[str, dict[str, frozenset[int]]] = {}
        for text, holdings in self.holdings.items():
            for holding in holdings:
                ids = found.setdefault(holding.resource, {})
                ids[text] = ids.get(text, frozenset()) | holding.numa_nodes
        return found


NOTHING = Checkpoint((0, 0, 0), {})
"""What a kubelet remembers that has never written a checkpoint."""


def version(path: Path) -> tuple[int, int, int] | None:
    """Which writing of the file is there now; None if there is none."""
    try:
        return _version(path.lstat())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KubeletError(f"the kubelet's checkpoint {path} can't be examined: {in_words(error)}") from error


def read(path: Path) -> Checkpoint | None:
    """The kubelet's checkpoint; None where it has never written one.

    Raises:
        KubeletError: it can't be read or understood.
    """
    try:
        # The kubelet makes a file and renames it. Whatever else has the name is not its own.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123  # by descriptor
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise KubeletError(f"the kubelet's checkpoint {path} is not a file")
            content = file.read(_MAX_BYTES + 1) if status.st_size <= _MAX_BYTES else None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KubeletError(f"the kubelet's checkpoint {path} can't be read: {in_words(error)}") from error
    if content is None or len(content) > _MAX_BYTES:
        raise KubeletError(
            f"the kubelet's checkpoint {path} is larger than {_MAX_BYTES >> 20} MiB, which is more than is "
            "read of it; devices that exist are kept"
        )
    return Checkpoint(_version(status), parse(content, path))


def parse(content: bytes, path: Path) -> dict[str, tuple[Holding, ...]]:
    """What a checkpoint says of each device that it names.

    Raises:
        KubeletError: it can't be understood, or names more devices than a node has.
    """
    found: dict[str, tuple[Holding, ...]] = {}
    same: dict[Holding, Holding] = {}
    try:
        for raw in _FILE.decode(content).Data.PodDeviceEntries or ():
            entry = _ENTRY.decode(raw)
            response = pb.ContainerAllocateResponse.FromString(entry.AllocResp or b"")
            paths = frozenset(node.host_path for node in response.devices)
            names = frozenset(device.name for device in response.cdi_devices)
            groups = entry.groups
            if len(found) + sum(map(len, groups.values())) > _MAX_DEVICES:
                raise KubeletError(f"the kubelet's checkpoint {path} names more than {_MAX_DEVICES} devices")
            for uuid, numa_nodes in _ids(groups).items():
                holding = Holding(entry.ResourceName, paths, names, frozenset(numa_nodes))
                holding = same.setdefault(holding, holding)
                found[uuid] = (*found.get(uuid, ()), holding)
    except (ValueError, RecursionError, DecodeError) as error:  # msgspec's errors are ValueErrors.
        raise KubeletError(f"the kubelet's checkpoint {path} can't be understood: {error!r}") from error
    return found


def _ids(groups: dict[str, list[str]]) -> dict[str, set[int]]:
    """An entry's device IDs, with their NUMA nodes."""
    found: dict[str, set[int]] = {}
    for node, group in groups.items():
        for uuid in group:
            numa_nodes = found.setdefault(uuid, set())
            if _NUMA_NODE.fullmatch(node):
                numa_nodes.add(int(node))
    return found


def _version(status: os.stat_result) -> tuple[int, int, int]:
    return (status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
