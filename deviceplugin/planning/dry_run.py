"""An Allocate on a node that is a value: the agent's own creation, on a node where nothing is really made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from deviceplugin.errors import AllocationError, HostError, in_words
from deviceplugin.events import Unheard
from deviceplugin.inventory import slots
from deviceplugin.inventory.placement import Seat
from deviceplugin.inventory.pools import Knowledge
from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.snapshot import Device, Snapshot
from deviceplugin.ledger import Ledger
from deviceplugin.making import Maker
from deviceplugin.refusals import RefusalLog

_GROUP = 0
"""The VFIO group of a device that is only imagined: creation asks for one, and nobody opens it."""


class World(Protocol):
    """A node as a value: each create makes another one."""

    @property
    def surely(self) -> Snapshot:
        """The node with the counts that the kernel shows at the least."""

    @property
    def at_most(self) -> Snapshot:
        """The node with the counts that the kernel shows at the most."""

    @property
    def knowledge(self) -> Knowledge:
        """What was learned of its cards."""

    def create(self, parent: str, type_id: str, uuid: str) -> World:
        """The node with a device more.

        Raises:
            OSError: the kernel refuses it.
        """

    def settled(self) -> World:
        """The node after the agent has learned from what it shows."""


class DryRunNode:
    """The node that creation is given: what it does makes another ``World``, and is done at once.

    Args:
        least: whether the node's counts are taken at their least, or at their most.
    """

    def __init__(self, world: World, *, least: bool) -> None:
        self.world = world
        self._before = world
        self._least = least
        self._made: dict[str, Device] = {}

    @property
    def snapshot(self) -> Snapshot:
        """What a look at the node would show."""
        return self.world.surely if self._least else self.world.at_most

    async def create(self, parent: str, type_id: str, uuid: str) -> Device:
        """Imagine one device more."""
        try:
            self.world = self.world.create(parent, type_id, uuid)
        except OSError as error:
            raise HostError(f"{parent}: {in_words(error)}") from error
        self._made[uuid] = Device(uuid, type_id, parent, _GROUP)
        return self._made[uuid]

    async def remove_unused(self, uuid: str) -> bool:
        """Imagine it without a device that was imagined."""
        del self._made[uuid]
        self.world = self._before
        for device in self._made.values():
            self.world = self.world.create(device.parent, device.type, device.uuid)
        return True

    async def write_attribute(self, uuid: str, attribute: str, value: str) -> str | None:  # noqa: ARG002
        """Which values a driver takes is not known; this one takes all."""
        return value

    async def rescan(self) -> None:
        """The node is never older than what is known of it."""

    def look_again(self, *cards: str) -> None:
        """The node is never older than what is known of it."""

    def look_again_around(self, parent: str) -> None:
        """The node is never older than what is known of it."""

    def has(self, uuid: str) -> bool:
        """Whether a device is there."""
        return uuid in self.snapshot.devices

    async def find(self, uuid: str) -> Device | None:
        """The device, if it is there."""
        return self.snapshot.devices.get(uuid)


class DryRun(Unheard):
    """One Allocate on a node that is a value.

    Args:
        least: see ``DryRunNode``.
    """

    def __init__(self, world: World, resource: Resource, node_name: str, *, least: bool) -> None:
        self.seats: dict[str, Seat] = {}
        """Where each device was made."""
        self._node = DryRunNode(world, least=least)
        self._resource = resource
        self._hash = slots.resource_hash(node_name, resource.name)

    @property
    def world(self) -> World:
        """The node with what was made."""
        return self._node.world

    def created(self, resource: Resource, device: Device, seat: Seat) -> None:  # noqa: ARG002
        """Where it went is what a plan tells."""
        self.seats[device.uuid] = seat

    async def make(self, uuids: Sequence[str], others: Iterable[str]) -> str:
        """Make devices beside those that others made; a sentence if they can't all be had."""
        knowledge = self._node.world.knowledge
        refusals = RefusalLog(_no_time_passes, on_change=_nothing, events=self)
        maker = Maker(
            self._node,
            Ledger(_no_time_passes),
            knowledge=lambda: knowledge,
            refusals=refusals,
            belongs=lambda _resource, uuid: uuid in slots.of_resource([uuid], self._hash),
            events=self,
            on_late=_nothing,
            clock=_no_time_passes,
        )
        along = [self._node.snapshot.devices[uuid] for uuid in others]
        try:
            await maker.make(self._resource, uuids, made=[], along=along)
        except AllocationError as error:
            return f"the kubelet would hand {len(uuids)} out, and {str(error).partition(': ')[2]}"
        finally:
            refusals.close()
        return ""


def _no_time_passes() -> float:
    """However long a plan takes to work out, the request takes no time."""
    return 0.0


def _nothing() -> None:
    """Nobody waits for a change of a node that only a plan changes."""
