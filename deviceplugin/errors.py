"""What can go wrong, as one small tree.

::

    PluginError                 a sentence for the person on call: asked, found, what to do
    ├── ConfigError             the configuration file, a flag or a node description
    ├── HostError               the node: sysfs, a device node, a driver
    │   ├── DeviceBusy          something holds the device
    │   └── DeviceGone          there is no such device (any more)
    ├── AllocationError         a request of the kubelet that can't be met
    │   ├── BadRequest          … because it makes no sense
    │   ├── UnknownDevice       … because it names what was never offered
    │   ├── NoRoom              … because no parent could take it
    │   └── TooSlow             … because the driver did not answer in time
    └── KubeletError            the kubelet did not answer, or not as it should

Every message is whole sentences. ``kubelet.translation`` turns them into gRPC status codes, and ``cli`` into
exit codes; nothing else does either.
"""

from __future__ import annotations

import errno
import os


def in_words(error: Exception | int) -> str:
    """An OSError or an errno in words: the errno's name, which people search for, and its meaning.

    What has no errno says what it says itself.
    """
    if isinstance(error, int):
        return f"{errno.errorcode.get(error, 'unknown error')} ({os.strerror(error)})"
    if not isinstance(error, OSError) or not error.errno:
        return str(error) or "unknown error"
    meaning = error.strerror or os.strerror(error.errno)
    name = errno.errorcode.get(error.errno)
    return f"{name} ({meaning})" if name else meaning


class PluginError(Exception):
    """Something that was asked for can't be done; the message says what and why."""


class ConfigError(PluginError):
    """The configuration, a flag or a node description can't be used."""


class HostError(PluginError):
    """The node refused something or shows something that can't be understood."""


class DeviceBusy(HostError):
    """The device is held by somebody, a VM in all likelihood."""


class DeviceGone(HostError):
    """The device does not exist, or vanished meanwhile."""


class AllocationError(PluginError):
    """The kubelet's request can't be met."""


class BadRequest(AllocationError):
    """The request makes no sense."""


class UnknownDevice(AllocationError):
    """The request names a device that this endpoint never offered."""


class NoRoom(AllocationError):
    """No parent could take the device."""


class TooSlow(AllocationError):
    """A driver did not answer in time."""


class KubeletError(PluginError):
    """The kubelet did not answer, or not as it should."""
