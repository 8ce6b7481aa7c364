"""What the kubelet remembers: its device manager's checkpoint file.

It names init containers too and survives restarts. It is written when something is allocated and when a
list of devices arrives, not when a device becomes free; so it proves that a device is free only when it
was written after the question came up. Its checksum covers the kubelet's own data structures and can't
be verified from outside; the file is replaced as a whole, so it is never half written.
"""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec
from google.protobuf.message import DecodeError

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.errors import KubeletError


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The kubelet's memory at the moment the file was written."""

    version: tuple[int, int, int]
    """Tells one writing of the file from another."""
    paths: dict[str, frozenset[str]]
    """Each device that a container has, and the host paths that container gets for its resource."""

    @property
    def devices(self) -> frozenset[str]:
        return frozenset(self.paths)


class _Entry(msgspec.Struct, frozen=True):
    device_ids: dict[str, tuple[str, ...] | None] | tuple[str, ...] | None = msgspec.field(name="DeviceIDs")
    alloc_resp: str | None = msgspec.field(name="AllocResp", default=None)

    @property
    def ids(self) -> tuple[str, ...]:
        # A mapping by NUMA node today; kubelets before 1.20 wrote a plain list.
        if isinstance(self.device_ids, dict):
            return tuple(uuid for ids in self.device_ids.values() for uuid in ids or ())
        return self.device_ids or ()


class _Data(msgspec.Struct, frozen=True):
    entries: tuple[_Entry, ...] | None = msgspec.field(name="PodDeviceEntries")


class _File(msgspec.Struct, frozen=True):
    data: _Data = msgspec.field(name="Data")


def version(path: Path) -> tuple[int, int, int] | None:
    """Which writing of the file is there now; None if there is none."""
    try:
        return _version(path.stat())
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
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KubeletError(f"the kubelet's checkpoint {path} can't be read: {error}") from error
    return Checkpoint(_version(status), parse(content, path))


def parse(content: bytes, path: Path) -> dict[str, frozenset[str]]:
    """The devices that a checkpoint names, and the host paths that go with each.

    Raises:
        KubeletError: it can't be understood.
    """
    try:
        file = msgspec.json.decode(content, type=_File)
        found: dict[str, set[str]] = {}
        for entry in file.data.entries or ():
            response = pb.ContainerAllocateResponse.FromString(base64.b64decode(entry.alloc_resp or ""))
            for uuid in entry.ids:
                found.setdefault(uuid, set()).update(node.host_path for node in response.devices)
    except (msgspec.DecodeError, RecursionError, ValueError, DecodeError) as error:
        raise KubeletError(f"the kubelet's checkpoint {path} can't be understood: {error}") from error
    return {uuid: frozenset(paths) for uuid, paths in found.items()}


def _version(status: os.stat_result) -> tuple[int, int, int]:
    return (status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
