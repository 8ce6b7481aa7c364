"""The node's state and the kernel's rules over it: pure functions, no file is touched here.

What a driver counts, what the mdev core refuses and with which errno follows Linux 6.1
(``drivers/vfio/mdev/mdev_core.c``, ``mdev_sysfs.c``, ``samples/vfio-mdev``); what other drivers do is in
their descriptions.
"""

from __future__ import annotations

import errno
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Literal

from deviceplugin.simulator.node.cards import Card, Model, NodeDescription, TypeDescription

FaultKind = Literal["slow-create", "fail-create", "fail-remove", "fail-attach", "odd-count", "no-name"]
Draft = tuple[str, str, str, dict[str, str]]
"""An event without its number: action, devpath, subsystem, properties."""
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
UUID_LENGTH = 36


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A mediated device, or one on its way in or out; all of them use up room."""

    uuid: str
    type: str
    parent: str
    phase: Literal["creating", "alive", "leaving"] = "alive"
    group: int | None = None
    """The VFIO group; None while the device is being created."""
    values: dict[str, str] = field(default_factory=dict)
    """What the driver's attributes read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that is to go wrong."""

    kind: FaultKind
    parent: str | None = None
    """Where; None is everywhere."""
    type: str | None = None
    """With which type; None is any."""
    seconds: float = 0
    errno: int = 0
    content: str | None = None
    """What the file reads, one character per byte (Latin-1); None: there is no such file."""
    times: int | None = None
    """How often; None is until it is cleared."""

    def hits(self, parent: str, type_id: str) -> bool:
        return self.parent in (None, parent) and self.type in (None, type_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A uevent with its place in the order of all."""

    sequence: int
    action: str
    devpath: str
    subsystem: str
    properties: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class State:
    """All that distinguishes one moment of a node from another."""

    generation: int = 0
    """How many commits led here."""
    first_group: int = 0
    sequence: int = 0
    """The number of the last event."""
    devices: dict[str, Device] = field(default_factory=dict)
    away: dict[str, Literal["leaving", "gone"]] = field(default_factory=dict)
    """Parents that unregistered, or that do so as soon as their last device is gone."""
    faults: tuple[Fault, ...] = ()
    events: tuple[Event, ...] = ()
    """Those of the last commit, so that they outlive the process that made it."""
    touched: tuple[str, ...] = ()
    """The cards that the last commit changed."""

    def on(self, parents: Iterable[str]) -> list[Device]:
        """The devices that those parents carry."""
        wanted = set(parents)
        return [device for device in self.devices.values() if device.parent in wanted]

    def fault(self, kind: FaultKind, *, parent: str, type_id: str) -> Fault | None:
        """The first fault that applies."""
        return next(
            (fault for fault in self.faults if fault.kind == kind and fault.hits(parent, type_id)), None
        )

    def using(self, fault: Fault) -> State:
        """The state after that fault struck once."""
        if fault.times is None:
            return self
        left = (replace(fault, times=fault.times - 1),) if fault.times > 1 else ()
        index = self.faults.index(fault)
        return replace(self, faults=(*self.faults[:index], *left, *self.faults[index + 1 :]))

    def put(self, device: Device) -> State:
        return replace(self, devices={**self.devices, device.uuid: device})

    def drop(self, uuid: str) -> State:
        return replace(self, devices={key: device for key, device in self.devices.items() if key != uuid})

    def free_group(self) -> int:
        """The lowest number that is free: the kernel hands numbers out again at once."""
        taken = {device.group for device in self.devices.values()}
        return next(number for number in count(self.first_group) if number not in taken)


def refusal(code: int, path: object = None) -> OSError:
    """The kernel's refusal, as the system call would raise it."""
    return OSError(code, os.strerror(code), *([] if path is None else [str(path)]))


def room(model: Model, kind: TypeDescription, carried: Counter[str]) -> int:
    """How many more devices of a type a card could take that carries so many of each type."""
    limits = []
    for other in carried:
        if (model.mixes == "none" and other != kind.id) or (
            model.mixes == "size" and model.offered[other].takes != kind.takes
        ):
            return 0
    if model.instances is not None:
        limits.append(model.instances - carried.total())
    if kind.max is not None:
        limits.append(kind.max - carried[kind.id])
    for pool, amount in kind.takes.items():
        if amount:
            used = sum(model.offered[other].takes.get(pool, 0) * number for other, number in carried.items())
            limits.append((model.pools[pool] - used) // amount)
    return max(0, min(limits, default=1))


def available(card: Card, state: State) -> dict[tuple[str, str], int]:
    """What ``available_instances`` says, by parent and type, for all parents of a card."""
    model = card.model
    devices = state.on(card.parents)
    carried = Counter(device.type for device in devices)
    rooms = {kind.id: room(model, kind, carried) for kind in model.offered.values()}
    if not model.vfs:
        return {(parent, kind): number for parent in card.parents for kind, number in rooms.items()}
    # A virtual function carries one device;
    # each free one says 1 for what fits the card: the sum overstates.
    used = {device.parent for device in devices}
    shown = {kind: min(1, number) for kind, number in rooms.items()}
    return {
        (parent, kind): 0 if parent in used else number
        for parent in card.parents
        for kind, number in shown.items()
    }


def parse_uuid(text: str) -> str:
    """The UUID that a write to ``create`` means: 36 characters, and one more that the kernel ignores.

    Raises:
        OSError: EINVAL, it is none.
    """
    length = len(text.encode())
    if not UUID_LENGTH <= length <= UUID_LENGTH + 1 or not UUID.fullmatch(text[:UUID_LENGTH]):
        raise refusal(errno.EINVAL)
    return text[:UUID_LENGTH].lower()


def parse_number(text: str) -> int:
    """An unsigned number as ``kstrtoul`` reads it with base 0, with or without a newline behind.

    Raises:
        OSError: EINVAL, it is none.
    """
    match = re.fullmatch(r"\+?(?:0x([0-9a-f]+)|0([0-7]*)|([1-9][0-9]*))\n?", text, re.IGNORECASE)
    if match is None:
        raise refusal(errno.EINVAL)
    value = int(match[1], 16) if match[1] else int(match[3]) if match[3] else int(match[2] or "0", 8)
    if value >= 1 << 64:
        raise refusal(errno.EINVAL)
    return value


def check_create(node: NodeDescription, state: State, *, parent: str, type_id: str, uuid: str) -> None:
    """Let a create pass or refuse it, in the order in which the kernel looks.

    Raises:
        OSError: EEXIST the UUID is known, be it one on its way in or out; ENODEV the parent is leaving;
            EUSERS or ENOSPC nothing is left.
    """
    card = node.card_of[parent]
    if uuid in state.devices:
        raise refusal(errno.EEXIST)
    if parent in state.away:
        raise refusal(errno.ENODEV)
    if available(card, state)[parent, type_id] < 1:
        raise refusal(card.model.full_errno)


def created(node: NodeDescription, state: State, *, parent: str, type_id: str, uuid: str) -> State:
    """The state with a device that is ready for use."""
    attributes = node.card_of[parent].model.device_attributes(type_id)
    values = {path: attribute.initial.replace("{uuid}", uuid) for path, attribute in attributes.items()}
    return state.put(
        Device(uuid=uuid, type=type_id, parent=parent, group=state.drop(uuid).free_group(), values=values)
    )
