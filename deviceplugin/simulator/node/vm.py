"""A VM stand-in: it holds a device as QEMU would, in this process or in one of its own.

``python -m deviceplugin.simulator.node.vm DIR UUID`` prints ``holding UUID`` once it does, and lets go at
SIGTERM or when its standard input ends.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deviceplugin.errors import ConfigError, in_words
from deviceplugin.simulator.node.kernel import SimulatedKernel


class VirtualMachine:
    """Something that has a device open from its making until ``stop``."""

    def __init__(self, kernel: SimulatedKernel, uuid: str) -> None:
        """Attach a device.

        Raises:
            OSError: EBUSY somebody has it, ENOENT or ENODEV it is not there, or what a fault says.
        """
        self.uuid = uuid
        self._kernel = kernel
        self.group = int((kernel.paths.device(uuid) / "iommu_group").readlink().name)
        self._fds = [kernel.open_group(self.group)]
        try:
            self._fds.append(kernel.open_device(uuid))
        except OSError:
            self._close()
            raise

    def stop(self) -> None:
        """Let go; a removal that waited for this is finished on return."""
        if self._fds:
            self._close()
            self._kernel.settle()

    def _close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())


@contextmanager
def hold(kernel: SimulatedKernel, uuid: str) -> Iterator[VirtualMachine]:
    """Have a VM hold a device for a while; raises as ``VirtualMachine`` does."""
    machine = VirtualMachine(kernel, uuid)
    try:
        yield machine
    finally:
        machine.stop()


def main(arguments: list[str]) -> int:
    """Be a VM; the result is the exit status."""
    if len(arguments) != 2:  # noqa: PLR2004 - the two that the docstring names
        sys.stderr.write("Usage: python -m deviceplugin.simulator.node.vm DIR UUID\n")
        return 2
    directory, uuid = arguments
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with hold(SimulatedKernel(Path(directory)), uuid):
            sys.stdout.write(f"holding {uuid}\n")
            sys.stdout.flush()
            while os.read(sys.stdin.fileno(), 4096):
                pass
    except (OSError, ConfigError) as error:
        sys.stderr.write(f"The device {uuid} can't be attached: {in_words(error)}.\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
