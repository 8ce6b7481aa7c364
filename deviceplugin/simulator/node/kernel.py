"""The kernel of a simulated node: what a write to an attribute does, and who may open what.

Any number of processes may have the same node open. Nothing holds the node's lock while it waits: for a slow
driver, or for a VM that keeps a device from going away.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from deviceplugin.errors import ConfigError, HostError, in_words
from deviceplugin.host.paths import HostPaths
from deviceplugin.simulator.node import devicenodes
from deviceplugin.simulator.node.announcements import device_events, parent_event, vfio_events
from deviceplugin.simulator.node.cards import NodeDescription
from deviceplugin.simulator.node.eventlog import LOST, SimulatedUevents
from deviceplugin.simulator.node.exclusive import is_free, open_exclusively
from deviceplugin.simulator.node.journal import Journal, Session
from deviceplugin.simulator.node.state import (
    UUID,
    Device,
    Fault,
    FaultKind,
    State,
    check_create,
    created,
    parse_number,
    parse_uuid,
    refusal,
)


class SimulatedKernel:
    """The ``Kernel`` of a node in a directory, with the administrator's and the hardware's side of it."""

    def __init__(self, directory: Path) -> None:
        """Open a node that exists.

        Raises:
            ConfigError: there is none, or it is another user's.
            HostError: a killed process left a device whose node this one can't make.
        """
        self.journal = Journal(directory)
        self.node = self.journal.node
        try:
            self.settle()
        except PermissionError as error:
            raise ConfigError(f"The node in {directory} can't be used: {in_words(error)}.") from error

    @classmethod
    def build(
        cls, directory: Path, description: NodeDescription, *, device_nodes: bool = False
    ) -> SimulatedKernel:
        """Make a node in a directory that has none, and open it.

        Args:
            device_nodes: what VMs open are device nodes, now and in whatever process makes devices later.

        Raises:
            ConfigError: it can't be made there.
            HostError: this process can't make device nodes there.
        """
        Journal.build(directory, description, device_nodes=device_nodes)
        return cls(directory)

    @property
    def state(self) -> State:
        """What the node is like now, those devices included that are only being made or removed."""
        return self.journal.load()

    @property
    def paths(self) -> HostPaths:
        return self.journal.paths

    @property
    def device_nodes(self) -> bool:
        """Whether the node has device nodes for VMs to open."""
        return self.journal.device_nodes

    # The kernel's interface.

    def write(self, path: Path, text: str) -> None:
        """Write to a sysfs attribute; see ``Kernel.write``. Of an empty write no driver hears.

        Raises:
            HostError: a device's node can't be made by this process; there is no device then.
        """
        path.stat()
        where, root = Path(os.path.realpath(path)), os.path.realpath(self.paths.root)
        if not where.is_relative_to(root):
            raise refusal(errno.EXDEV, path)
        parts = where.relative_to(root).parts
        match parts:
            case (*_, address, "mdev_supported_types", type_id, "create") if address in self.node.card_of:
                if text:
                    self._create(address, type_id, parse_uuid(text))
            case (*_, uuid, "remove") if UUID.fullmatch(uuid):
                if text and parse_number(text):
                    self._remove(uuid)
            case _:
                uuids = [index for index, part in enumerate(parts) if UUID.fullmatch(part)]
                if path.is_dir():
                    raise refusal(errno.EISDIR, path)
                if not uuids:
                    raise refusal(errno.EACCES, path)
                self._set(parts[uuids[0]], "/".join(parts[uuids[0] + 1 :]), text)

    def open_group(self, group: int) -> int:
        """Open a VFIO group; see ``Kernel.open_group``."""
        return devicenodes.open_group(self.paths.group(group), device_nodes=self.device_nodes)

    def uevents(self) -> SimulatedUevents:
        """Begin to listen."""
        return SimulatedUevents(self.journal.home / "events")

    # What only a VM does.

    def open_device(self, uuid: str) -> int:
        """Open a device, as a VM does after its group; while it is open, the device can't go away.

        Raises:
            OSError: EBUSY somebody has it, ENODEV it is not there or about to go, or what a fault says.
        """
        try:
            fd = open_exclusively(self.journal.tree.attachment(uuid))
        except FileNotFoundError:
            raise refusal(errno.ENODEV, uuid) from None
        state = self.journal.load()
        device = state.devices.get(uuid)
        if device is None or device.phase != "alive":
            os.close(fd)
            raise refusal(errno.ENODEV, uuid)
        fault = state.fault("fail-attach", parent=device.parent, type_id=device.type)
        if fault is not None:
            os.close(fd)
            self._strike(fault)
            raise refusal(fault.errno, uuid)
        return fd

    # The administrator's and the hardware's side.

    def unregister(self, address: str, *, wait: bool = True) -> None:
        """Have a parent leave with its devices; blocks until nobody uses these, unless told otherwise."""
        with self._session() as session:
            if address in session.state.away:
                return
            state = replace(session.state, away={**session.state.away, address: "leaving"})
            for device in session.state.on([address]):
                if device.phase == "alive":
                    state = state.put(replace(device, phase="leaving"))
            session.commit(state, touched=self._card(address))
            self._settle(session)
            waiting = [device.uuid for device in session.state.on([address])]
        for uuid in waiting if wait else ():
            self._await(uuid)

    def register(self, address: str) -> None:
        """Have a parent come back that left."""
        with self._session() as session:
            if session.state.away.get(address) != "gone":
                return
            away = {key: value for key, value in session.state.away.items() if key != address}
            event = parent_event(self.node, address, "registered")
            session.commit(replace(session.state, away=away), events=(event,), touched=self._card(address))

    def reboot(self, *, first_group: int | None = None) -> None:
        """Start the node anew: no device is left, groups have other numbers, and no event tells of it."""
        with self._session() as session:
            old = session.state
            first = old.first_group + 16 if first_group is None else first_group
            new = replace(old, devices={}, away={}, first_group=first)
            session.commit(new, touched=tuple(card.address for card in self.node.cards))

    def fault(
        self,
        kind: FaultKind,
        *,
        parent: str | None = None,
        type: str | None = None,  # noqa: A002 - the word of the field
        seconds: float = 0,
        errno: int = errno.EIO,
        content: bytes | None = None,
        times: int | None = None,
    ) -> None:
        """Have something go wrong from now on, for every process; ``docs/nodes.md`` lists the kinds."""
        text = None if content is None else content.decode("latin-1")
        new = Fault(
            kind=kind, parent=parent, type=type, seconds=seconds, errno=errno, content=text, times=times
        )
        with self._session() as session:
            self._set_faults(session, (new, *session.state.faults))

    def clear_faults(self) -> None:
        """Have nothing go wrong any more."""
        with self._session() as session:
            self._set_faults(session, ())

    def lose_events(self) -> None:
        """Have every listener find that events were lost."""
        with self._session() as session:
            session.commit(session.state, events=((LOST, "", "", {}),))

    def settle(self) -> None:
        """Finish what waits for nobody any more: removals whose VM let go, creates whose writer died."""
        with self._session():
            pass

    # How it is done.

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with self.journal.session() as session:
            self._settle(session)
            yield session

    def _settle(self, session: Session) -> None:
        for device in tuple(session.state.devices.values()):
            if device.phase == "leaving" and is_free(self.journal.tree.attachment(device.uuid)):
                self._gone(session, device)
            elif device.phase == "creating" and is_free(self._reservation(device.uuid)):
                session.commit(session.state.drop(device.uuid), touched=self._card(device.parent))
                self._reservation(device.uuid).unlink(missing_ok=True)
        for address, phase in tuple(session.state.away.items()):
            if phase == "leaving" and not session.state.on([address]):
                state = replace(session.state, away={**session.state.away, address: "gone"})
                event = parent_event(self.node, address, "unregistered")
                session.commit(state, events=(event,), touched=self._card(address))

    def _create(self, address: str, type_id: str, uuid: str) -> None:
        with self._session() as session:
            self._check(session, address, type_id, uuid)
            try:
                self.journal.tree.prove()
            except HostError as error:
                raise HostError(f"{address}: {error}") from error
            slow = session.state.fault("slow-create", parent=address, type_id=type_id)
            if slow is None:
                self._finish(session, address, type_id, uuid)
                return
            # The lock on this file says that the writer lives: a killed writer's create comes to nothing.
            alive = os.open(self._reservation(uuid), os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(alive, fcntl.LOCK_EX)
            device = Device(uuid=uuid, type=type_id, parent=address, phase="creating")
            session.commit(session.state.using(slow).put(device), touched=self._card(address))
        try:
            time.sleep(slow.seconds)
            with self._session() as session:
                self._reservation(uuid).unlink(missing_ok=True)
                if uuid not in session.state.devices:
                    raise refusal(errno.ENODEV)  # the node was rebooted meanwhile
                if address in session.state.away:
                    session.commit(session.state.drop(uuid), touched=self._card(address))
                    self._settle(session)
                    raise refusal(errno.ENODEV)
                self._finish(session, address, type_id, uuid)
        finally:
            os.close(alive)

    def _check(self, session: Session, address: str, type_id: str, uuid: str) -> None:
        try:
            check_create(self.node, session.state, parent=address, type_id=type_id, uuid=uuid)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                # A driver that counts is asked late: the device was announced and is withdrawn again.
                session.commit(
                    session.state, events=device_events(self.node, address, uuid, ("add", "remove"))
                )
            raise

    def _finish(self, session: Session, address: str, type_id: str, uuid: str) -> None:
        fault = session.state.fault("fail-create", parent=address, type_id=type_id)
        if fault is not None:
            state = session.state.using(fault).drop(uuid)
            events = device_events(self.node, address, uuid, ("add", "remove"))
            session.commit(state, events=events, touched=self._card(address))
            raise refusal(fault.errno)
        state = created(self.node, session.state, parent=address, type_id=type_id, uuid=uuid)
        add, bind = device_events(self.node, address, uuid, ("add", "bind"))
        vfio = vfio_events(self.node, "add", state.devices[uuid])
        session.commit(state, events=(add, *vfio, bind), touched=self._card(address))

    def _remove(self, uuid: str) -> None:
        with self._session() as session:
            device = session.state.devices.get(uuid)
            if device is None or device.phase != "alive":
                raise refusal(errno.ENODEV)
            fault = session.state.fault("fail-remove", parent=device.parent, type_id=device.type)
            if fault is not None:
                self._gone(session, device, state=session.state.using(fault))
                raise refusal(fault.errno)
            if is_free(self.journal.tree.attachment(uuid)):
                self._gone(session, device)
                return
            leaving = replace(device, phase="leaving")
            session.commit(session.state.put(leaving), touched=self._card(device.parent))
        self._await(uuid)

    def _await(self, uuid: str) -> None:
        """Wait for a device to be gone that is about to go."""
        while True:
            with self._session() as session:
                device = session.state.devices.get(uuid)
                if device is None or device.phase != "leaving":
                    return
                fd = os.open(self.journal.tree.attachment(uuid), os.O_RDWR)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
            finally:
                os.close(fd)

    def _gone(self, session: Session, device: Device, *, state: State | None = None) -> None:
        events = device_events(self.node, device.parent, device.uuid, ("unbind", "remove"))
        session.commit(
            (state or session.state).drop(device.uuid),
            events=(*vfio_events(self.node, "remove", device), *events),
            touched=self._card(device.parent),
        )

    def _set(self, uuid: str, name: str, text: str) -> None:
        with self._session() as session:
            device = session.state.devices.get(uuid)
            if device is None or device.phase != "alive":
                raise refusal(errno.ENODEV, name)
            model = self.node.card_of[device.parent].model
            attribute = model.device_attributes(device.type).get(name)
            if attribute is None or attribute.access == "ro":
                raise refusal(errno.EACCES, name)
            if not text:
                return
            value = text[:-1] + "\n" * text.endswith("\n") if attribute.chops else text
            changed = replace(device, values={**device.values, name: value})
            session.commit(session.state.put(changed), touched=self._card(device.parent))

    def _set_faults(self, session: Session, faults: tuple[Fault, ...]) -> None:
        cards = tuple(card.address for card in self.node.cards)
        session.commit(replace(session.state, faults=faults), touched=cards)

    def _strike(self, fault: Fault) -> None:
        with self._session() as session:
            if fault in session.state.faults:
                session.commit(session.state.using(fault))

    def _card(self, address: str) -> tuple[str, ...]:
        return (self.node.card_of[address].address,)

    def _reservation(self, uuid: str) -> Path:
        return self.journal.home / f"creating-{uuid}"
