"""What every resource advertises, from the first look at the node on.

A resource that was advertised once stays, and so do its slots: while an agent lives nothing is taken from
a list. What moved is published; what people should know of it is said once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from deviceplugin.inventory import slots
from deviceplugin.inventory.capacity import Capacity
from deviceplugin.inventory.offer import Offer, offer
from deviceplugin.inventory.resources import Resource, taker
from deviceplugin.inventory.slots import NodeMark, Owner
from deviceplugin.inventory.snapshot import Snapshot
from deviceplugin.inventory.unmatched import unmatched
from deviceplugin.inventory.variables import clash
from deviceplugin.kubelet.checkpoint import Checkpoint
from deviceplugin.settings import Config

log = logging.getLogger(__name__)

_SHOWN = 64
"""Characters of another plugin's ID that a sentence repeats."""


class Advertising:
    """The resources of a node and their slots.

    Args:
        publish: called with the offer of every resource, whether it moved or not.
    """

    def __init__(self, config: Config, *, node_name: str, publish: Callable[[Offer], None]) -> None:
        self._discovery = config.discovery
        self._named = config.resources
        self._looked = False
        self._node_name = node_name
        self._mark = NodeMark.of(node_name)
        self._publish = publish
        self._resources: dict[str, Resource] = {resource.name: resource for resource in config.resources}
        self._listed: dict[str, set[str]] = {}
        self._adopted: dict[str, dict[str, int | None]] = {}
        self._said: set[str] = set()
        self.held: Mapping[str, str] = {}
        """The resource of each device that the kubelet remembers, in the order of their VFIO groups."""
        self._remembered: Mapping[str, Mapping[str, frozenset[int]]] = {}

    def remember(self, checkpoint: Checkpoint) -> None:
        """Take over what the kubelet remembers, anew with each of its checkpoints."""
        self.held, self._remembered = checkpoint.devices, checkpoint.named

    def resource(self, name: str) -> Resource:
        """A resource that is advertised."""
        return self._resources[name]

    def find(self, name: str) -> Resource | None:
        """The resource of that name, or None where there is none."""
        return self._resources.get(name)

    def resource_of(self, uuid: str) -> str | None:
        """The resource that a device was advertised for; None for one of another configuration."""
        return next((name for name, listed in self._listed.items() if uuid in listed), None)

    def was_offered(self, resource: str, uuid: str) -> bool:
        """Whether an ID was ever advertised for a resource, if only by an agent before this one."""
        return uuid in self._listed.get(resource, ()) or uuid in self._remembered.get(resource, ())

    def released(self, uuid: str) -> None:
        """The kubelet has taken a device back from its pod, since it gives it to another."""
        self.held = {held: name for held, name in self.held.items() if held != uuid}
        self._remembered = {
            name: {text: nodes for text, nodes in ids.items() if text != uuid}
            for name, ids in self._remembered.items()
        }

    @property
    def adopted(self) -> frozenset[str]:
        """The devices of others that are to be offered."""
        return frozenset(uuid for adopted in self._adopted.values() for uuid in adopted)

    def update(
        self,
        capacity: Capacity,
        *,
        pulled: Collection[str],
        stuck: Collection[str],
        free: Collection[str] = (),
    ) -> None:
        """Work out what every resource advertises now, and have it published.

        Args:
            pulled: the devices that vanished under their pods.
            stuck: the devices that something holds of which no pod knows.
            free: the devices of others that were seen free.
        """
        if not self._looked:
            # Once: what comes later may make a sentence of now untrue, and what goes makes none true.
            self._looked = True
            for sentence in unmatched(self._named, capacity.snapshot):
                log.warning("%s", sentence)
        self.discover(capacity.snapshot)
        self.adopt(capacity.snapshot)
        self._mention_other_nodes(capacity.snapshot)
        for resource in self._resources.values():
            listed = self._listed.setdefault(resource.name, set())
            now = offer(
                capacity,
                resource,
                node_name=self._node_name,
                listed=listed,
                held=self._remembered.get(resource.name, {}),
                pulled=listed.intersection(pulled),
                stuck=listed.intersection(stuck).union(
                    self._withdrawn(resource, capacity.snapshot), self._not_free(resource, free)
                ),
                adopted=self._adopted.get(resource.name, {}),
            )
            listed.update(slot.id for slot in now.slots)
            self._mention_cap(capacity, resource, now)
            self._mention_another_plugin(resource, now)
            self._publish(now)

    def discover(self, snapshot: Snapshot) -> None:
        """Learn which resources the node's types make up.

        Of two whose variables are the same, the one that was there first stays; at first that is the one
        that the kubelet remembers.
        """
        discovered, problems = self._discovery.discover(snapshot)
        remembered = set(self.held.values())
        for resource in sorted(discovered, key=lambda each: each.name not in remembered):
            known = self._resources.get(resource.name)
            if known is None and (problem := clash(resource.name, self._resources)):
                self._say_once(f"clash of {resource.name}", f"{resource.name} is not offered: {problem}")
            elif known is None:
                self._resources[resource.name] = resource
            elif known.exact:
                # A type that comes later joins those of its name; one that left may come back.
                types = tuple(sorted({*known.types, *resource.types}))
                self._resources[resource.name] = replace(known, types=types)
        for problem in problems:
            self._say_once(problem, problem)

    def adopt(self, snapshot: Snapshot) -> None:
        """Find what others made and is to be offered: each device by one resource, the first that takes it.

        What the kubelet gave to a pod goes on being offered by the resource that it was given for.
        """
        taken = {uuid for adopted in self._adopted.values() for uuid in adopted}
        for uuid, device in snapshot.devices.items():
            if uuid in taken or slots.bears_mark(uuid):
                continue
            holder = self._resources.get(self.held.get(uuid, ""))
            resource = holder or taker(self._resources.values(), device, snapshot)
            if resource is not None:
                numa_node = snapshot.by_address[device.parent].numa_node
                self._adopted.setdefault(resource.name, {})[uuid] = numa_node
                log.info(
                    "device of somebody else's is offered as it is",
                    extra={
                        "resource": resource.name,
                        "device": uuid,
                        "type": device.type,
                        "parent": device.parent,
                    },
                )

    def _not_free(self, resource: Resource, free: Collection[str]) -> set[str]:
        """What the resource adopts and nobody has seen free yet; what a pod has goes on being its own."""
        return {
            uuid
            for uuid in self._adopted.get(resource.name, ())
            if uuid not in free and self.held.get(uuid) != resource.name
        }

    def _withdrawn(self, resource: Resource, snapshot: Snapshot) -> set[str]:
        """What the resource would not adopt today, and no pod has: it is listed, and offered no more."""
        return {
            uuid
            for uuid in self._adopted.get(resource.name, ())
            if self.held.get(uuid) != resource.name
            and (device := snapshot.devices.get(uuid)) is not None
            and not resource.adoptable(device, snapshot)
        }

    def _mention_other_nodes(self, snapshot: Snapshot) -> None:
        others = [uuid for uuid in snapshot.devices if self._mark.owner(uuid) is Owner.OTHER_NODE]
        if others:
            self._say_once(
                Owner.OTHER_NODE,
                "there are devices here that this plugin made under another node's name, for instance "
                f"{others[0]}: another node shares this kernel, or this one was not always called "
                f"{self._node_name!r}; they count as taken, and this agent never removes them "
                "('mdev-device-plugin devices remove --other-nodes' can; docs/operations.md)",
            )

    def _mention_another_plugin(self, resource: Resource, now: Offer) -> None:
        """Say what the kubelet remembers of another plugin that had the resource before, listed or not."""
        remembered = self._remembered.get(resource.name, {})
        others = [text for text in remembered if not slots.is_uuid(text)]
        if others:
            self._say_once(
                f"others of {resource.name}",
                f"{resource.name}: the kubelet remembers devices of another plugin, for instance "
                f"{min(others)[:_SHOWN]!a}; they are listed as Unhealthy, and their pods run on until a "
                "container of theirs has to start again",
            )
        if left_out := remembered.keys() - {slot.id for slot in now.slots}:
            self._say_once(
                f"left out of {resource.name}",
                f"{resource.name}: {len(left_out)} of the device IDs that the kubelet remembers can't be "
                f"listed, for instance {min(left_out)[:_SHOWN]!a}: they are no text, or don't all fit into a "
                "message; a kubelet with a topology manager policy may crash over them when it restarts: "
                "delete their pods",
            )

    def _mention_cap(self, capacity: Capacity, resource: Resource, now: Offer) -> None:
        if resource.max is not None or len(now.slots) < resource.cap:
            return  # What is listed is all that fits, without another look.
        fits = sum(capacity.of(resource).values())
        if fits > resource.cap:
            self._say_once(
                resource.name,
                f"{resource.name}: the driver counts {fits} instances; {now.healthy} are offered, "
                "since without a 'max' no resource offers more than that",
            )

    def _say_once(self, about: str, sentence: str) -> None:
        if about not in self._said:
            self._said.add(about)
            log.warning("%s", sentence)
