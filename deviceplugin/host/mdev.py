"""Mediated devices as sysfs shows them: reading parents, types and devices; making a device.

Whatever can't be understood is left out by itself and reported as a fault, so that one broken type
takes nothing else with it. Layout and errors are those of the kernel's ``drivers/vfio/mdev``.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from deviceplugin.errors import DeviceGone, HostError, in_words
from deviceplugin.host.kernel import Kernel
from deviceplugin.host.paths import HostPaths
from deviceplugin.inventory import slots
from deviceplugin.inventory.snapshot import Device, Parent, ParentType, PciId, Snapshot

_PAGE = 4096
"""The most that a sysfs attribute can hold."""
_TRIES = 4
_MOMENT = 0.001
"""Seconds in which a device is usually made; what is still between two states then is taken as it is."""


class FaultKind(StrEnum):
    """What is wrong with something in sysfs."""

    UNREADABLE = "unreadable"
    """Reading it failed."""
    COUNT = "count"
    """It is no count."""
    TEXT = "text"
    """It is not UTF-8."""
    NAME = "name"
    """What it is called can't be printed."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something in sysfs that was left out."""

    kind: FaultKind
    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Scan:
    """What a look at the node found."""

    snapshot: Snapshot
    faults: tuple[Fault, ...]


def scan(paths: HostPaths, addresses: Iterable[str] | None = None, *, known: Snapshot | None = None) -> Scan:
    """Read the node.

    Args:
        addresses: the parents to read; all that there are by default.
        known: an earlier snapshot, from which the texts of types are taken that it has already; they
            don't change while a parent lives.

    Raises:
        HostError: sysfs itself can't be read.
    """
    reader = _Reader()
    root = os.fspath(paths.parents)
    if addresses is None:
        addresses = _addresses(paths)
    earlier = known.by_address if known is not None else {}
    parents = []
    for address in sorted(addresses):
        if not address.isprintable():
            reader.fault(FaultKind.NAME, ascii(f"{root}/{address}"), "the parent's name can't be printed")
            continue
        try:
            parent = reader.parent(f"{root}/{address}", address, earlier.get(address))
        except OSError as error:
            # A parent that is leaving takes its files with it one by one; that is no fault.
            if os.path.lexists(f"{root}/{address}"):
                reader.fault(FaultKind.UNREADABLE, f"{root}/{address}", in_words(error))
            continue
        parents.append(parent)
    # What has left one function may be free again in the counts of those that were read after it.
    parents = [reader.without_what_left(parent, f"{root}/{parent.address}") for parent in parents]
    return Scan(Snapshot(tuple(parents)), tuple(reader.faults))


def cards(paths: HostPaths) -> dict[str, list[str]]:
    """The parents of each card, which is read without asking a driver.

    Raises:
        HostError: sysfs itself can't be read.
    """
    found: dict[str, list[str]] = {}
    for address in _addresses(paths):
        found.setdefault(_target_or(f"{paths.parents}/{address}/physfn", address), []).append(address)
    return found


def find(paths: HostPaths, uuid: str) -> Device | None:
    """Look one device up; None where there is none."""
    try:
        # Inside, since resolving a link that goes in that very moment fails too (Python 3.11).
        path = os.path.realpath(paths.device(uuid))
        return Device(
            uuid, _target(f"{path}/mdev_type"), os.path.basename(os.path.dirname(path)), _group(path)
        )
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostError(f"the device {uuid} can't be looked up: {in_words(error)}") from error


def create(kernel: Kernel, parent: str, type_id: str, uuid: str) -> Device:
    """Make a device; blocks for as long as the driver takes.

    Raises:
        HostError: the kernel refused; its cause is the OSError.
        DeviceGone: it was made, and something removed it at once.
    """
    try:
        kernel.write(kernel.paths.create(parent, type_id), uuid)
    except OSError as error:
        raise HostError(f"{parent}: {in_words(error)}") from error
    device = find(kernel.paths, uuid)
    if device is None:
        raise DeviceGone(f"{parent}: the device was made and vanished at once")
    return device


def write_attribute(kernel: Kernel, uuid: str, attribute: str, value: str) -> str | None:
    """Set an attribute in a device's own directory, with the newline that some drivers count on.

    Returns:
        What it reads then; None where it can't be read.

    Raises:
        HostError: the driver refused it.
    """
    try:
        directory = os.path.realpath(kernel.paths.device(uuid))
        path = os.path.realpath(f"{directory}/{attribute}")
        if not path.startswith(f"{directory}/"):
            raise HostError(f"attribute {attribute!r} is not in the device's own directory")
        kernel.write(Path(path), f"{value}\n")
    except ValueError as error:
        raise HostError(
            f"attribute {attribute!r} can't be a file's name, or {value!r} its content"
        ) from error
    except OSError as error:
        raise HostError(f"attribute {attribute!r} refused {value!r}: {in_words(error)}") from error
    try:
        return _read(path).decode(errors="replace").strip()
    except OSError:
        return None


class _Reader:
    """Reads parents and collects what could not be understood."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._texts: dict[str, dict[str, ParentType]] = {}

    def fault(self, kind: FaultKind, path: str, reason: str) -> None:
        self.faults.append(Fault(kind, path, reason))

    def parent(self, link: str, address: str, known: Parent | None) -> Parent:
        path = os.path.realpath(link)
        card = known.card if known is not None else _target_or(f"{path}/physfn", address)
        # The functions of a card are alike: what one type says of itself is read of the first of them.
        earlier = (
            {entry.id: entry for entry in known.types} if known is not None else self._texts.get(card, {})
        )
        told = len(self.faults)
        before = _devices(path, address)
        for _ in range(_TRIES):
            del self.faults[told:]  # What an earlier try complained of is looked at again.
            types = self.types(path, earlier)
            seen, before = before, _devices(path, address)
            if seen == before and None not in seen:
                break
            # A device is coming or going: counts and devices are not of the same moment.
            time.sleep(_MOMENT)
        # Only what was there before and after the counts were read is surely counted in them.
        devices = [device for device in before if device is not None and device in seen]
        if card != address:
            self._texts.setdefault(card, {}).update({entry.id: entry for entry in types})
        if known is not None:
            return Parent(
                address, known.card, known.driver, known.numa_node, known.pci, tuple(types), tuple(devices)
            )
        return Parent(
            address=address,
            card=card,
            driver=_target_or(f"{path}/driver", _target_or(f"{path}/subsystem", "")),
            numa_node=_numa_node(path),
            pci=_pci(path),
            types=tuple(types),
            devices=tuple(devices),
        )

    def without_what_left(self, parent: Parent, link: str) -> Parent:
        """A parent without the devices that have gone since it was read."""
        left = {
            device.uuid for device in parent.devices if not os.path.lexists(f"{link}/{device.uuid}/mdev_type")
        }
        if not left:
            return parent
        return replace(parent, devices=tuple(one for one in parent.devices if one.uuid not in left))

    def types(self, path: str, earlier: Mapping[str, ParentType]) -> list[ParentType]:
        root = f"{path}/mdev_supported_types"
        found = (
            self.type(f"{root}/{type_id}", type_id, earlier.get(type_id))
            for type_id in sorted(os.listdir(root))
        )
        return [entry for entry in found if entry is not None]

    def type(self, path: str, type_id: str, known: ParentType | None) -> ParentType | None:
        attribute = f"{path}/available_instances"
        if not type_id.isprintable():
            reason = "the type's name can't be printed, so nobody could ask for it"
            self.fault(FaultKind.NAME, ascii(path), reason)
            return None
        try:
            raw = _read(attribute)
        except OSError as error:
            if os.path.lexists(path):
                self.fault(FaultKind.UNREADABLE, attribute, in_words(error))
            return None
        # isdigit() of bytes knows ASCII digits only, which int() of text does not.
        count = raw.strip()
        if not count.isdigit() or len(count) > len(str(1 << 64)):
            reason = f"a count was expected, and {count[:40]!r} was found" if count else "is empty"
            self.fault(FaultKind.COUNT, attribute, reason)
            return None
        available = int(count)
        if known is not None:
            if known.available == available:
                return known
            return ParentType(known.id, known.name, known.api, known.description, available)
        return ParentType(
            id=type_id,
            name=self.text(f"{path}/name"),
            api=self.text(f"{path}/device_api"),
            description=self.text(f"{path}/description"),
            available=available,
        )

    def text(self, path: str) -> str:
        """An attribute that may be missing."""
        try:
            return _read(path).decode().strip()
        except FileNotFoundError:
            return ""
        except UnicodeDecodeError:
            self.fault(FaultKind.TEXT, path, "is not UTF-8 and is taken as missing")
        except OSError as error:
            self.fault(FaultKind.UNREADABLE, path, in_words(error))
        return ""


def _addresses(paths: HostPaths) -> list[str]:
    try:
        return sorted(os.listdir(paths.parents))
    except FileNotFoundError:
        return []  # The mdev core is not loaded: a node without parents.
    except OSError as error:
        raise HostError(f"{paths.parents} can't be read: {in_words(error)}") from error


def _devices(path: str, parent: str) -> list[Device | None]:
    """The devices of a parent; None for each that is coming or going."""
    names = sorted(name for name in os.listdir(path) if slots.is_uuid(name))
    return [_device(f"{path}/{name}", name, parent) for name in names]


def _device(path: str, uuid: str, parent: str) -> Device | None:
    try:
        return Device(uuid, _target(f"{path}/mdev_type"), parent, _group(path))
    except OSError:
        return None  # Not a device, or one that is coming or going; an event follows.


def _group(path: str) -> int | None:
    try:
        group = _target(f"{path}/iommu_group")
    except FileNotFoundError:
        return None  # Whatever else fails is no word that there is none.
    return int(group) if group.isdecimal() and group.isascii() else None


def _pci(path: str) -> PciId | None:
    try:
        return PciId(int(_read(f"{path}/vendor"), 16), int(_read(f"{path}/device"), 16))
    except (OSError, ValueError):
        return None


def _numa_node(path: str) -> int | None:
    try:
        node = int(_read(f"{path}/numa_node"))
    except (OSError, ValueError):
        return None
    return node if 0 <= node <= slots.MAX_NUMA_NODE else None


def _read(path: str) -> bytes:
    # What is not of sysfs may wait for a writer, as a pipe does.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.read(fd, _PAGE)
    finally:
        os.close(fd)


def _target(link: str) -> str:
    name = os.path.basename(os.readlink(link))
    if not name.isprintable():
        raise OSError(errno.EILSEQ, os.strerror(errno.EILSEQ), link)
    return name


def _target_or(link: str, otherwise: str) -> str:
    try:
        return _target(link)
    except OSError:
        return otherwise
