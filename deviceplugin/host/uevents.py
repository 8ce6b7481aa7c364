"""The kernel's uevents, by netlink.

Source ``kernel`` and not ``udev``: only the kernel's own messages reach the network namespace of a pod.
"""

from __future__ import annotations

import errno
import os
import socket
import time

import pyudev

from deviceplugin.host.kernel import Uevent, UeventsLost

_RECEIVE_BUFFER = 16 << 20
"""Bytes; a card with all its functions registers in one burst of events."""
_AT_ONCE = 0.005
"""Seconds that are read in one go: in a flood others have to have their turn, too."""
_BACKLOG = 4096
"""Events that are read without the queue being empty once; with more, a look at everything is quicker."""
_OURS = ("mdev", "vfio", "vfio-dev")
"""The subsystems whose events say something of devices."""


class NetlinkUevents:
    """A netlink socket that the kernel sends its events to."""

    def __init__(self) -> None:
        self._monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="kernel")
        try:
            self._monitor.set_receive_buffer_size(_RECEIVE_BUFFER)
        except OSError as error:
            # Needs CAP_NET_ADMIN. With the default size more is lost, and a loss means a rescan.
            if error.errno not in (errno.EPERM, errno.EACCES):
                raise
        self._monitor.start()
        self._read_in_a_row = 0

    def fileno(self) -> int:
        return int(self._monitor.fileno())

    def receive(self) -> list[Uevent]:
        events: list[Uevent] = []
        until = time.monotonic() + _AT_ONCE
        try:
            while (device := self._monitor.poll(timeout=0)) is not None:
                events.append(_event(device))
                if time.monotonic() > until:
                    break
        except UnicodeDecodeError as error:
            # Any device of the node may have such a name; this event and those read with it are gone.
            raise UeventsLost from error
        except OSError as error:
            # When the buffer is full, pyudev's error bears no errno: the socket itself has it.
            if errno.ENOBUFS in (error.errno, self._pending_error()):
                raise UeventsLost from error
            raise
        self._read_in_a_row = self._read_in_a_row + len(events) if device is not None else 0
        if self._read_in_a_row > _BACKLOG:
            raise UeventsLost
        return events

    def _pending_error(self) -> int:
        with socket.socket(fileno=os.dup(self.fileno())) as duplicate:
            return duplicate.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def close(self) -> None:
        # pyudev closes the socket with the monitor's last reference.
        del self._monitor


def _event(device: pyudev.Device) -> Uevent:
    """An event in our words. Reading all that it says costs most, so it is done where it matters."""
    properties = device.properties
    subsystem = properties.get("SUBSYSTEM") or ""
    concerns_us = subsystem in _OURS or properties.get("MDEV_STATE") is not None
    return Uevent(
        action=device.action or "",
        devpath=device.device_path,
        subsystem=subsystem,
        properties=dict(properties) if concerns_us else {},
    )
