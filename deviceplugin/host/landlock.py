"""Landlock: this process gives up writing anywhere but where it has business, for good.

Linux has it since 5.13, and it takes no privilege. Reading is not restricted, and neither is connecting to a
unix socket by its path. Numbers and structures are those of the kernel's ``include/uapi/linux/landlock.h``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from deviceplugin.errors import HostError, in_words

# The same numbers on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION = 1
_PATH_BENEATH = 1
_SET_NO_NEW_PRIVS = 38

_WRITE_FILE = 1 << 1
_REMOVE = 1 << 4 | 1 << 5
_MAKE = 0b1111111 << 6
"""Character devices, directories, files, sockets, pipes, block devices and links."""
_NEWER = {2: 1 << 13, 3: 1 << 14}
"""Rights by the first version that knows them: moving files to another directory, and truncating them."""


def version() -> int:
    """The version of Landlock that the kernel has; 0 if it has none, or has it switched off.

    Raises:
        OSError: that can't be told.
    """
    try:
        return _call(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION)
    except OSError as error:
        if error.errno in {errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}:
            return 0  # EPERM: a container runtime's filter that does not know the call.
        raise


def confine(*, change: Iterable[Path], write: Iterable[Path]) -> bool:
    """Have this process write below these directories only; False if the kernel has no Landlock.

    It restricts the calling thread and all that this one starts.

    Args:
        change: where files are made, written and removed.
        write: where files that exist are written. Of both, what does not exist is left out.

    Raises:
        HostError: the kernel has Landlock and refused, or there are other threads already.
    """
    try:
        known = version()
        if not known:
            return False
        if len([*Path("/proc/self/task").iterdir()]) > 1:
            raise HostError("Landlock would leave threads out that run already")
        handled = _WRITE_FILE | _REMOVE | _MAKE
        for first, right in _NEWER.items():
            handled |= right if known >= first else 0
        ruleset = _call(_CREATE_RULESET, struct.pack("=Q", handled), ctypes.c_size_t(8), 0)
        try:
            for path in change:
                _allow(ruleset, path, handled)
            for path in write:
                _allow(ruleset, path, _WRITE_FILE)
            if _libc().prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            _call(_RESTRICT_SELF, ruleset, 0)
        finally:
            os.close(ruleset)
    except OSError as error:
        raise HostError(f"Landlock can't be had, though the kernel has it: {in_words(error)}") from error
    return True


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not path.is_dir():
            rights &= _WRITE_FILE
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, fd), 0)
    finally:
        os.close(fd)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc().syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
