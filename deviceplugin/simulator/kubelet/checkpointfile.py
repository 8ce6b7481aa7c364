"""The file in which a kubelet keeps what it allocated, ``kubelet_internal_checkpoint``.

Written as the kubelet's device manager does it (v1.36), and damaged on request, so that it can be seen
what a reader makes of that.
"""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

NO_NODE = -1
"""The NUMA node under which the kubelet files a device that has none."""

Damage = Literal["corrupt", "missing", "unreadable", "frozen"]
"""``unreadable`` holds for root too (a directory stands in the place), ``frozen`` is no longer written."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What one container holds of one resource."""

    pod_uid: str
    container: str
    resource: str
    devices: Mapping[str, tuple[int, ...]]
    """The NUMA nodes of each device ID."""
    response: bytes
    """The plugin's ContainerAllocateResponse, serialized."""

    def to_json(self) -> dict[str, Any]:
        by_node: dict[str, list[str]] = {}
        for device, nodes in self.devices.items():
            for node in nodes or (NO_NODE,):
                by_node.setdefault(str(node), []).append(device)
        return {
            "PodUID": self.pod_uid,
            "ContainerName": self.container,
            "ResourceName": self.resource,
            "DeviceIDs": by_node,
            "AllocResp": base64.b64encode(self.response).decode(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Entry:
        devices: dict[str, tuple[int, ...]] = {}
        for node, ids in data["DeviceIDs"].items():
            for device in ids:
                known = devices.get(device, ())
                devices[device] = known if int(node) == NO_NODE else (*known, int(node))
        return cls(
            pod_uid=data["PodUID"],
            container=data["ContainerName"],
            resource=data["ResourceName"],
            devices=devices,
            response=base64.b64decode(data["AllocResp"]),
        )


class CheckpointFile:
    """The file, replaced as a whole at each writing. All methods block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage: Damage | None = None
        """What becomes of the file, now and at each further writing, until this is None again."""

    def write(self, entries: Iterable[Entry], registered: Mapping[str, Iterable[str]]) -> None:
        if self.damage == "frozen":
            return
        if self.path.is_dir():
            shutil.rmtree(self.path)
        if self.damage == "missing":
            self.path.unlink(missing_ok=True)
        elif self.damage == "unreadable":
            self.path.unlink(missing_ok=True)
            self.path.mkdir()
        elif self.damage == "corrupt":
            self._replace('{"Data":{"PodDeviceEntries":[{"PodUID":"')
        else:
            data = {
                # A Go slice that nothing was ever added to is null, not [].
                "PodDeviceEntries": [entry.to_json() for entry in entries] or None,
                "RegisteredDevices": {resource: list(ids) for resource, ids in registered.items()},
            }
            checksum = zlib.crc32(json.dumps(data).encode())
            self._replace(json.dumps({"Data": data, "Checksum": checksum}, separators=(",", ":")))

    def read(self) -> tuple[list[Entry], dict[str, list[str]]]:
        """What was allocated, and what was healthy; nothing of both where the file tells nothing."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            data = json.loads(self.path.read_text())["Data"]
            entries = [Entry.from_json(entry) for entry in data["PodDeviceEntries"] or ()]
            return entries, data["RegisteredDevices"] or {}
        return [], {}

    def _replace(self, text: str) -> None:
        aside = self.path.with_name(f".{self.path.name}.new")
        aside.unlink(missing_ok=True)
        aside.touch(mode=0o600)
        aside.write_text(text)
        aside.replace(self.path)
