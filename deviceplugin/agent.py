"""The agent: starts, watches and stops everything else.

Facts go up: the node's snapshot becomes each resource's offer, which its endpoint sends. Commands come
down: an endpoint's request goes to ``allocation``, which has the node make what is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from deviceplugin.allocation import Allocation
from deviceplugin.errors import KubeletError, PluginError
from deviceplugin.handover import Handover, hand_over
from deviceplugin.host.kernel import Kernel
from deviceplugin.host.mdev import Fault
from deviceplugin.host.node import Node
from deviceplugin.inventory.capacity import Capacity
from deviceplugin.inventory.offer import Offer, offer
from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.snapshot import Snapshot
from deviceplugin.kubelet.memory import KubeletMemory
from deviceplugin.kubelet.paths import KubeletPaths
from deviceplugin.kubelet.registration import remove_stale_sockets, watch
from deviceplugin.kubelet.server import SOCKET_PREFIX, Endpoint
from deviceplugin.ledger import Ledger
from deviceplugin.reclaim import Reclaim
from deviceplugin.settings import Config
from deviceplugin.telemetry.metrics import Metrics

log = logging.getLogger(__name__)


class Agent:
    """One node's agent, and the backend of its endpoints."""

    def __init__(
        self,
        *,
        config: Config,
        kernel: Kernel,
        kubelet: KubeletPaths,
        node_name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.metrics = Metrics()
        self._config = config
        self._paths = kubelet
        self._node_name = node_name
        self._clock = clock
        self._resources: dict[str, Resource] = {resource.name: resource for resource in config.resources}
        self._endpoints: dict[str, Endpoint] = {}
        self._listed: dict[str, set[str]] = {}
        self._held: Mapping[str, str] = {}
        self._said: set[str] = set()
        self._tasks: asyncio.TaskGroup | None = None
        self._work: list[asyncio.Task[NoReturn]] = []
        self._ledger = Ledger(clock)
        self._node = Node(kernel, on_change=self._changed, on_fault=self._faulty)
        self._memory = KubeletMemory(kubelet, self._endpoints, clock)
        self._allocation = Allocation(
            self._node, self._ledger, offered=self._was_offered, remembered=self._memory.remembered_paths
        )
        self._reclaim = Reclaim(
            self._node,
            self._ledger,
            self._memory,
            config.reclaim,
            resource_of=self._resource_of,
            on_held_back=lambda reason: self.metrics.held_back.labels(reason=reason.value).inc(),
            on_removed=self._removed,
            on_remembered=self._remember,
        )

    async def run(self) -> None:
        """Do the agent's work until SIGTERM or SIGINT.

        Raises:
            PluginError: it can't begin.
            BaseExceptionGroup: a part of it failed that has no business to.
        """
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        remove_stale_sockets(self._paths, SOCKET_PREFIX)
        with contextlib.suppress(KubeletError):
            # Without it the list begins with what exists and what can be made.
            self._held = await self._memory.remembered_devices()
        # Before there is a task group nothing can be started: the first offer is made inside it.
        await self._node.rescan()
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self._start(self._node.follow(), "follow the node")
            self._start(watch(self._paths, self._endpoints.values()), "watch the kubelet")
            if self._config.reclaim.enabled:
                self._start(self._reclaim.run(), "reclaim")
            self._offer_all(self._node.snapshot)
            if not self._endpoints:
                log.warning("this node has no mediated device type yet; waiting for one")
            await ended.wait()
            log.info("ending; devices stay as they are")
            self._tasks = None
            for task in self._work:
                task.cancel()
        self._allocation.close()

    def _start(self, work: Coroutine[Any, Any, NoReturn], name: str) -> None:
        if self._tasks is not None:
            self._work.append(self._tasks.create_task(work, name=name))

    # --- facts, going up ---------------------------------------------------------------------------

    def _changed(self, before: Snapshot, after: Snapshot) -> None:
        self._ledger.gone(before.devices.keys() - after.devices.keys())
        if self._tasks is not None:
            self._offer_all(after)

    def _offer_all(self, snapshot: Snapshot) -> None:
        """Work out what every resource advertises now, and have it sent where it moved."""
        discovered, problems = self._config.discovery.discover(snapshot)
        for resource in discovered:
            known = self._resources.get(resource.name)
            if known is None:
                self._resources[resource.name] = resource
            elif known.exact:
                # A type that comes later joins those of its name; one that left may come back.
                types = tuple(sorted({*known.types, *resource.types}))
                self._resources[resource.name] = replace(known, types=types)
        for problem in problems:
            self._say_once(problem)
        capacity = Capacity(snapshot)
        for resource in self._resources.values():
            listed = self._listed.setdefault(resource.name, set())
            held = [uuid for uuid, name in self._held.items() if name == resource.name]
            now = offer(capacity, resource, node_name=self._node_name, listed=listed, held=held)
            listed.update(slot.id for slot in now.slots)
            self._mention_cap(capacity, resource, now)
            self._endpoint(resource.name).publish(now)

    def _endpoint(self, resource: str) -> Endpoint:
        """The resource's endpoint; a new one is started."""
        if resource not in self._endpoints:
            self._endpoints[resource] = Endpoint(
                resource,
                self,
                self._paths,
                on_connection=self._connection_changed,
                on_registration=self._registration_tried,
            )
            self._start(self._endpoints[resource].run(), f"endpoint {resource}")
        return self._endpoints[resource]

    def _mention_cap(self, capacity: Capacity, resource: Resource, now: Offer) -> None:
        fits = sum(capacity.of(resource).values())
        if resource.max is None and fits > resource.cap:
            self._say_once(
                f"{resource.name}: the driver counts {fits} instances; {now.healthy} are offered, "
                "since without a 'max' no resource offers more than that"
            )

    def _say_once(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            log.warning("%s", sentence)

    def _faulty(self, fault: Fault) -> None:
        self.metrics.faults.inc()
        log.warning("left out", extra={"path": fault.path, "reason": fault.reason})

    def _connection_changed(self, resource: str, up: bool) -> None:
        self._memory.disturb(resource)
        if not up:
            # Until it is up again containers may start without PreStartContainer.
            self._ledger.used(
                [uuid for uuid in self._ledger.fresh() if self._resource_of(uuid) in {resource, None}]
            )
        level = logging.DEBUG if up else logging.INFO
        log.log(level, "kubelet %s listening", "is" if up else "stopped", extra={"resource": resource})

    def _registration_tried(self, _resource: str, success: bool) -> None:
        self.metrics.registrations.labels(result="success" if success else "error").inc()

    def _remember(self, devices: Mapping[str, str]) -> None:
        self._held = devices

    def _removed(self, _type: str, seconds: float) -> None:
        self.metrics.reclaims.inc()
        self.metrics.reclaim_seconds.observe(seconds)

    # --- commands, going down ----------------------------------------------------------------------

    async def allocate(self, resource: str, ids: Sequence[str]) -> Handover:
        """See ``kubelet.server.Backend``."""
        began = self._clock()
        try:
            devices = await self._allocation.allocate(self._resources[resource], ids)
        except PluginError:
            self.metrics.allocations.labels(result="error").inc()
            raise
        finally:
            self.metrics.allocation_seconds.observe(self._clock() - began)
        self.metrics.allocations.labels(result="success").inc()
        return hand_over(self._node.kernel.paths, resource, devices)

    async def prepare(self, resource: str, ids: Sequence[str]) -> None:
        """See ``kubelet.server.Backend``."""
        try:
            await self._allocation.prepare(self._resources[resource], ids)
        except PluginError:
            self.metrics.starts.labels(result="error").inc()
            raise
        self.metrics.starts.labels(result="success").inc()

    def prefer(self, available: Sequence[str], required: Sequence[str], size: int) -> Sequence[str]:
        """See ``kubelet.server.Backend``."""
        return self._allocation.prefer(available, required, size)

    def _resource_of(self, uuid: str) -> str | None:
        return next((name for name, listed in self._listed.items() if uuid in listed), None)

    def _was_offered(self, resource: str, uuid: str) -> bool:
        return uuid in self._listed.get(resource, ())
