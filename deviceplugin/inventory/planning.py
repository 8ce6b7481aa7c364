"""What a sequence of pods would get on a node, worked out with the functions by which the agent decides.

Each pod is taken as the kubelet takes it: refused if there are fewer Healthy devices than it asks for, given
those that the agent prefers, and then placed. Nothing is made; a ``World`` says what the node is like then.
What is not known of that is tried at its least first: what fits so is certain.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

from deviceplugin.inventory import slots
from deviceplugin.inventory.capacity import Capacity
from deviceplugin.inventory.expectation import Bounds
from deviceplugin.inventory.offer import offer
from deviceplugin.inventory.placement import Seat, Wish, plan
from deviceplugin.inventory.pools import Knowledge
from deviceplugin.inventory.preference import preferred
from deviceplugin.inventory.resources import Resource, adopted
from deviceplugin.inventory.snapshot import Snapshot

_TOLD = 3
"""Cards or refusals that a sentence names."""


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

    def create(self, seat: Seat, uuid: str) -> Self:
        """The node with a device more.

        Raises:
            OSError: the kernel refuses it.
        """

    def settled(self) -> Self:
        """The node after the agent has learned from what it shows."""


@dataclass(frozen=True, slots=True)
class Request:
    """So many pods in a row, each with one container that asks for so many devices of a resource."""

    text: str
    """As it was written."""
    resource: Resource
    devices: int = 1
    pods: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedDevice:
    """A device that a pod gets, and where."""

    uuid: str
    type: str
    name: str
    card: str
    parent: str
    numa_node: int | None
    aligned: bool
    """Whether it is on its slot's NUMA node."""
    adopted: bool
    """Whether somebody else made it, and it is there already."""
    reason: str


@dataclass(frozen=True, slots=True)
class PlannedPod:
    """What one pod gets: all of its devices, or a sentence that says why not."""

    devices: tuple[PlannedDevice, ...] = ()
    error: str | None = None
    certain: bool = True


@dataclass(frozen=True, slots=True)
class Step:
    """What became of a request, and what is left after it."""

    request: Request
    pods: tuple[PlannedPod, ...]
    left: Mapping[str, Bounds]
    """How many more devices of each resource pods could have."""
    rooms: Mapping[tuple[str, str], Bounds]
    """How many more of each type surely fit a card, by card and type."""


class Planner:
    """A node, and what pods have of it so far.

    Devices that are there and bear this plugin's mark are taken to be in use; those that somebody else made
    and that a resource adopts, to be free.

    Args:
        resources: by name, in the order in which they adopt; those of the requests included.
    """

    def __init__(self, world: World, resources: Mapping[str, Resource], *, node_name: str) -> None:
        self._world = world.settled()
        self._resources = resources
        self._node_name = node_name
        self._adopted = adopted(resources.values(), world.surely)
        self._in_use = {uuid for uuid in world.surely.devices if slots.is_ours(uuid)}
        self._views: tuple[Capacity, ...] = ()
        self._look()

    def run(self, request: Request) -> Step:
        """Take one request's pods, one by one."""
        pods = tuple(self._pod(request) for _ in range(request.pods))
        return Step(request, pods, self.left(), self.rooms())

    def left(self) -> dict[str, Bounds]:
        """How many more devices of each resource pods could have now, each resource for itself."""
        counts = {
            name: [len(self._free(view, resource)) for view in self._views]
            for name, resource in self._resources.items()
        }
        return {name: Bounds(min(count), max(count)) for name, count in counts.items()}

    def rooms(self) -> dict[tuple[str, str], Bounds]:
        """How many more of each type surely fit each card now."""
        found: dict[tuple[str, str], list[int]] = {}
        for view in self._views:
            for card in view.cards:
                for type_id in sorted(card.types):
                    found.setdefault((card.address, type_id), []).append(view.room(card, type_id))
        return {place: Bounds(min(rooms), max(rooms)) for place, rooms in found.items()}

    def _look(self) -> None:
        """Take in what the node is like now, at its least first."""
        world = self._world
        same = world.surely is world.at_most or world.surely == world.at_most
        views = (world.surely,) if same else (world.surely, world.at_most)
        self._views = tuple(Capacity(view, world.knowledge) for view in views)

    def _free(self, capacity: Capacity, resource: Resource) -> list[str]:
        """The Healthy devices that no pod has."""
        now = offer(
            capacity,
            resource,
            node_name=self._node_name,
            adopted=self._adopted.get(resource.name, {}),
        )
        return [slot.id for slot in now.slots if slot.healthy and slot.id not in self._in_use]

    def _pod(self, request: Request) -> PlannedPod:
        error = ""
        for index, capacity in enumerate(self._views):
            free = self._free(capacity, request.resource)
            if len(free) < request.devices:
                error = self._refusal(capacity, request, len(free))
                continue
            existing = capacity.snapshot.devices.keys()
            others = {uuid for uuid in free if uuid in existing}
            ids = preferred(free, (), request.devices, existing=existing, fresh=others)
            # In the order of their slots, as an Allocate is served.
            wanted = sorted(ids, key=lambda text: text[19:23] + text)
            allocation = _Allocation(self._world, request.resource, self._node_name, least=index == 0)
            error = allocation.have([uuid for uuid in wanted if uuid not in others], others.intersection(ids))
            if not error:
                devices = tuple(_device(capacity, uuid, allocation.seats.get(uuid)) for uuid in wanted)
                self._in_use.update(wanted)
                self._world = allocation.world.settled()
                self._look()
                return PlannedPod(devices, certain=index == 0)
        return PlannedPod(error=error)

    def _refusal(self, capacity: Capacity, request: Request, free: int) -> str:
        """Why the kubelet would not even ask the agent."""
        resource = request.resource
        are = "is" if free == 1 else "are"
        said = f"{request.devices} wanted, and {f'only {free}' if free else 'none'} {are} allocatable"
        choices = resource.choices(capacity.snapshot)
        cards = [
            card
            for card in capacity.cards
            if any(map(resource.allows, card.parents)) and card.types.keys() & set(choices)
        ]
        if not cards:
            return f"{said}: no parent here that it may use offers {' or '.join(resource.types)}"
        own = slots.resource_hash(self._node_name, resource.name)
        mine = {
            uuid
            for uuid in capacity.snapshot.devices
            if (slot := slots.parse(uuid)) is not None and slot.resource_hash == own
        }
        if resource.max is not None and len(mine) >= resource.max:
            return f"{said}: it has its 'max' of {resource.max}"
        parts = []
        for card in cards:
            carried = ", ".join(f"{number} {kind}" for kind, number in sorted(card.load.items())) or "nothing"
            if not resource.left_on(card, mine):
                carried += f" and has its 'maxPerCard' of {resource.max_per_card}"
            parts.append(f"{card.address} carries {carried}")
        more = f", and {len(parts) - _TOLD} more cards" if len(parts) > _TOLD else ""
        return f"{said}: {'; '.join(parts[:_TOLD])}{more}"


class _Allocation:
    """One Allocate, carried out as the agent does it."""

    def __init__(self, world: World, resource: Resource, node_name: str, *, least: bool) -> None:
        self.world = world
        self.seats: dict[str, Seat] = {}
        self._resource = resource
        self._hash = slots.resource_hash(node_name, resource.name)
        self._view: Callable[[World], Snapshot] = (lambda w: w.surely) if least else (lambda w: w.at_most)
        self._along: frozenset[str] = frozenset()
        self._refusals: dict[tuple[str, str], str] = {}

    def have(self, uuids: Sequence[str], others: Iterable[str]) -> str:
        """Make devices beside those that others made; a sentence if they can't all be had."""
        snapshot = self._view(self.world)
        self._along = frozenset(snapshot.devices[uuid].type for uuid in others)
        before = self.world
        self._fill(uuids, ())
        if len(self.seats) < len(uuids):
            self._fill(uuids, ())  # With what the node shows now.
        if len(self.seats) < len(uuids) and self.seats:
            # What came first may stand in the way: from the start again, without the places that refused.
            self.world, self.seats = before, {}
            self._fill(uuids, tuple(self._refusals))
        if len(self.seats) == len(uuids):
            return ""
        tried = [f"{type_id} on {parent} is {why}" for (parent, type_id), why in self._refusals.items()]
        told = f": {'; '.join(tried[:_TOLD])}" if tried else ""
        return f"the kubelet would hand {len(uuids)} out, and no parent could take them all{told}"

    def _fill(self, uuids: Sequence[str], refused: Iterable[tuple[str, str]]) -> None:
        capacity = Capacity(self._view(self.world), self.world.knowledge)
        cards = {card.address: card for card in capacity.cards}
        tried = set(refused)
        while left := [uuid for uuid in uuids if uuid not in self.seats]:
            seats = plan(
                capacity, self._wish(left), cards=cards.values(), own=self._own(capacity), refused=tried
            )
            if not seats:
                return
            for uuid, seat in zip(left, seats, strict=True):
                try:
                    self.world = self.world.create(seat, uuid)
                except OSError as error:
                    self._refusals[seat.parent, seat.type] = f"refused with {_why(error)}"
                    tried.add((seat.parent, seat.type))
                    break
                self.seats[uuid] = seat
                cards[seat.card] = cards[seat.card].having(seat.parent, seat.type)

    def _wish(self, left: Sequence[str]) -> Wish:
        found = map(slots.parse, left)
        return Wish(
            resource=self._resource,
            numa_nodes=tuple(slot.numa_node if slot is not None else None for slot in found),
            along=self._along | {seat.type for seat in self.seats.values()},
        )

    def _own(self, capacity: Capacity) -> frozenset[str]:
        """The devices of the resource that exist."""
        found = ((uuid, slots.parse(uuid)) for uuid in capacity.snapshot.devices)
        return frozenset(
            uuid for uuid, slot in found if slot is not None and slot.resource_hash == self._hash
        )


def _device(capacity: Capacity, uuid: str, seat: Seat | None) -> PlannedDevice:
    """A device of a pod; without a seat it is there already."""
    if seat is None:
        there = capacity.snapshot.devices[uuid]
        card = capacity.snapshot.by_address[there.parent].card
        seat = Seat(there.parent, card, there.type, aligned=True, reason="is there, made by somebody else")
        return replace(_device(capacity, uuid, seat), adopted=True)
    return PlannedDevice(
        uuid=uuid,
        type=seat.type,
        name=capacity.snapshot.types[seat.type].name,
        card=seat.card,
        parent=seat.parent,
        numa_node=capacity.snapshot.by_address[seat.parent].numa_node,
        aligned=seat.aligned,
        adopted=False,
        reason=seat.reason,
    )


def _why(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error))
