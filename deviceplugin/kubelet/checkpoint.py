"""What the kubelet remembers: its device manager's checkpoint file.

It names init containers too and survives restarts. It is written when something is allocated and when a
list of devices arrives, not when a device becomes free; so it proves that a device is free only when it
was written after the question came up. Its checksum covers the kubelet's own data structures and can't
be verified from outside; the file is replaced as a whole, so it is never half written.
"""

from __future__ import annotations

import base64
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.errors import KubeletError

_GROUP = re.compile(r"\d{1,10}", re.ASCII)
_NUMA_NODE = re.compile(r"\d{1,4}", re.ASCII)
_NO_NODE = "-1"
"""Under which a device is filed that has no NUMA node."""
_MAX_BYTES = 64 << 20
"""A device takes some hundred bytes in it, and its container's answer a few thousand."""


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
        raise KubeletError(f"the kubelet's checkpoint {path} can't be examined: {error}") from error


def read(path: Path) -> Checkpoint | None:
    """The kubelet's checkpoint; None where it has never written one.

    Raises:
        KubeletError: it can't be read or understood.
    """
    try:
        # The kubelet makes a file and renames it. Whatever else has the name is not its own.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123  # by descriptor
            status = os.fstat(file.fileno())
            content = file.read(_MAX_BYTES + 1) if stat.S_ISREG(status.st_mode) else None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KubeletError(f"the kubelet's checkpoint {path} can't be read: {error}") from error
    if content is None:
        raise KubeletError(f"the kubelet's checkpoint {path} is not a file")
    if len(content) > _MAX_BYTES:
        raise KubeletError(f"the kubelet's checkpoint {path} is larger than {_MAX_BYTES >> 20} MiB")
    return Checkpoint(_version(status), parse(content, path))


def parse(content: bytes, path: Path) -> dict[str, tuple[Holding, ...]]:
    """What a checkpoint says of each device that it names.

    Raises:
        KubeletError: it can't be understood.
    """
    found: dict[str, tuple[Holding, ...]] = {}
    try:
        for entry in _list(json.loads(content)["Data"]["PodDeviceEntries"]):
            answer = entry.get("AllocResp")
            encoded = b"" if answer is None else base64.b64decode(answer)
            response = pb.ContainerAllocateResponse.FromString(encoded)
            paths = frozenset(node.host_path for node in response.devices)
            names = frozenset(device.name for device in response.cdi_devices)
            resource = _text(entry.get("ResourceName", ""))
            for uuid, numa_nodes in _ids(entry["DeviceIDs"]).items():
                holding = Holding(resource, paths, names, frozenset(numa_nodes))
                found[uuid] = (*found.get(uuid, ()), holding)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, DecodeError) as error:
        raise KubeletError(f"the kubelet's checkpoint {path} can't be understood: {error!r}") from error
    return found


def _ids(by_node: Any) -> dict[str, set[int]]:
    """An entry's device IDs, with their NUMA nodes; a plain list before Kubernetes 1.20.

    Raises:
        TypeError: they are something else.
    """
    groups = by_node if isinstance(by_node, dict) else {_NO_NODE: by_node}
    found: dict[str, set[int]] = {}
    for node, group in groups.items():
        for uuid in _list(group):
            if not isinstance(uuid, str):
                raise TypeError("a device ID that is no text")
            numa_nodes = found.setdefault(uuid, set())
            if _NUMA_NODE.fullmatch(node):
                numa_nodes.add(int(node))
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text was expected, and {type(value).__name__} was found")
    return value


def _list(value: Any) -> list[Any]:
    """A list; Go writes an empty one as null. Anything else must not be taken for one without devices."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise TypeError(f"a list was expected, and {type(value).__name__} was found")
    return value


def _version(status: os.stat_result) -> tuple[int, int, int]:
    return (status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
