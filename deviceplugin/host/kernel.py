"""What the kernel does when it is asked: the seam below which the simulator can take its place.

Reading needs no seam, since a simulated node is a tree of files like the real one. Three things do:
writing to an attribute, opening a VFIO group, and listening for events.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from deviceplugin.errors import HostError, in_words
from deviceplugin.host.paths import HostPaths


@dataclass(frozen=True, slots=True)
class Uevent:
    """A change of a device, as the kernel announces it."""

    action: str
    """``add``, ``remove``, ``change``, ``bind`` or ``unbind``."""
    devpath: str
    """The device's path below the root of sysfs, with a leading slash."""
    subsystem: str
    properties: Mapping[str, str] = field(default_factory=dict)
    """What else it says; left empty where it concerns neither a mediated device nor a parent."""


class UeventsLost(Exception):
    """Events came faster than they were read: what they told has to be looked up."""


class UeventSource(Protocol):
    """A queue of events that began when it was opened."""

    def fileno(self) -> int:
        """A descriptor that is readable when there are events."""
        ...

    def receive(self) -> list[Uevent]:
        """The events that are waiting, oldest first, without blocking; more may be left for the next call.

        Raises:
            UeventsLost: some events are gone for good.
            OSError: the source is of no use any more.
        """
        ...

    def close(self) -> None: ...


class Kernel(Protocol):
    """A node's kernel."""

    @property
    def paths(self) -> HostPaths: ...

    def write(self, path: Path, text: str) -> None:
        """Write ``text`` to a sysfs attribute in one piece; blocks for as long as the driver takes.

        Raises:
            OSError: with the errno that the kernel answered.
        """
        ...

    def open_group(self, group: int) -> int:
        """Open a VFIO group and return the file descriptor. A group can be open once.

        Raises:
            OSError: EBUSY while somebody else has it, ENOENT where there is none.
            HostError: what is there is not the group.
        """
        ...

    def uevents(self) -> UeventSource:
        """Begin to listen.

        Raises:
            OSError: the node does not let us.
        """
        ...


class LinuxKernel:
    """The kernel of the machine that this runs on."""

    def __init__(self, paths: HostPaths | None = None) -> None:
        self.paths = paths or HostPaths()

    def write(self, path: Path, text: str) -> None:
        # The kernel's links stay in sysfs. One that leads out of it is not the kernel's.
        where = os.path.realpath(path)
        if not where.startswith(f"{os.path.realpath(self.paths.sysfs)}/"):
            raise OSError(errno.EXDEV, f"{os.strerror(errno.EXDEV)}: it leads out of sysfs", where)
        # Without O_CREAT and O_TRUNC: an attribute that is not there must be an error, not a new file.
        fd = os.open(where, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def open_group(self, group: int) -> int:
        # Looked at before it is opened: opening something else would prove nothing, and might do something.
        path = self.paths.group(group)
        there = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._prove_group(group, os.fstat(there))
            return os.open(f"/proc/self/fd/{there}", os.O_RDWR | os.O_CLOEXEC)
        finally:
            os.close(there)

    def _prove_group(self, group: int, found: os.stat_result) -> None:
        """Make sure that a file is the device that sysfs names for a group.

        Raises:
            HostError: it is not.
        """
        path, names = self.paths.group(group), self.paths.group_number(group)
        try:
            expected = names.read_text("ascii").strip()
        except (OSError, ValueError) as error:
            raise HostError(
                f"{path} can't be proved to be the VFIO group {group}, since {names} can't be read: "
                f"{in_words(error)}"
            ) from error
        number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
        if not stat.S_ISCHR(found.st_mode) or number != expected:
            what = f"the character device {number}" if stat.S_ISCHR(found.st_mode) else "no character device"
            raise HostError(
                f"{path} is {what} and not {expected}, which sysfs names for the VFIO group {group}; "
                "so opening it would prove nothing"
            )

    def uevents(self) -> UeventSource:
        # Imported here, since only a real node needs libudev.
        from deviceplugin.host.uevents import NetlinkUevents

        return NetlinkUevents()
