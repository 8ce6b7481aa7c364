"""The CDI specifications follow the devices: none without its device, and each says what that is now.

Whoever hands a device over writes its file, under the device's lock. Nobody has to remember to remove one:
what has no device is tidied up, whichever way the device went, and so is what an agent left that was killed.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import NoReturn

from deviceplugin.errors import HostError
from deviceplugin.handover import specification
from deviceplugin.host.cdi import SpecFiles
from deviceplugin.host.node import SWEEP, Node
from deviceplugin.host.threads import in_thread
from deviceplugin.inventory.snapshot import Device
from deviceplugin.ledger import Ledger

log = logging.getLogger(__name__)

_AGAIN = 1.0
"""Seconds to another look at what somebody was still busy with."""


class Specs:
    """Writes the specification of each device, and removes those that have none."""

    def __init__(self, files: SpecFiles, node: Node, ledger: Ledger) -> None:
        self._files = files
        self._node = node
        self._ledger = ledger
        self._wanted = asyncio.Event()
        self._said: dict[str, str] = {}
        """What was said of each device whose specification stays, and under "" of the directory."""

    async def write(self, device: Device) -> None:
        """Have the device's file say what it is now; whoever calls this holds the device's lock.

        Raises:
            HostError: it can't be written.
        """
        text = json.dumps(specification(self._node.kernel.paths, device), indent=2) + "\n"
        await in_thread(lambda: self._files.write(device.uuid, text), name=f"specification {device.uuid}")

    def tidy_soon(self) -> None:
        """A device may have gone."""
        self._wanted.set()

    async def run(self) -> NoReturn:
        """Tidy up when a device went, and now and then all the same; runs until it is cancelled."""
        pause = SWEEP
        while True:
            try:
                async with asyncio.timeout(pause):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            pause = SWEEP if await self.tidy() else _AGAIN

    async def tidy(self) -> bool:
        """Remove the files of devices that are no more; False if somebody is busy with one of them.

        One that can't be removed keeps no other from being removed, and is said once.
        """
        try:
            found = await in_thread(self._files.uuids, name="list specifications")
        except HostError as error:
            self._say_once("", "CDI specifications stay for now: %s", error)
            return True
        stale = sorted(uuid for uuid in found if not self._node.has(uuid))
        self._said = {uuid: said for uuid, said in self._said.items() if uuid in stale}
        return all([await self._remove(uuid) for uuid in stale])

    async def _remove(self, uuid: str) -> bool:
        if self._ledger.is_busy(uuid):
            return False
        async with self._ledger.lock(uuid):
            if not self._node.has(uuid):
                try:
                    await in_thread(lambda: self._files.remove(uuid), name=f"remove specification {uuid}")
                except HostError as error:
                    self._say_once(uuid, "a CDI specification stays for now: %s", error)
                else:
                    log.debug("CDI specification removed", extra={"device": uuid})
        return True

    def _say_once(self, about: str, sentence: str, error: HostError) -> None:
        if self._said.get(about) != str(error):
            self._said[about] = str(error)
            log.warning(sentence, error)
