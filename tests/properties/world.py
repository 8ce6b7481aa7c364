"""A history on the model's node, played through what the agent does: offers, the kubelet's choice, requests.

The node that ``Maker`` works on is the model; all else is the project's own.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from deviceplugin.errors import DeviceGone, HostError, NoRoom
from deviceplugin.host.node import Node as HostNode
from deviceplugin.inventory import slots
from deviceplugin.inventory.capacity import Capacity
from deviceplugin.inventory.cards import Card as RealCard
from deviceplugin.inventory.offer import Offer, offer
from deviceplugin.inventory.pools import Knowledge
from deviceplugin.inventory.preference import preferred
from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.snapshot import Device, Snapshot
from deviceplugin.ledger import Ledger
from tests import parts
from tests.properties.model import Asked, Card, Node, foreign_uuid
from tests.properties.nodes import Case, Step

NODE_NAME = "node"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request that was made, and what came of it."""

    resource: Resource
    asked: Asked
    ids: tuple[str, ...]
    before: Node
    """The node as it was when the request came."""
    healthy: int
    """How many free slots were Healthy then, or would have been with what somebody took on the sly."""
    devices: tuple[Device, ...] | None
    """None: refused."""
    late: bool = False
    """Whether somebody was quicker: where the devices went was decided before that."""
    error: str = ""

    @property
    def wishes(self) -> tuple[int | None, ...]:
        return tuple(numa_of(uuid) for uuid in self.ids)


class World:
    """The agent's part and the kubelet's, on the model's node."""

    def __init__(self, node: Node, resources: Sequence[tuple[Resource, Asked]]) -> None:
        self.node = node
        self.resources = tuple(resources)
        self.knowledge = Knowledge()
        self.seen: dict[str, list[Counter[str]]] = {}
        """What each card was seen to carry."""
        self._listed: dict[str, set[str]] = {resource.name: set() for resource, _ in resources}
        self.settle()

    def copy(self) -> World:
        twin = World.__new__(World)
        twin.__dict__ = self.__dict__ | {
            "node": self.node.copy(),
            "seen": {card: list(loads) for card, loads in self.seen.items()},
            "_listed": {name: set(listed) for name, listed in self._listed.items()},
        }
        return twin

    def settle(self) -> None:
        """The agent looks at all cards, learns, and offers anew."""
        for address, parents in self.node.snapshot().cards.items():
            self.knowledge = self.knowledge.learn(RealCard(address, parents)).knowledge
        for card in self.node.cards:
            self.seen.setdefault(card.address, []).append(self.node.load(card))
        for resource, _ in self.resources:
            self._listed[resource.name].update(slot.id for slot in self.offer(resource).slots)

    def offer(self, resource: Resource) -> Offer:
        capacity = Capacity(self.node.snapshot(), self.knowledge)
        return offer(capacity, resource, node_name=NODE_NAME, listed=self._listed.get(resource.name, ()))

    def free(self, resource: Resource) -> list[str]:
        """The Healthy slots without a device, those that a pod can get."""
        return [s.id for s in self.offer(resource).slots if s.healthy and s.id not in self.node.devices]

    def request(
        self, resource: Resource, asked: Asked, ids: Sequence[str], late: Device | None = None
    ) -> Request:
        """Have devices made as an Allocate does.

        Args:
            late: a device that somebody else makes after the agent looked at the node.
        """
        return asyncio.run(self._request(resource, asked, tuple(ids), late))

    async def _request(
        self, resource: Resource, asked: Asked, ids: tuple[str, ...], late: Device | None
    ) -> Request:
        host = _Host(self.node)
        if late is not None:
            self.node.create(late.parent, late.type, late.uuid)
        before, healthy = self.node.copy(), len(self.free(resource))
        maker = parts.maker(
            cast("HostNode", host),
            Ledger(lambda: 0.0),
            knowledge=lambda: self.knowledge,
            belongs=lambda name, uuid: (
                self.node.owner.get(uuid) == name or (uuid in ids and uuid in self.node.devices)
            ),
        )
        made: list[str] = []
        error = ""
        try:
            found = await maker.make(resource, ids, made=made)
        except NoRoom as refusal:
            error = str(refusal)
            await maker.undo(made)
            assert self.node.devices == before.devices
            devices = None
        else:
            devices = tuple(found[uuid] for uuid in ids)
            self.node.owner |= dict.fromkeys(ids, resource.name)
        return Request(
            resource=resource,
            asked=asked,
            ids=ids,
            before=before,
            healthy=healthy,
            devices=devices,
            late=late is not None,
            error=error,
        )

    def spare(self, resource: Resource, number: int, numa_node: int | None) -> list[str]:
        """IDs of slots that nobody has, Healthy or not."""
        digest = slots.resource_hash(NODE_NAME, resource.name)
        ids = (str(slots.SlotId(numa_node, index, digest)) for index in range(1 << 10))
        return [uuid for uuid in ids if uuid not in self.node.devices][:number]

    def play(self, step: Step) -> Request | None:
        """Have something happen; the request, if it was one."""
        chance = random.Random(step.pick)
        request = None
        resource, asked = self.resources[step.pick % len(self.resources)]
        if step.what in {"ask", "ask-late"}:
            late = self._someone(chance) if step.what == "ask-late" else None
            free = self.free(resource)
            size = min(step.size, len(free))
            chosen = preferred(free, [], size, existing=self.node.devices, fresh=())
            if size:
                request = self.request(resource, asked, chosen, late)
        elif step.what == "beyond":
            numa = chance.choice(sorted({c.numa_node for c in self.node.cards}, key=str))
            request = self.request(resource, asked, self.spare(resource, 1, numa))
        elif step.what == "remove" and self.node.devices:
            self.node.remove(chance.choice(sorted(self.node.devices)))
        elif step.what == "foreign" and (device := self._someone(chance)) is not None:
            self.node.create(device.parent, device.type, device.uuid)
        self.settle()
        return request

    def _someone(self, chance: random.Random) -> Device | None:
        """A device that somebody else could make now."""
        places = [
            (parent, entry.id)
            for card in self.node.cards
            for parent in card.parents
            for entry in card.types
            if self.node.available(parent, entry.id)
        ]
        if not places:
            return None
        parent, type_id = chance.choice(places)
        return Device(uuid=foreign_uuid(chance), type=type_id, parent=parent, group=None)


class _Host:
    """What ``Maker`` needs of a node, from the model."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.snapshot: Snapshot = node.snapshot()

    async def rescan(self) -> None:
        self.snapshot = self._node.snapshot()

    async def create(self, parent: str, type_id: str, uuid: str) -> Device:
        device = self._node.create(parent, type_id, uuid)
        if device is None:
            raise HostError(f"{parent}: ENOSPC")
        return device

    async def find(self, uuid: str) -> Device | None:
        return self._node.devices.get(uuid)

    async def remove_unused(self, uuid: str) -> None:
        if uuid not in self._node.devices:
            raise DeviceGone(uuid)
        self._node.remove(uuid)

    def has(self, uuid: str) -> bool:
        return uuid in self._node.devices

    def look_again(self, card: str) -> None:
        """The agent's look comes later."""


def play(case: Case) -> Iterator[tuple[World, Request | None]]:
    """The world at the start and after each step, with the request if it was one."""
    world = World(Node(case.cards), case.resources)
    yield world, None
    for step in case.steps:
        request = world.play(step)
        yield world, request


def numa_of(uuid: str) -> int | None:
    slot = slots.parse(uuid)
    assert slot is not None
    return slot.numa_node


def rooms(request: Request, type_id: str) -> dict[Card, int]:
    """How many of a type each card really had room for when a request came."""
    node = request.before
    found = {c: node.most(c, request.asked, request.resource.name, [type_id]) for c in node.cards}
    return {card: room for card, room in found.items() if room}
