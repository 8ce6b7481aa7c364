"""Who has a device, and who can take it: the facts that the claim on a device rests on."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from deviceplugin.host.kernel import LinuxKernel
from tests.kernel.conftest import group_of
from tests.kernel.qemu import Qemu, QemuFailed
from tests.kernel.waiting import PATIENCE, wait_until

MTTY = "4348:3253"
"""The PCI ID of the serial card that mtty pretends to be."""


@contextmanager
def held(kernel: LinuxKernel, group: int) -> Iterator[None]:
    descriptor = kernel.open_group(group)
    try:
        yield
    finally:
        os.close(descriptor)


def assert_busy(kernel: LinuxKernel, group: int) -> None:
    with pytest.raises(OSError, match="busy") as refused, held(kernel, group):
        pass
    assert refused.value.errno == errno.EBUSY


def test_a_virtual_machine_finds_the_device(create: Callable[[str], str]) -> None:
    with Qemu(create("mtty-1")) as qemu:
        assert MTTY in qemu.pci_ids()


@pytest.mark.parametrize("end", [Qemu.stop, Qemu.kill], ids=["shutdown", "crash"])
def test_a_group_is_busy_until_its_virtual_machine_ends(
    kernel: LinuxKernel, create: Callable[[str], str], end: Callable[[Qemu], None]
) -> None:
    device = create("mtty-1")
    group = group_of(kernel, device)
    with Qemu(device) as qemu:
        assert_busy(kernel, group)
        end(qemu)
    with held(kernel, group):
        pass


def test_a_virtual_machine_cannot_have_a_device_whose_group_we_hold(
    kernel: LinuxKernel, create: Callable[[str], str]
) -> None:
    device = create("mtty-1")
    with held(kernel, group_of(kernel, device)), pytest.raises(QemuFailed, match="Device or resource busy"):
        Qemu(device)
    with Qemu(device) as qemu:
        assert MTTY in qemu.pci_ids()


def test_two_virtual_machines_cannot_share_a_device(create: Callable[[str], str]) -> None:
    device = create("mtty-1")
    with Qemu(device) as first:
        with pytest.raises(QemuFailed, match="Device or resource busy"):
            Qemu(device)
        assert MTTY in first.pci_ids()


def test_two_virtual_machines_have_a_device_each(create: Callable[[str], str]) -> None:
    with Qemu(create("mtty-1")) as first, Qemu(create("mtty-2")) as second:
        assert MTTY in first.pci_ids()
        assert MTTY in second.pci_ids()


def test_a_device_that_we_hold_is_removed_at_once(kernel: LinuxKernel, create: Callable[[str], str]) -> None:
    device = create("mtty-1")
    with held(kernel, group_of(kernel, device)):
        began = time.monotonic()
        kernel.write(kernel.paths.remove(device), "1")
        assert time.monotonic() - began < 5
        assert not kernel.paths.device(device).exists()


def test_a_device_removed_in_use_is_out_of_sight_while_the_write_waits_for_its_virtual_machine(
    kernel: LinuxKernel, create: Callable[[str], str]
) -> None:
    device = create("mtty-1")
    with Qemu(device) as qemu:
        remover = subprocess.Popen(["/bin/sh", "-c", 'echo 1 > "$0"', str(kernel.paths.remove(device))])
        wait_until(lambda: not kernel.paths.device(device).exists(), "the device out of sight")
        remover.kill()
        # A second in which it would have died, could it die.
        with pytest.raises(subprocess.TimeoutExpired):
            remover.wait(1)
        qemu.kill()
        remover.wait(PATIENCE)
