"""Files that can be open once on a node, and are let go with the process that has them, even at kill -9.

The lock is on the inode. So it works on device nodes too, each for itself although all have one number; and
what a container runtime makes of one inside a container is another one: having that open holds nothing here.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

from deviceplugin.simulator.node.state import refusal


def open_exclusively(path: Path) -> int:
    """Open a file that can be open once; what holds it is let go with the descriptor, or with its process.

    Raises:
        OSError: EBUSY somebody has it, ENOENT it is not there.
    """
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Meanwhile the device may have gone, and another one may have got its number.
        if not os.path.samestat(os.fstat(fd), path.stat()):
            raise refusal(errno.ENOENT, path)
    except BlockingIOError:
        os.close(fd)
        raise refusal(errno.EBUSY, path) from None
    except OSError:
        os.close(fd)
        raise
    return fd


def is_free(path: Path) -> bool:
    """Whether nobody has a file open that can be open once; true also if there is none."""
    with suppress(FileNotFoundError):
        try:
            os.close(open_exclusively(path))
        except OSError as error:
            if error.errno == errno.EBUSY:
                return False
            raise
    return True
