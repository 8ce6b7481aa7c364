"""A virtual machine that uses a mediated device, as a pod's would.

It never runs: QEMU attaches its devices before the first instruction, and stays there (``-S``).
"""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from deviceplugin.host.paths import SYSFS_DEVICES
from tests.kernel.waiting import PATIENCE


class QemuFailed(Exception):
    """QEMU ended by itself; the message is what it said."""


class Qemu:
    """A QEMU that has the device named ``uuid`` from the end of the constructor until ``stop`` or ``kill``.

    Raises:
        QemuFailed: it did not get the device.
    """

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid
        self._directory = tempfile.TemporaryDirectory(prefix="qemu-")
        monitor = Path(self._directory.name, "monitor")
        self.process = subprocess.Popen(
            [
                *("qemu-system-x86_64", "-accel", "tcg", "-m", "64", "-nodefaults", "-S", "-display", "none"),
                *("-qmp", f"unix:{monitor},server=on,wait=off"),
                *("-device", f"vfio-pci,sysfsdev={SYSFS_DEVICES}/{uuid}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._monitor = socket.socket(socket.AF_UNIX)
        self._monitor.settimeout(PATIENCE)
        try:
            self._greet(monitor)
        except BaseException:
            self.kill()
            raise

    def _greet(self, monitor: Path) -> None:
        # The monitor's socket is there early, its greeting only when all devices are attached.
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self._monitor.connect(str(monitor))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if self.process.poll() is not None:
                    raise self._failure() from None
                assert time.monotonic() < deadline, "QEMU has no monitor"
                time.sleep(0.05)
        self._replies = self._monitor.makefile("r")
        try:
            greeting = self._replies.readline()
        except ConnectionResetError:
            greeting = ""
        if not greeting:
            raise self._failure()
        self.ask("qmp_capabilities")

    def _failure(self) -> QemuFailed:
        _, said = self.process.communicate(timeout=PATIENCE)
        return QemuFailed(said.strip())

    def ask(self, command: str) -> Any:
        """What the monitor returns for ``command``."""
        self._monitor.sendall(json.dumps({"execute": command}).encode())
        for line in self._replies:
            reply = json.loads(line)
            # Events come in between.
            if "event" not in reply:
                return reply["return"]
        raise self._failure()

    def pci_ids(self) -> set[str]:
        """The guest's PCI devices, as in ``4348:3253``, which is mtty's."""
        return {
            f"{device['id']['vendor']:04x}:{device['id']['device']:04x}"
            for bus in self.ask("query-pci")
            for device in bus["devices"]
        }

    def stop(self) -> None:
        """End it as a shutdown does; the device is free when this returns."""
        self.ask("quit")
        self.process.wait(PATIENCE)
        self._close()

    def kill(self) -> None:
        """End it as a crash does; the device is free when this returns."""
        self.process.kill()
        self.process.wait(PATIENCE)
        self._close()

    def _close(self) -> None:
        if self.process.stderr is not None:
            self.process.stderr.close()
        if hasattr(self, "_replies"):
            self._replies.close()
        self._monitor.close()
        self._directory.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.kill()
