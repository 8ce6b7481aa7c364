"""What an agent that begins takes up again: the devices that the kubelet remembers.

The kubelet's memory outlives agents and reboots, the devices don't. What it remembers has to be listed from
the beginning, or the kubelet may crash over it; and after a reboot its devices are made again before their
room is offered to others, in the order of their old VFIO groups, so that each gets the number that its
container will be given.

An agent that the kubelet itself started comes too late for that: the kubelet has failed its old pods by
then, since nobody served their devices. Their devices are left unmade and their room is others'.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NoReturn

from deviceplugin.advertising import Advertising
from deviceplugin.allocation import Allocation
from deviceplugin.errors import KubeletError, PluginError
from deviceplugin.host.node import Node
from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.slots import NodeMark
from deviceplugin.kubelet.memory import KubeletMemory

log = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds in which the first offer waits for devices to be made again; pods are refused until it comes."""
_TRIES = 10
_PAUSE = 0.1
"""Seconds between the first tries to read the kubelet's memory."""
_LATER = 0.5
"""Seconds between tries once the agent serves without it."""


class Recovery:
    """Brings together what the kubelet remembers and what the node has.

    Args:
        mark: what this node's devices bear in their IDs.
        pod: the agent's own pod, ``namespace/name``; None if it runs in none, or nobody said in which.
        on_recalled: called when the kubelet's memory could be read after all.
    """

    def __init__(
        self,
        memory: KubeletMemory,
        node: Node,
        advertising: Advertising,
        allocation: Allocation,
        *,
        mark: NodeMark,
        pod: str | None,
        on_recalled: Callable[[], None],
    ) -> None:
        self._memory = memory
        self._node = node
        self._advertising = advertising
        self._allocation = allocation
        self._mark = mark
        self._pod = pod
        self._on_recalled = on_recalled
        self._wanted = asyncio.Event()
        self.has_read = False
        """Whether what the kubelet remembers could ever be read."""

    async def recall(self) -> bool:
        """Read what the kubelet remembers; False if it can't be read, which the log says."""
        for attempt in range(_TRIES):
            try:
                await self._read()
            except KubeletError as error:
                if attempt == _TRIES - 1:
                    log.warning("begins without what the kubelet remembers", extra={"reason": str(error)})
                else:
                    await asyncio.sleep(_PAUSE)
            else:
                return True
        return False

    async def recall_later(self) -> None:
        """Go on trying to read what the kubelet remembers, until that goes well."""
        while True:
            await asyncio.sleep(_LATER)
            try:
                await self._read()
            except KubeletError as error:
                log.debug("the kubelet's memory can't be read yet", extra={"reason": str(error)})
            else:
                log.info("what the kubelet remembers is known now")
                self._on_recalled()
                await self.restore()
                return

    async def recall_again(self) -> None:
        """Read once more what the kubelet remembers: another plugin may have served a resource meanwhile."""
        try:
            await self._read()
        except KubeletError as error:
            log.debug("the kubelet's memory can't be read now", extra={"reason": str(error)})
        else:
            self._on_recalled()

    def missing(self) -> tuple[tuple[Resource, str], ...]:
        """The devices that the kubelet remembers and the node does not have, in the order of their groups."""
        remembered = ((self._advertising.find(name), uuid) for uuid, name in self._advertising.held.items())
        present = self._node.snapshot.devices
        # What has no resource is another plugin's, or another configuration's.
        # … and what somebody else made, or this plugin under another node's name, is theirs to make again.
        return tuple(
            (resource, uuid)
            for resource, uuid in remembered
            if resource and uuid not in present and self._mark.is_ours(uuid)
        )

    async def restore(self) -> None:
        """Make the missing devices again that a container may still start with."""
        for resource, uuid in await self._awaited():
            try:
                await self._allocation.restore(resource, uuid)
            except PluginError as error:
                log.warning("a device that the kubelet remembers can't be made again: %s", error)

    def read_again(self) -> None:
        """What the kubelet remembers may have changed: read it soon."""
        self._wanted.set()

    async def keep_up(self) -> NoReturn:
        """Read what the kubelet remembers whenever that is wanted; runs until it is cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self._read()
            except KubeletError as error:
                log.debug("the kubelet's memory can't be read again", extra={"reason": str(error)})
            else:
                self._on_recalled()
            await asyncio.sleep(_PAUSE)

    async def _awaited(self) -> tuple[tuple[Resource, str], ...]:
        """The missing devices, less those whose pods are over.

        The kubelet names the agent's own pod once it has looked at all the pods that a reboot left; a device
        that it gives to no pod then is nobody's. Without that word each device may be some pod's. Should one
        be needed after all, as an init container's, which is never named, it is made before the start.
        """
        missing = self.missing()
        if not missing or self._pod is None:
            return missing
        try:
            listing = await self._memory.listing()
        except KubeletError as error:
            log.debug("the kubelet can't be asked whose devices are missing", extra={"reason": str(error)})
            return missing
        if self._pod not in listing.pods:
            return missing
        over = [uuid for _, uuid in missing if uuid not in listing.holders]
        if over:
            log.info(
                "devices not made again: the kubelet gives them to no pod any more", extra={"devices": over}
            )
        return tuple((resource, uuid) for resource, uuid in missing if uuid in listing.holders)

    async def _read(self) -> None:
        self._advertising.remember(await self._memory.remembered_devices())
        self.has_read = True
