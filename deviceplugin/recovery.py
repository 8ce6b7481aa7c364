"""What an agent that begins takes up again: the devices that the kubelet remembers.

The kubelet's memory outlives agents and reboots, the devices don't. What it remembers has to be listed from
the beginning, or the kubelet may crash over it; and after a reboot its devices are made again before their
room is offered to others, in the order of their old VFIO groups, so that each gets the number that its
container will be given.
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
        on_recalled: Callable[[], None],
    ) -> None:
        self._memory = memory
        self._node = node
        self._advertising = advertising
        self._allocation = allocation
        self._mark = mark
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
        """Make the missing devices again."""
        for resource, uuid in self.missing():
            try:
                await self._allocation.restore(resource, uuid)
            except PluginError as error:
                log.warning("a device that the kubelet remembers can't be made again: %s", error)

    def read_again(self) -> None:
        """A connection to the kubelet began or ended: another plugin may have served a resource meanwhile."""
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

    async def _read(self) -> None:
        self._advertising.remember(await self._memory.remembered_devices())
        self.has_read = True
