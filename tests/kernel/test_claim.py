"""The claim on a device, against virtual machines that use it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

import pytest

from deviceplugin.errors import DeviceBusy, HostError
from deviceplugin.host import mdev, vfio
from deviceplugin.host.kernel import LinuxKernel
from tests.kernel.qemu import Qemu, QemuFailed


def test_a_device_in_use_is_not_removed_and_its_virtual_machine_keeps_it(
    kernel: LinuxKernel, create: Callable[[str], str]
) -> None:
    device = create("mtty-1")
    with Qemu(device) as qemu:
        with pytest.raises(DeviceBusy, match="in use"):
            vfio.remove_unused(kernel, device)
        assert vfio.is_held(kernel, device)
        assert kernel.paths.device(device).exists()
        assert "4348:3253" in qemu.pci_ids()
    assert vfio.remove_unused(kernel, device)
    assert not kernel.paths.device(device).exists()


def test_a_virtual_machine_that_comes_while_a_device_is_claimed_fails_and_the_next_has_it(
    kernel: LinuxKernel, create: Callable[[str], str]
) -> None:
    device = create("mtty-1")
    with vfio.claim(kernel, device), pytest.raises(QemuFailed, match="busy"):
        Qemu(device)
    assert not vfio.is_held(kernel, device)
    with Qemu(device):
        assert vfio.is_held(kernel, device)


@pytest.mark.parametrize("kind", [stat.S_IFREG, stat.S_IFIFO, stat.S_IFCHR], ids=["file", "pipe", "null"])
def test_what_is_not_the_groups_device_is_no_proof(
    kernel: LinuxKernel, create: Callable[[str], str], kind: int
) -> None:
    device = create("mtty-1")
    found = mdev.find(kernel.paths, device)
    assert found is not None
    assert found.group is not None
    node = kernel.paths.group(found.group)
    aside = node.with_name("aside")
    node.rename(aside)
    try:
        os.mknod(node, kind | 0o600, os.makedev(1, 3))
        with pytest.raises(HostError, match="would prove nothing"):
            vfio.remove_unused(kernel, device)
    finally:
        node.unlink()
        aside.rename(node)
    assert kernel.paths.device(device).exists()
    assert vfio.remove_unused(kernel, device)


def test_a_device_that_is_gone_needs_no_removal(kernel: LinuxKernel, create: Callable[[str], str]) -> None:
    device = create("mtty-1")
    assert vfio.remove_unused(kernel, device)
    assert not vfio.remove_unused(kernel, device)
    assert mdev.find(kernel.paths, device) is None
