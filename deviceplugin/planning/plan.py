"""What a sequence of pods would get on a node, worked out by the code with which the agent serves them.

Each pod is taken as the kubelet takes it: refused if there are fewer Healthy devices than it asks for, given
those that the agent prefers, and then placed. Nothing is made; a ``World`` says what the node is like then.
What is not known of that is tried at its least first: what fits so is certain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from deviceplugin.inventory import slots
from deviceplugin.inventory.capacity import Capacity
from deviceplugin.inventory.offer import offer
from deviceplugin.inventory.placement import Seat
from deviceplugin.inventory.preference import preferred
from deviceplugin.inventory.resources import Resource, adopted
from deviceplugin.planning.dry_run import DryRun, World
from deviceplugin.planning.forecast import Bounds

_TOLD = 3
"""Cards that a sentence names."""


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
    perhaps_card: str | None = None
    """Where it would go instead if as much is left as there can be; None if that is the same place."""
    perhaps_type: str | None = None
    """As which type, then."""


@dataclass(frozen=True, slots=True)
class PlannedPod:
    """What one pod gets: all of its devices, or a sentence that says why not."""

    devices: tuple[PlannedDevice, ...] = ()
    error: str | None = None
    certain: bool = True
    """Whether its devices surely fit."""


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
        self._in_use = {uuid for uuid in world.surely.devices if slots.bears_mark(uuid)}
        self._views: tuple[Capacity, ...] = ()
        self._look()

    async def run(self, request: Request) -> Step:
        """Take one request's pods, one by one."""
        pods = tuple([await self._pod(request) for _ in range(request.pods)])
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

    async def _pod(self, request: Request) -> PlannedPod:
        tried = [await self._allocate(request, index) for index in range(len(self._views))]
        # The last is what can be had at the most: if that fails, all do.
        had = [result for result in tried if not isinstance(result, str)]
        if not had:
            return PlannedPod(error=str(tried[-1]))
        devices = tuple(map(_or_else, had[0].devices, had[-1].devices))
        self._in_use.update(device.uuid for device in devices)
        self._world = had[0].world.settled()
        self._look()
        return PlannedPod(devices, certain=had[0] is tried[0])

    async def _allocate(self, request: Request, index: int) -> _Had | str:
        """What a pod gets as the node looks to one of the views; a sentence if it is refused."""
        capacity, resource = self._views[index], request.resource
        free = self._free(capacity, resource)
        if len(free) < request.devices:
            return self._refusal(capacity, request, len(free))
        existing = capacity.snapshot.devices.keys()
        others = {uuid for uuid in free if uuid in existing}
        ids = preferred(free, (), request.devices, existing=existing, fresh=others)
        wanted = slots.in_order(ids)
        allocation = DryRun(self._world, resource, self._node_name, least=index == 0)
        if error := await allocation.make(
            [uuid for uuid in wanted if uuid not in others], others.intersection(ids)
        ):
            return error
        devices = tuple(_device(capacity, uuid, allocation.seats.get(uuid)) for uuid in wanted)
        return _Had(allocation.world, devices)

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
        hashed = slots.resource_hash(self._node_name, resource.name)
        mine = slots.of_resource(capacity.snapshot.devices, hashed)
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


@dataclass(frozen=True, slots=True)
class _Had:
    """The devices of one pod, and the node with them."""

    world: World
    devices: tuple[PlannedDevice, ...]


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


def _or_else(device: PlannedDevice, other: PlannedDevice) -> PlannedDevice:
    if (device.card, device.type) == (other.card, other.type):
        return device
    return replace(device, perhaps_card=other.card, perhaps_type=other.type)
