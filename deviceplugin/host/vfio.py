"""The claim: proof that nobody uses a device, and a lock while it is removed.

A VFIO group can be open once. Whoever opens it knows that no VM has it and that none can get it while
it stays open; so ``remove`` is written while the group is held, and only then. Written to a device in
use it would block beyond SIGKILL and pull the device from the VM.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deviceplugin.errors import DeviceBusy, DeviceGone, HostError, in_words
from deviceplugin.host.kernel import Kernel
from deviceplugin.host.mdev import find


@contextmanager
def claim(kernel: Kernel, uuid: str) -> Iterator[None]:
    """Hold a device's group for the length of the block.

    Raises:
        DeviceBusy: somebody has it.
        DeviceGone: there is no such device.
        HostError: its use can't be determined, which means that it has to be left alone.
    """
    device = find(kernel.paths, uuid)
    if device is None:
        raise DeviceGone(f"there is no device {uuid}")
    if device.group is None:
        if os.path.lexists(kernel.paths.device(uuid) / "vfio-dev"):
            raise HostError(
                f"the device {uuid} has no VFIO group, only a character device, "
                "so it can't be proved that nobody uses it"
            )
        yield  # Without a group and a character device there is no way to use it.
        return
    try:
        fd = kernel.open_group(device.group)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise DeviceBusy(f"the device {uuid} is in use: its VFIO group {device.group} is open") from error
        if find(kernel.paths, uuid) is None:
            raise DeviceGone(f"the device {uuid} vanished") from error
        raise HostError(
            f"the VFIO group {device.group} of {uuid} can't be opened: {in_words(error)}"
        ) from error
    try:
        # Group numbers are used again at once: what is open must still be this device's.
        now = find(kernel.paths, uuid)
        if now is None or now.group != device.group:
            raise DeviceGone(f"the device {uuid} vanished while it was being claimed")
        yield
    finally:
        os.close(fd)


def remove_unused(kernel: Kernel, uuid: str, *, still_wanted: Callable[[], bool] = lambda: True) -> bool:
    """Remove a device if nobody uses it. Returns False where there was none any more.

    Args:
        still_wanted: asked at the last moment: whoever wanted it may have given up waiting.

    Raises:
        DeviceBusy: somebody has it; nothing was done.
        HostError: the kernel refused, or the device's use can't be determined.
    """
    try:
        with claim(kernel, uuid):
            if not still_wanted():
                raise HostError(f"the removal of {uuid} was given up")
            try:
                kernel.write(kernel.paths.remove(uuid), "1")
            except OSError as error:
                # Some drivers clean up by themselves and then refuse: what counts is that it is gone.
                if find(kernel.paths, uuid) is not None:
                    raise HostError(f"the device {uuid} could not be removed: {in_words(error)}") from error
    except DeviceGone:
        return False
    return True


def is_held(kernel: Kernel, uuid: str) -> bool:
    """Whether somebody has the device's group open. Opens it for a moment itself.

    Raises:
        HostError: that can't be determined.
    """
    try:
        with claim(kernel, uuid):
            return False
    except DeviceBusy:
        return True
    except DeviceGone:
        return False
