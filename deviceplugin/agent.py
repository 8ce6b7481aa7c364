"""The agent: starts, watches and stops everything else.

Facts go up: the node's snapshot becomes each resource's offer, which its endpoint sends. Commands come
down: an endpoint's request goes to ``allocation``, which has the node make what is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from deviceplugin.allocation import Allocation
from deviceplugin.errors import KubeletError, PluginError
from deviceplugin.handover import Handover, hand_over
from deviceplugin.host.kernel import Kernel
from deviceplugin.host.mdev import Fault
from deviceplugin.host.node import Node
from deviceplugin.inventory import slots
from deviceplugin.inventory.capacity import Capacity
from deviceplugin.inventory.offer import Offer, offer
from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.snapshot import Snapshot
from deviceplugin.kubelet.memory import KubeletMemory
from deviceplugin.kubelet.paths import KubeletPaths
from deviceplugin.kubelet.registration import remove_stale_sockets, watch
from deviceplugin.kubelet.server import SOCKET_PREFIX, Endpoint
from deviceplugin.ledger import Ledger
from deviceplugin.pods import Pods
from deviceplugin.reclaim import Reclaim
from deviceplugin.settings import Config
from deviceplugin.telemetry.metrics import Metrics, result

if TYPE_CHECKING:
    from prometheus_client import Counter

    from deviceplugin.telemetry.http import Address, Readiness

log = logging.getLogger(__name__)


class Agent:
    """One node's agent, and the backend of its endpoints.

    Args:
        http: where to serve metrics and health; nowhere by default.
    """

    def __init__(
        self,
        *,
        config: Config,
        kernel: Kernel,
        kubelet: KubeletPaths,
        node_name: str,
        http: Address | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.metrics = Metrics(held_back=lambda: tuple(self._reclaim.held_back.values()))
        self._config = config
        self._http = http
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
        self._node = Node(
            kernel,
            on_change=self._changed,
            on_fault=self._faulty,
            on_scan=self.metrics.scan_seconds.observe,
        )
        self._memory = KubeletMemory(kubelet, self._endpoints, clock)
        self._allocation = Allocation(
            self._node, self._ledger, offered=self._was_offered, remembered=self._memory.remembered_paths
        )
        self._pods = Pods(
            self._memory,
            self._ledger,
            about=self._about,
            on_released=lambda: self._offer_all(self._node.snapshot),
        )
        self._reclaim = Reclaim(
            self._node,
            self._ledger,
            self._memory,
            self._pods,
            config.reclaim,
            resource_of=self._resource_of,
            about=self._about,
            on_held_back=lambda reason: self.metrics.held_back.labels(reason=reason.value).inc(),
            on_tried=self._removal_tried,
            on_remembered=self._remember,
        )

    async def run(self, ended: asyncio.Event) -> None:
        """Do the agent's work until ``ended`` is set.

        Raises:
            PluginError: it can't begin.
            BaseExceptionGroup: a part of it failed that has no business to.
        """
        with self._told_by_http():
            remove_stale_sockets(self._paths, SOCKET_PREFIX)
            with contextlib.suppress(KubeletError):
                # Without it the list begins with what exists and what can be made.
                self._held = await self._memory.remembered_devices()
            # Before there is a task group nothing can be started: the first offer is made inside it.
            await self._node.rescan()
            await self._serve(ended)
        self._allocation.close()

    def _told_by_http(self) -> contextlib.AbstractContextManager[object]:
        if self._http is None:
            return contextlib.nullcontext()
        # Imported here, since an agent that serves nothing does without it.
        from deviceplugin.telemetry.http import serving

        return serving(self._http, self.metrics.registry, self.readiness)

    async def _serve(self, ended: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self._start(self._node.follow(), "follow the node")
            self._start(watch(self._paths, self._endpoints.values()), "watch the kubelet")
            self._start(self._pods.run(), "name the pods")
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

    def _start(self, work: Coroutine[Any, Any, NoReturn], name: str) -> None:
        if self._tasks is not None:
            self._work.append(self._tasks.create_task(work, name=name))

    def readiness(self) -> Readiness:
        """Whether every resource is served to the kubelet."""
        from deviceplugin.telemetry.http import Readiness

        if self._tasks is None:
            return Readiness(("the node has not been looked at yet, or the agent is ending",))
        return Readiness(
            tuple(
                f"{resource}: the kubelet does not listen to it"
                for resource, endpoint in self._endpoints.items()
                if not endpoint.connected
            )
        )

    # --- facts, going up ---------------------------------------------------------------------------

    def _changed(self, before: Snapshot, after: Snapshot) -> None:
        self._ledger.vanished(before.devices.keys() - after.devices.keys(), held=self._held)
        if self._ledger.pulled:
            self._pods.ask_soon()
        self._offer_all(after)

    def _offer_all(self, snapshot: Snapshot) -> None:
        """Work out what every resource advertises now, and have it sent where it moved."""
        self.metrics.snapshot = snapshot
        if self._tasks is None:
            return
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
            now = offer(
                capacity,
                resource,
                node_name=self._node_name,
                listed=listed,
                held=held,
                pulled=listed & self._ledger.pulled,
            )
            listed.update(slot.id for slot in now.slots)
            self._mention_cap(capacity, resource, now)
            self._endpoint(resource.name).publish(now)
        self.metrics.offers = {name: endpoint.offer for name, endpoint in self._endpoints.items()}

    def _endpoint(self, resource: str) -> Endpoint:
        """The resource's endpoint; a new one is started."""
        if resource not in self._endpoints:
            self.metrics.add_resource(resource)
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
        self.metrics.faults.labels(kind=fault.kind.value).inc()
        log.warning("left out", extra={"path": fault.path, "reason": fault.reason})

    def _connection_changed(self, resource: str, up: bool) -> None:
        self._memory.disturb(resource)
        self.metrics.connected.labels(resource=resource).set(up)
        if not up:
            # Until it is up again containers may start without PreStartContainer.
            self._ledger.used(
                [uuid for uuid in self._ledger.fresh() if self._resource_of(uuid) in {resource, None}]
            )
        level = logging.DEBUG if up else logging.INFO
        log.log(level, "kubelet %s listening", "is" if up else "stopped", extra={"resource": resource})

    def _registration_tried(self, _resource: str, success: bool) -> None:
        self.metrics.registrations.labels(result=result(success)).inc()

    def _remember(self, devices: Mapping[str, str]) -> None:
        self._held = devices

    def _removal_tried(self, success: bool, seconds: float) -> None:
        self.metrics.reclaims.labels(result=result(success)).inc()
        self.metrics.reclaim_seconds.observe(seconds)

    # --- commands, going down ----------------------------------------------------------------------

    async def allocate(self, resource: str, ids: Sequence[str]) -> Handover:
        """See ``kubelet.server.Backend``."""
        began = self._clock()
        with self._counted(self.metrics.allocations, resource):
            try:
                devices = await self._allocation.allocate(self._resources[resource], ids)
            finally:
                self.metrics.allocation_seconds.observe(self._clock() - began)
        return hand_over(self._node.kernel.paths, resource, devices)

    async def prepare(self, resource: str, ids: Sequence[str]) -> None:
        """See ``kubelet.server.Backend``."""
        with self._counted(self.metrics.starts, resource):
            await self._allocation.prepare(self._resources[resource], ids)
        self._pods.ask_soon()

    @contextlib.contextmanager
    def _counted(self, counter: Counter, resource: str) -> Iterator[None]:
        """Count the request that the block is about by how it ends."""
        try:
            yield
        except PluginError:
            counter.labels(resource=resource, result=result(False)).inc()
            raise
        counter.labels(resource=resource, result=result(True)).inc()

    def prefer(self, available: Sequence[str], required: Sequence[str], size: int) -> Sequence[str]:
        """See ``kubelet.server.Backend``."""
        return self._allocation.prefer(available, required, size)

    def _resource_of(self, uuid: str) -> str | None:
        return next((name for name, listed in self._listed.items() if uuid in listed), None)

    def _about(self, uuid: str) -> dict[str, object]:
        """A device of ours in the log; nothing of any other."""
        if not slots.is_ours(uuid):
            return {}
        device = self._node.snapshot.devices.get(uuid)
        about: dict[str, object] = {"resource": self._resource_of(uuid), "device": uuid}
        return about if device is None else about | {"type": device.type, "parent": device.parent}

    def _was_offered(self, resource: str, uuid: str) -> bool:
        return uuid in self._listed.get(resource, ())
