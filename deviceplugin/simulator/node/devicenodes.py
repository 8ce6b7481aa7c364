"""Real device nodes in the place of a node's VFIO files, for container runtimes: these hand on nothing else.

Each is a ``/dev/null`` of another name: any container may open it, whatever else it may not, and opening it
never blocks. All have one number, yet each has an inode of its own, which is what exclusive opening locks.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from deviceplugin.errors import HostError, in_words
from deviceplugin.simulator.node.exclusive import open_exclusively

_NULL = os.makedev(1, 3)


def make(path: Path) -> None:
    """Make a device node.

    Raises:
        HostError: this process or the file system may have none.
    """
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, _NULL)
    except PermissionError as error:
        if error.errno != errno.EPERM:
            raise
        raise HostError(
            f"no device node can be made in {path.parent}: {in_words(error)}; that takes "
            "root with the capability MKNOD (in a container: securityContext.capabilities.add), no user "
            "namespace, and a file system that has device nodes"
        ) from error


def prove(path: Path) -> None:
    """Find out whether device nodes can be made and opened beside ``path``, which there is for a moment.

    Asked before anything is done that depends on it.

    Raises:
        HostError: they can't.
    """
    path.unlink(missing_ok=True)
    make(path)
    try:
        os.close(os.open(path, os.O_RDWR))
    except PermissionError as error:
        raise HostError(
            f"a device node made in {path.parent} can't be opened: {in_words(error)}; "
            "choose a directory whose file system is not mounted with nodev"
        ) from error
    finally:
        path.unlink()


def open_group(path: Path, *, device_nodes: bool) -> int:
    """Open what a node has for a group: one of these device nodes, or a file.

    Raises:
        OSError: EBUSY somebody has it, ENOENT it is not there.
        HostError: something else is there.
    """
    fd = open_exclusively(path)
    found = os.fstat(fd)
    is_a_node = stat.S_ISCHR(found.st_mode) and found.st_rdev == _NULL
    if not (is_a_node if device_nodes else stat.S_ISREG(found.st_mode)):
        os.close(fd)
        raise HostError(f"{path} is not what this node has for a group")
    return fd
