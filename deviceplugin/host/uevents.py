"""The kernel's uevents, by netlink.

Source ``kernel`` and not ``udev``: only the kernel's own messages reach the network namespace of a pod.
"""

from __future__ import annotations

import errno

import pyudev

from deviceplugin.host.kernel import Uevent, UeventsLost

_RECEIVE_BUFFER = 16 << 20
"""Bytes; a card with all its functions registers in one burst of events."""


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

    def fileno(self) -> int:
        return int(self._monitor.fileno())

    def receive(self) -> list[Uevent]:
        events = []
        try:
            while (device := self._monitor.poll(timeout=0)) is not None:
                properties = dict(device.properties)
                events.append(
                    Uevent(
                        action=device.action or "",
                        devpath=device.device_path,
                        subsystem=properties.get("SUBSYSTEM", ""),
                        properties=properties,
                    )
                )
        except UnicodeDecodeError as error:
            # Any device of the node may have such a name; this event and those read with it are gone.
            raise UeventsLost from error
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                raise UeventsLost from error
            raise
        return events

    def close(self) -> None:
        # pyudev closes the socket with the monitor's last reference.
        del self._monitor
