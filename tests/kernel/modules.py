"""The kernel's sample drivers, which a test may take away and bring back."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

SAMPLES = ("mtty", "mdpy", "mbochs")
"""Each registers one parent of its own name: ``/sys/class/mdev_bus/mtty`` and so on."""


@dataclass(frozen=True, slots=True)
class Modules:
    """The sample drivers, built in ``directory``."""

    directory: Path

    def is_loaded(self, name: str) -> bool:
        return Path("/sys/module", name).exists()

    def load(self, name: str) -> None:
        """Its parent and types are there when this returns."""
        self._run("insmod", str(self.directory / f"{name}.ko"))

    def unload(self, name: str) -> None:
        """Its parent and types are gone when this returns.

        Devices that nobody uses go with it. With a device in use, the kernel waits for its user.
        """
        self._run("rmmod", name)

    def reload(self, name: str) -> None:
        self.unload(name)
        self.load(name)

    def load_all(self) -> None:
        for name in SAMPLES:
            if not self.is_loaded(name):
                self.load(name)

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
