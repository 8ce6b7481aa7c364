"""A node's cards and their drivers' rules, slow and obviously right.

Written from what docs/architecture.md and docs/nodes.md promise, without a look at
``deviceplugin.inventory``: what the kernel says and refuses follows from a rule that tells whether a card can
carry a load, and what can be made of it at the most is found by trying. Every rule here has room for less
where it has room for more, so that the order in which a load came about does not matter; cards have nothing
to do with each other.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from deviceplugin.inventory.snapshot import Device, Parent, ParentType, Snapshot

Load = Mapping[str, int]
"""How many devices of each type a card carries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Type:
    id: str
    takes: tuple[int, ...]
    """Of each pool."""
    max: int | None = None
    described: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """A kind of cards: what its types take, and how they go together."""

    name: str
    types: tuple[Type, ...]
    pools: tuple[int, ...]
    instances: int | None = None
    mixes: str = "any"

    def fits(self, load: Load, factor: int) -> bool:
        """Whether a card, of so many times the pools, can carry a load."""
        present = [entry for entry in self.types if load.get(entry.id, 0)]
        if any(
            sum(entry.takes[pool] * load[entry.id] for entry in present) > size * factor
            for pool, size in enumerate(self.pools)
        ):
            return False
        if any(entry.max is not None and load[entry.id] > entry.max for entry in present):
            return False
        if self.instances is not None and sum(load.values()) > self.instances:
            return False
        if self.mixes == "none":
            return len(present) <= 1
        return self.mixes != "size" or len({entry.takes for entry in present}) <= 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    address: str
    driver: Driver
    numa_node: int | None = None
    factor: int = 1
    vfs: int = 0
    """0: the card is a parent itself."""

    @property
    def parents(self) -> tuple[str, ...]:
        return tuple(f"{self.address}.vf{number}" for number in range(self.vfs)) or (self.address,)

    @property
    def types(self) -> tuple[Type, ...]:
        """What it lists: what an empty card has room for."""
        return tuple(entry for entry in self.driver.types if self.fits({entry.id: 1}))

    def fits(self, load: Load) -> bool:
        return self.driver.fits(load, self.factor)

    def alone(self, type_id: str, load: Load | None = None) -> int:
        """How many more of a type go beside a load, by the driver's rule, for as many parents as it takes."""
        if load is None:
            load = Counter()
        more = 0
        while self.fits({**load, type_id: load.get(type_id, 0) + more + 1}):
            more += 1
        return more


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a resource asks for, in words of the model."""

    types: tuple[str, ...]
    parents: frozenset[str]
    """The addresses of those that may carry it."""
    per_card: int | None = None


@dataclass
class Node:
    """The node at one moment: what exists."""

    cards: tuple[Card, ...]
    devices: dict[str, Device] = field(default_factory=dict)
    owner: dict[str, str] = field(default_factory=dict)
    """The resource that each device was made for; foreign ones are not in it."""

    def copy(self) -> Node:
        return Node(self.cards, dict(self.devices), dict(self.owner))

    def card_of(self, parent: str) -> Card:
        return next(card for card in self.cards if parent in card.parents)

    def on(self, card: Card) -> list[Device]:
        return [device for device in self.devices.values() if device.parent in card.parents]

    def load(self, card: Card) -> Counter[str]:
        return Counter(device.type for device in self.on(card))

    # --- the kernel ----------------------------------------------------------------------------------

    def available(self, parent: str, type_id: str) -> int:
        """What the kernel says: of a virtual function 1, of a whole card how many more."""
        card = self.card_of(parent)
        if not card.vfs:
            return card.alone(type_id, self.load(card))
        used = any(device.parent == parent for device in self.devices.values())
        return int(not used and card.alone(type_id, self.load(card)) > 0)

    def create(self, parent: str, type_id: str, uuid: str) -> Device | None:
        """Make a device as the kernel would; None if it refuses."""
        if uuid in self.devices or not self.available(parent, type_id):
            return None
        self.devices[uuid] = Device(uuid=uuid, type=type_id, parent=parent, group=len(self.devices))
        return self.devices[uuid]

    def remove(self, uuid: str) -> None:
        del self.devices[uuid]
        self.owner.pop(uuid, None)

    def snapshot(self) -> Snapshot:
        return Snapshot(
            tuple(
                Parent(
                    address=parent,
                    card=card.address,
                    driver=card.driver.name,
                    numa_node=card.numa_node,
                    pci=None,
                    types=tuple(
                        ParentType(
                            id=entry.id,
                            name="",
                            api="vfio-pci",
                            description=f"num_heads=4, max_instance={card.alone(entry.id)}"
                            if entry.described
                            else "",
                            available=self.available(parent, entry.id),
                        )
                        for entry in sorted(card.types, key=lambda entry: entry.id)
                    ),
                    devices=tuple(
                        sorted(
                            (device for device in self.devices.values() if device.parent == parent),
                            key=lambda device: device.uuid,
                        )
                    ),
                )
                for card in sorted(self.cards, key=lambda card: card.address)
                for parent in card.parents
            )
        )

    # --- by trying -----------------------------------------------------------------------------------

    def free(self, card: Card, asked: Asked, resource: str) -> int:
        """How many devices the card's parents and the quota leave place for, whatever the driver says."""
        if card.vfs:
            used = {device.parent for device in self.on(card)}
            places = len((set(card.parents) & asked.parents) - used)
        else:
            places = 1 << 10 if card.address in asked.parents else 0
        if asked.per_card is None:
            return places
        own = sum(self.owner.get(device.uuid) == resource for device in self.on(card))
        return min(places, max(0, asked.per_card - own))

    def most(self, card: Card, asked: Asked, resource: str, types: Collection[str] | None = None) -> int:
        """The most that can be made of some types on a card, by any order of creates."""
        wanted = tuple(asked.types if types is None else types)
        listed = {entry.id for entry in card.types}
        usable = [type_id for type_id in wanted if type_id in listed]
        best: dict[tuple[int, ...], int] = {}
        base = self.load(card)

        def search(made: tuple[int, ...], places: int) -> int:
            if not places:
                return 0
            if made not in best:
                best[made] = 0
                for index, type_id in enumerate(usable):
                    after = (*made[:index], made[index] + 1, *made[index + 1 :])
                    load = base + Counter(dict(zip(usable, after, strict=True)))
                    if type_id and card.fits(load):
                        best[made] = max(best[made], 1 + search(after, places - 1))
            return best[made]

        return search((0,) * len(usable), self.free(card, asked, resource))

    def can_serve(
        self,
        asked: Asked,
        resource: str,
        wishes: Iterable[int | None] | int,
        types: Collection[str] | None = None,
    ) -> bool:
        """Whether any order of creates makes a request's devices.

        Args:
            wishes: the NUMA node that each has to be on; or how many, anywhere.
        """
        if isinstance(wishes, int):
            return sum(self.most(card, asked, resource, types) for card in self.cards) >= wishes
        return all(
            sum(self.most(card, asked, resource, types) for card in self.cards if card.numa_node == numa)
            >= number
            for numa, number in Counter(wishes).items()
        )


def foreign_uuid(chance: random.Random) -> str:
    """A UUID as others make them."""
    digits = f"{chance.getrandbits(128):032x}"
    return f"f{digits[1:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:]}"
