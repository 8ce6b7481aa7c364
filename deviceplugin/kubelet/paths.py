"""Where the kubelet keeps what a device plugin needs, under its root directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class KubeletPaths:
    """The paths of a kubelet whose root directory is ``root``."""

    root: Path = Path("/var/lib/kubelet")

    @property
    def plugins(self) -> Path:
        """The directory of the device plugins' sockets; all of them have to be right in it."""
        return self.root / "device-plugins"

    @property
    def registration(self) -> Path:
        """The socket that plugins register at."""
        return self.plugins / "kubelet.sock"

    @property
    def checkpoint(self) -> Path:
        """What the kubelet remembers of the devices it gave away."""
        return self.plugins / "kubelet_internal_checkpoint"

    @property
    def pod_resources(self) -> Path:
        """The socket that tells which pod has what."""
        return self.root / "pod-resources" / "kubelet.sock"
