"""A simulated node without its files: what the agent would see of it, and what comes of a create.

It is as exact as the node in a directory is, since both go by the rules in ``state``, and it needs no disk.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

from deviceplugin.inventory.cards import cards_of
from deviceplugin.inventory.pools import Knowledge
from deviceplugin.inventory.snapshot import Device, Parent, ParentType, PciId, Snapshot
from deviceplugin.simulator.node.cards import NodeDescription
from deviceplugin.simulator.node.state import State, available, check_create, created


def view(node: NodeDescription, state: State) -> Snapshot:
    """What a look at the node finds, faults apart."""
    parents = []
    for card in node.cards:
        model, counts = card.model, available(card, state)
        kinds = sorted(model.offered.values(), key=lambda kind: kind.id)
        texts = [(kind.id, (kind.name or "").strip(), (kind.description or "").strip()) for kind in kinds]
        pci = PciId(model.vendor, model.device) if model.bus == "pci" else None
        for address in card.parents:
            types = tuple(
                ParentType(type_id, name, model.api, text, counts[address, type_id])
                for type_id, name, text in texts
            )
            devices = tuple(
                Device(device.uuid, device.type, address, device.group)
                for device in sorted(state.on([address]), key=lambda device: device.uuid)
            )
            parents.append(Parent(address, card.address, model.driver, card.numa, pci, types, devices))
    return Snapshot(tuple(sorted(parents, key=lambda parent: parent.address)))


@dataclass(frozen=True)
class DescribedNode:
    """A described node at one moment, and what an agent there has learned of its cards."""

    node: NodeDescription
    state: State = field(default_factory=State)
    knowledge: Knowledge = field(default_factory=Knowledge)

    @cached_property
    def surely(self) -> Snapshot:
        """What the kernel shows."""
        return view(self.node, self.state)

    @property
    def at_most(self) -> Snapshot:
        """The same: nothing of it is uncertain."""
        return self.surely

    def create(self, parent: str, type_id: str, uuid: str) -> DescribedNode:
        """The node with a device more.

        Raises:
            OSError: the kernel refuses it.
        """
        check_create(self.node, self.state, parent=parent, type_id=type_id, uuid=uuid)
        state = created(self.node, self.state, parent=parent, type_id=type_id, uuid=uuid)
        return replace(self, state=state)

    def settled(self) -> DescribedNode:
        """The node as it is, after the agent has learned from it."""
        knowledge = self.knowledge
        for card in cards_of(self.surely):
            knowledge = knowledge.learn(card).knowledge
        return replace(self, knowledge=knowledge)
