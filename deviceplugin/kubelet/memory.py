"""The kubelet's word on who has which device, in the two forms that it gives it.

Either can be wrong for a while, each in its own way (see ``podresources`` and ``checkpoint``); both
together, asked in the right order, are proof.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from deviceplugin.errors import KubeletError
from deviceplugin.kubelet import checkpoint
from deviceplugin.kubelet.checkpoint import Checkpoint
from deviceplugin.kubelet.paths import KubeletPaths
from deviceplugin.kubelet.podresources import Holder, Listing, list_healthy, list_pods

REWRITE_DEADLINE = 2.0
"""Seconds that the kubelet has to rewrite its checkpoint after a list was sent."""
_LOOK = 0.01
"""Seconds between looks for the new file: it comes within milliseconds, and only when asked for."""


class Line(Protocol):
    """An endpoint's connection, as far as it matters here."""

    @property
    def connected(self) -> bool: ...

    def resend(self) -> None: ...


class KubeletMemory:
    """Asks the kubelet.

    Args:
        lines: all endpoints by resource, read anew each time.
        clock: seconds, monotonic.
    """

    def __init__(self, paths: KubeletPaths, lines: Mapping[str, Line], clock: Callable[[], float]) -> None:
        self._paths = paths
        self._lines = lines
        self._clock = clock
        self._disturbed: dict[str, float] = {}
        self._disputed: set[str] = set()

    def disturb(self, resource: str) -> None:
        """A connection began, ended or is in doubt: what the kubelet says of it is not to be trusted now."""
        self._disturbed[resource] = self._clock()

    def dispute(self, resource: str, *, on: bool) -> None:
        """The kubelet was found to believe something else than was listed, or does so no more."""
        self.disturb(resource)
        (self._disputed.add if on else self._disputed.discard)(resource)

    def calm_for(self, resource: str | None) -> float:
        """Seconds since a resource's connection is up and undisturbed; 0 while it is down or disputed.

        A device of no resource, from another configuration, is judged by the calmest connection: that is
        how long this kubelet is there for certain.
        """
        if resource is None:
            return max((self.calm_for(each) for each in self._lines), default=0.0)
        line = self._lines.get(resource)
        if line is None or not line.connected or resource in self._disputed:
            return 0.0
        if resource not in self._disturbed:
            return 0.0
        return self._clock() - self._disturbed[resource]

    async def holders(self) -> dict[str, Holder]:
        """The holder of each device that the kubelet names; see ``podresources``."""
        return (await self.listing()).holders

    async def listing(self) -> Listing:
        """The pods that the kubelet names, and their devices; see ``podresources.list_pods``."""
        return await list_pods(self._paths.pod_resources)

    async def healthy(self) -> dict[str, frozenset[str]]:
        """The devices that it takes for healthy, by resource; see ``podresources.list_healthy``."""
        return await list_healthy(self._paths.pod_resources)

    async def devices_now(self) -> Checkpoint:
        """What the kubelet remembers, written after this call began.

        Raises:
            KubeletError: no such checkpoint came, or it can't be understood.
        """
        await self._rewrite()
        found = await asyncio.to_thread(checkpoint.read, self._paths.checkpoint)
        if found is None:
            raise KubeletError(f"the kubelet's checkpoint {self._paths.checkpoint} vanished")
        return found

    async def _rewrite(self) -> None:
        """Have the kubelet write its checkpoint anew."""
        before = await asyncio.to_thread(checkpoint.version, self._paths.checkpoint)
        up = [resource for resource, line in self._lines.items() if line.connected]
        if not up:
            raise KubeletError("no stream to the kubelet is up, so its checkpoint can't be had afresh")
        self._lines[max(up, key=self.calm_for)].resend()
        try:
            async with asyncio.timeout(REWRITE_DEADLINE):
                # A file gives no sign of its own, and comes within milliseconds.
                while await asyncio.to_thread(checkpoint.version, self._paths.checkpoint) in {None, before}:  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK)
        except TimeoutError as error:
            raise KubeletError(
                f"the kubelet did not rewrite its checkpoint {self._paths.checkpoint} "
                f"within {REWRITE_DEADLINE:.0f} s of being sent a list"
            ) from error

    async def remembered_devices(self) -> Checkpoint:
        """What the checkpoint says as it is; nothing if there is none."""
        return await asyncio.to_thread(checkpoint.read, self._paths.checkpoint) or checkpoint.NOTHING

    async def remembered_nodes(self, uuid: str) -> tuple[frozenset[str], ...]:
        """What each container that the kubelet remembers with this device gets: host paths, or CDI names.

        The kubelet writes down what a container gets before it starts it, so one at least is remembered.

        Raises:
            KubeletError: the checkpoint says nothing of the device, not even when written anew.
        """
        try:
            found = await asyncio.to_thread(checkpoint.read, self._paths.checkpoint)
        except KubeletError:
            found = None
        if found is None or uuid not in found.holdings:
            await self._rewrite()
            found = await asyncio.to_thread(checkpoint.read, self._paths.checkpoint)
        if found is None or uuid not in found.holdings:
            raise KubeletError(
                f"the kubelet's checkpoint {self._paths.checkpoint} does not say what the containers get "
                f"that have {uuid}"
            )
        return tuple(holding.paths | holding.cdi_names for holding in found.holdings[uuid])
