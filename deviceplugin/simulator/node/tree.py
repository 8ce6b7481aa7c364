"""The node as files: what a reader of /sys and /dev finds, kept in step with the state.

Readers take no lock, as with sysfs, so everything appears and disappears in one piece: files and whole
directories are made aside and renamed. Only what changed is written. Every function here can be repeated, so
that the tree of a writer that was killed is completed by the next one.

A device's directory comes first and goes last: as long as it is there, it tells what else belongs to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from deviceplugin.host.paths import HostPaths
from deviceplugin.simulator.node import devicenodes
from deviceplugin.simulator.node.cards import Card, NodeDescription, TypeDescription
from deviceplugin.simulator.node.files import Files, write
from deviceplugin.simulator.node.state import UUID, Device, State, available

MODES = {"ro": 0o444, "rw": 0o644, "wo": 0o200}


def subsystem(card: Card) -> str:
    """The bus of a card's parents, or their class where they are on none."""
    return card.model.driver if card.model.bus == "virtual" else card.model.bus


def devpath(card: Card, address: str) -> str:
    """Where a function of a card is below ``/sys``, as events name it."""
    match card.model.bus:
        case "pci":
            return f"/devices/pci{address.rpartition(':')[0]}/{address}"
        case "css":
            return f"/devices/css0/{address}"
        case "matrix":
            return f"/devices/vfio_ap/{address}"
        case _:
            return f"/devices/virtual/{card.model.driver}/{address}"


class Tree:
    """The files of one node. Its methods want the node's lock to be held."""

    def __init__(
        self, *, paths: HostPaths, node: NodeDescription, workshop: Path, device_nodes: bool
    ) -> None:
        self.paths = paths
        self.node = node
        self.workshop = workshop
        """A directory on the same file system, in which things are made before they are seen."""
        self.device_nodes = device_nodes
        """Whether what is in ``/dev`` are device nodes, and not just files."""
        self._files = Files(workshop)

    # What there is once and for all.

    def build(self, state: State) -> None:
        """Make the whole tree of a new node."""
        sysfs = self.paths.sysfs
        for directory in (
            self.paths.devices,
            self.paths.parents,
            self.paths.vfio,
            sysfs / "kernel/iommu_groups",
        ):
            directory.mkdir(parents=True, exist_ok=True)
        self._files.prepare()
        (self.workshop / "attached").mkdir()
        self._openable(self.paths.container)
        for card in self.node.cards:
            self._made(f"bus/mdev/drivers/{card.model.driver}")
            for address in dict.fromkeys((card.address, *card.parents)):
                self._function(card, address)
            self.repair(state, [card])

    def _function(self, card: Card, address: str) -> None:
        """A card or one of its virtual functions, with what the bus says of it."""
        model, here = card.model, self.directory(address, card)
        here.mkdir(parents=True, exist_ok=True)
        if model.bus == "virtual":
            self._files.link(here / "subsystem", self._made(f"class/{model.driver}"))
            return
        bus = self._made(f"bus/{model.bus}")
        self._files.link(here / "subsystem", bus)
        self._files.link(here / "driver", self._made(f"bus/{model.bus}/drivers/{model.driver}"))
        self._files.link(self._made(f"bus/{model.bus}/devices") / address, here)
        if model.bus != "pci":
            return
        self._files.put(here / "vendor", f"0x{model.vendor:04x}\n")
        self._files.put(here / "device", f"0x{model.device:04x}\n")
        self._files.put(here / "numa_node", f"{-1 if card.numa is None else card.numa}\n")
        if address != card.address:
            self._files.link(here / "physfn", self.directory(card.address, card))
        elif model.vfs:
            self._files.put(here / "sriov_totalvfs", f"{model.vfs}\n")
            self._files.put(here / "sriov_numvfs", f"{model.vfs}\n")
            for number, parent in enumerate(card.parents):
                self._files.link(here / f"virtfn{number}", self.directory(parent, card))

    # What a commit changes.

    def prove(self) -> None:
        """Find out whether a device could be shown, before there is one.

        Raises:
            HostError: its node can't be made by this process.
        """
        if self.device_nodes:
            devicenodes.prove(self.workshop / "proof")

    def sync(self, old: State, new: State) -> None:
        """Take the tree from one state to the next."""
        for card in self._cards(new.touched):
            self._sync_parents(card, old, new)
            before = {device.uuid: device for device in old.on(card.parents)}
            after = {device.uuid: device for device in new.on(card.parents)}
            # As in the kernel, a device has its directory before the driver counts it and its type after,
            # and loses them the other way round.
            for device in after.values():
                if device.phase == "alive":
                    (self.directory(device.parent, card) / device.uuid).mkdir(exist_ok=True)
            gone = before.keys() - after.keys()
            going = [self.directory(before[uuid].parent, card) / uuid for uuid in gone]
            for directory in going:
                (directory / "mdev_type").unlink(missing_ok=True)
            self._recount(card, old, new)
            for address in card.parents:
                if address in old.away and address not in new.away:
                    self._show(card, address)
            for directory in going:
                self._drop(directory.name, directory)
            for uuid, device in after.items():
                if before.get(uuid) != device:
                    self._device(card, device)

    def _sync_parents(self, card: Card, old: State, new: State) -> None:
        for address in card.parents:
            if old.away.get(address) != new.away.get(address):
                self._parent(card, address, new)
                self._names(card, new)
        if old.faults != new.faults:
            self._names(card, new)

    def _recount(self, card: Card, old: State, new: State) -> None:
        earlier, counts = self._counts(card, old), self._counts(card, new)
        for key, content in counts.items():
            if earlier.get(key) != content:
                self._count(card, *key, content)

    def repair(self, state: State, cards: Iterable[Card]) -> None:
        """Make the tree of some cards what the state says, whatever it is now."""
        self._files.clear()
        for card in cards:
            known = {device.uuid for device in state.on(card.parents)}
            for address in card.parents:
                here = self.directory(address, card)
                for entry in [*here.iterdir()]:
                    if UUID.fullmatch(entry.name) and entry.name not in known:
                        self._drop(entry.name, entry)
                self._parent(card, address, state)
            self._names(card, state)
            for (address, type_id), content in self._counts(card, state).items():
                self._count(card, address, type_id, content)
            for address in card.parents:
                if address not in state.away:
                    self._show(card, address)
            for device in state.on(card.parents):
                self._device(card, device)

    def cards_named(self, state: State) -> Iterable[Card]:
        """The cards that the last commit changed."""
        return self._cards(state.touched)

    # The pieces.

    def directory(self, address: str, card: Card | None = None) -> Path:
        """The directory of a parent or a card."""
        return self.paths.sysfs / devpath(card or self.node.card_of[address], address)[1:]

    def attachment(self, uuid: str) -> Path:
        """The file that is locked while something uses a device, in the place of its file descriptor."""
        return self.workshop / "attached" / uuid

    def _cards(self, addresses: Iterable[str]) -> Iterator[Card]:
        wanted = set(addresses)
        return (card for card in self.node.cards if card.address in wanted)

    def _parent(self, card: Card, address: str, state: State) -> None:
        """What makes a function a parent, or nothing of it if it unregistered."""
        here = self.directory(address, card)
        types = here / "mdev_supported_types"
        if address in state.away:
            self.paths.parent(address).unlink(missing_ok=True)
            if state.away[address] == "gone":
                self._files.discard(types)
            return
        if not types.exists():
            aside = Path(self._files.aside())
            aside.mkdir()
            for kind in card.model.offered.values():
                self._type(f"{aside}/{kind.id}", card, kind)
            aside.rename(types)

    def _show(self, card: Card, address: str) -> None:
        """Have a parent seen, whose files are all there by then, as in the kernel."""
        self._files.link(self.paths.parent(address), self.directory(address, card))

    def _type(self, here: str, card: Card, kind: TypeDescription) -> None:
        Path(here, "devices").mkdir(parents=True)
        self._files.share(f"{here}/create", b"", mode=0o200)
        self._files.share(f"{here}/device_api", f"{card.model.api}\n".encode(), mode=0o444)
        if kind.description is not None:
            self._files.share(f"{here}/description", f"{kind.description.rstrip()}\n".encode(), mode=0o444)

    def _names(self, card: Card, state: State) -> None:
        for address in card.parents:
            if address in state.away:
                continue
            for kind in card.model.offered.values():
                path = self.directory(address, card) / "mdev_supported_types" / kind.id / "name"
                if kind.name is None or state.fault("no-name", parent=address, type_id=kind.id):
                    path.unlink(missing_ok=True)
                elif not path.exists():
                    self._files.share(str(path), f"{kind.name}\n".encode(), mode=0o444)

    def _counts(self, card: Card, state: State) -> dict[tuple[str, str], bytes | None]:
        """What every ``available_instances`` of a card reads; None where there is no such file."""
        counts: dict[tuple[str, str], bytes | None] = {
            key: b"%d\n" % number
            for key, number in available(card, state).items()
            if key[0] not in state.away
        }
        for address, kind in counts if state.faults else ():
            fault = state.fault("odd-count", parent=address, type_id=kind)
            if fault is not None:
                counts[address, kind] = None if fault.content is None else fault.content.encode("latin-1")
        return counts

    def _count(self, card: Card, address: str, type_id: str, content: bytes | None) -> None:
        path = f"{self.directory(address, card)}/mdev_supported_types/{type_id}/available_instances"
        if content is None:
            Path(path).unlink(missing_ok=True)
            return
        self._files.exchange(path, content, mode=0o444)

    def _device(self, card: Card, device: Device) -> None:
        """A device as its phase has it."""
        if device.phase == "creating":
            return
        here = self.directory(device.parent, card) / device.uuid
        bus = self.paths.device(device.uuid)
        listed = here.parent / "mdev_supported_types" / device.type / "devices" / device.uuid
        if device.phase == "leaving":
            for path in (bus, listed, here / "mdev_type", here / "remove"):
                path.unlink(missing_ok=True)
            return
        if not (here / "remove").exists():
            self._directory_of(card, device, here)
        for name, value in device.values.items():
            self._files.put(
                here / name, value, mode=MODES[card.model.device_attributes(device.type)[name].access]
            )
        self._files.link(self._made(f"kernel/iommu_groups/{device.group}/devices") / device.uuid, here)
        if device.group is not None:
            self._openable(self.paths.group(device.group))
        if not self.attachment(device.uuid).exists():
            write(str(self.attachment(device.uuid)), b"", mode=0o600)
        self._files.link(listed, here)
        self._files.link(bus, here)

    def _openable(self, path: Path) -> None:
        """What a VM opens."""
        if path.exists():
            return
        if self.device_nodes:
            devicenodes.make(path)
        else:
            write(str(path), b"", mode=0o600)

    def _directory_of(self, card: Card, device: Device, here: Path) -> None:
        aside = self._files.aside()
        Path(aside, "vfio-dev", f"vfio{device.group}").mkdir(parents=True)
        self._files.share(f"{aside}/remove", b"", mode=0o200)
        self._files.share(f"{aside}/uevent", f"DRIVER={card.model.driver}\n".encode(), mode=0o644)
        targets = {
            "mdev_type": here.parent / "mdev_supported_types" / device.type,
            "iommu_group": self.paths.sysfs / f"kernel/iommu_groups/{device.group}",
            "driver": self.paths.sysfs / f"bus/mdev/drivers/{card.model.driver}",
            "subsystem": self.paths.sysfs / "bus/mdev",
        }
        for name, target in targets.items():
            Path(aside, name).symlink_to(os.path.relpath(target, here))
        Path(aside).rename(here)

    def _drop(self, uuid: str, here: Path) -> None:
        """Take a device away, reading from its directory what else there is of it."""
        self.paths.device(uuid).unlink(missing_ok=True)
        for listed in (here.parent / "mdev_supported_types").glob(f"*/devices/{uuid}"):
            listed.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            group = (here / "iommu_group").readlink().name
            self.paths.group(int(group)).unlink(missing_ok=True)
            self._files.discard(self.paths.sysfs / "kernel/iommu_groups" / group)
        self.attachment(uuid).unlink(missing_ok=True)
        self._files.discard(here)

    def _made(self, below_sysfs: str) -> Path:
        path = self.paths.sysfs / below_sysfs
        path.mkdir(parents=True, exist_ok=True)
        return path
