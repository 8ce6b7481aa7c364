"""What the tests on a real kernel share. ``tests/kernel/run`` runs them, in a virtual machine."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from deviceplugin.host.kernel import Kernel, LinuxKernel
from tests.component.world import TUNED, Stage
from tests.kernel.modules import SAMPLES, Modules
from tests.kernel.waiting import wait_until

_HERE = Path(__file__).parent
PATIENCE = 60.0
"""Seconds; a machine without KVM takes ten times as long for everything."""
NARROWED = (
    "setpriv",
    "--no-new-privs",
    "--bounding-set=-all,+dac_override,+net_admin",
    "--inh-caps=-all",
    "--",
)
"""All that the Helm chart leaves an agent of root's privileges, by its default values."""
EMPTY = {
    "mtty_1": 24,
    "mtty_2": 12,
    "mdpy_vga": 4,
    "mbochs_small": 64,
    "mbochs_medium": 16,
    "mbochs_large": 4,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep these tests from a machine whose devices somebody needs: they remove every device they find."""
    if os.environ.get("MDEV_TEST_KERNEL") == "real":
        return
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="needs a real kernel: 'make test-kernel' boots one"))


def remove_all_devices(kernel: LinuxKernel) -> None:
    """Remove every device, each as soon as nobody has it; in use, its removal would never return."""

    def is_free(group: int) -> bool:
        try:
            os.close(kernel.open_group(group))
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True

    devices = kernel.paths.devices
    for device in devices.iterdir() if devices.exists() else ():
        group = group_of(kernel, device.name)
        wait_until(partial(is_free, group), f"device {device.name} given back by its user")
        kernel.write(kernel.paths.remove(device.name), "1")


@pytest.fixture
def kernel() -> LinuxKernel:
    return LinuxKernel()


@pytest.fixture(scope="session")
def _modules() -> Modules:
    return Modules(Path(os.environ["MDEV_TEST_MODULES"]))


@pytest.fixture(autouse=True)
def modules(_modules: Modules, kernel: LinuxKernel) -> Iterator[Modules]:
    """The sample drivers: all of them loaded, and no device, before a test and after it."""
    _modules.load_all()
    remove_all_devices(kernel)
    yield _modules
    _modules.load_all()
    remove_all_devices(kernel)


@pytest.fixture
def create(kernel: LinuxKernel) -> Callable[[str], str]:
    """Make a device of a type (``mtty-1``) by hand and return its UUID."""

    def create_one(type_id: str) -> str:
        parent = type_id.partition("-")[0]
        assert parent in SAMPLES
        new = str(uuid.uuid4())
        kernel.write(kernel.paths.create(parent, type_id), new)
        wait_until(kernel.paths.group(group_of(kernel, new)).exists, f"the device node of {new}")
        return new

    return create_one


@pytest.fixture
async def stage(kernel: LinuxKernel, request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    """An agent that has told of an empty node; its configuration may be the fixture's parameter."""
    directory = Path(tempfile.mkdtemp(prefix="mdev-", dir="/tmp"))
    config = getattr(request, "param", TUNED)
    stage = Stage(directory, kernel, config=config, kubelet={}, launcher=NARROWED)
    await stage.kubelet.start()
    await stage.start_agent()
    try:
        await stage.offers(within=PATIENCE, **EMPTY)
        yield stage
    finally:
        wrong = await stage.end()
        print(stage.raw_log)
        shutil.rmtree(directory)
    assert not wrong, "\n".join(wrong)


def group_of(kernel: Kernel, device: str) -> int:
    """The VFIO group of a device."""
    return int((kernel.paths.device(device) / "iommu_group").readlink().name)
