"""A kernel with the three sample drivers: simulated, or with ``MDEV_TEST_KERNEL=real`` the machine's own.

The simulated one comes in two kinds, with files to open and with device nodes; the latter take CAP_MKNOD.

The real one is meant for the virtual machine that ``tests/kernel/run`` boots: all its devices are removed.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deviceplugin.errors import HostError
from deviceplugin.host.kernel import Kernel, LinuxKernel
from deviceplugin.simulator.node.description import load
from deviceplugin.simulator.node.kernel import SimulatedKernel

REAL = os.environ.get("MDEV_TEST_KERNEL") == "real"


def _remove_all(kernel: Kernel) -> None:
    for device in list(kernel.paths.devices.iterdir()):
        kernel.write(kernel.paths.remove(device.name), "1")


@pytest.fixture(params=["real"] if REAL else ["files", "device nodes"])
def kernel(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Kernel]:
    if not REAL:
        nodes = request.param == "device nodes"
        try:
            simulated = SimulatedKernel.build(tmp_path / "node", load("samples"), device_nodes=nodes)
        except HostError as error:
            pytest.skip(str(error))
        yield simulated
        return
    real = LinuxKernel()
    _remove_all(real)
    yield real
    _remove_all(real)


@pytest.fixture
def create(kernel: Kernel) -> Callable[[str], str]:
    """Make a device of a type such as ``mtty-1`` and return its UUID."""

    def create_one(type_id: str) -> str:
        device = str(uuid.uuid4())
        kernel.write(kernel.paths.create(type_id.partition("-")[0], type_id), device)
        return device

    return create_one
