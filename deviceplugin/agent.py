"""The agent: starts, watches and stops everything else.

Facts go up: the node's snapshot becomes each resource's offer, which its endpoint sends. Commands come
down: an endpoint's request goes to ``allocation``, which has the node make what is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deviceplugin.adoption import Adoptable
from deviceplugin.advertising import Advertising
from deviceplugin.allocation import Allocation
from deviceplugin.connections import Connections
from deviceplugin.errors import PluginError
from deviceplugin.handover import Handover, hand_over
from deviceplugin.host.cdi import SpecFiles
from deviceplugin.host.kernel import Kernel
from deviceplugin.host.mdev import Fault
from deviceplugin.host.node import Node
from deviceplugin.inventory.capacity import Capacity
from deviceplugin.inventory.cards import Card
from deviceplugin.inventory.offer import Offer
from deviceplugin.inventory.pools import Knowledge
from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.slots import NodeMark
from deviceplugin.inventory.snapshot import Device, Snapshot
from deviceplugin.kubelet.checkpoint import Checkpoint
from deviceplugin.kubelet.memory import KubeletMemory
from deviceplugin.kubelet.paths import KubeletPaths
from deviceplugin.kubelet.registration import remove_stale_sockets, watch
from deviceplugin.kubelet.server import SOCKETS, Endpoint
from deviceplugin.ledger import Ledger
from deviceplugin.pods import Pods
from deviceplugin.reclaim import Reclaim
from deviceplugin.recovery import PATIENCE, Recovery
from deviceplugin.refusals import RefusalLog
from deviceplugin.settings import Config
from deviceplugin.specs import Specs
from deviceplugin.telemetry.metrics import Metrics, result

if TYPE_CHECKING:
    from prometheus_client import Counter

    from deviceplugin.telemetry.http import Address, Readiness

log = logging.getLogger(__name__)


class Agent:
    """One node's agent, and the backend of its endpoints.

    Args:
        pod: the pod that it runs in, ``namespace/name``, if any.
        http: where to serve metrics and health; nowhere by default.
        cdi: the directory for CDI specifications, should they be wanted; the node's own by default.
    """

    def __init__(
        self,
        *,
        config: Config,
        kernel: Kernel,
        kubelet: KubeletPaths,
        node_name: str,
        pod: str | None = None,
        http: Address | None = None,
        cdi: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mark = NodeMark.of(node_name)
        self._refusals = RefusalLog(
            clock,
            on_change=lambda: self._advertise(self._node.snapshot),
            on_refused=lambda card, errno: self.metrics.refusals.labels(card=card, errno=errno).inc(),
        )
        self.metrics = Metrics(
            self._mark,
            held_back=lambda: tuple(self._reclaim.held_back.values()),
            refusing=self._refusals.listed,
        )
        self._config = config
        self._http = http
        self._paths = kubelet
        self._clock = clock
        self._endpoints: dict[str, Endpoint] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._stuck: frozenset[str] = frozenset()
        self._knowledge = Knowledge()
        self._surprised: set[tuple[str, str]] = set()
        self._work: list[asyncio.Task[Any]] = []
        self._advertising = Advertising(config, node_name=node_name, publish=self._publish)
        self._ledger = Ledger(clock)
        self._node = Node(
            kernel,
            on_change=self._changed,
            on_fault=self._faulty,
            on_scan=self.metrics.scan_seconds.observe,
            on_settled=self._settled,
            on_deaf=lambda _: self.metrics.event_failures.inc(),
        )
        self._memory = KubeletMemory(kubelet, self._endpoints, clock)
        self._connections = Connections(
            self._endpoints,
            self._memory,
            self._ledger,
            self.metrics,
            resource_of=self._advertising.resource_of,
        )
        files = SpecFiles(cdi or kernel.paths.cdi)
        self._specs = Specs(files, self._node, self._ledger) if config.cdi else None
        self._allocation = Allocation(
            self._node,
            self._ledger,
            mark=self._mark,
            offered=self._advertising.was_offered,
            remembered=self._memory.remembered_nodes,
            specs=self._specs,
            knowledge=lambda: self._knowledge,
            refusals=self._refusals,
            on_made=self._made,
            on_occupied=self._occupied,
            on_withdrawn=self._withdrawn,
            on_late=lambda: self._advertise(self._node.snapshot),
        )
        self._pods = Pods(
            self._memory,
            self._ledger,
            about=self._about,
            on_released=lambda: self._advertise(self._node.snapshot),
        )
        self._reclaim = Reclaim(
            self._node,
            self._ledger,
            self._memory,
            self._pods,
            config.reclaim,
            mark=self._mark,
            resource_of=self._advertising.resource_of,
            about=self._about,
            on_held_back=lambda reason: self.metrics.held_back.labels(reason=reason.value).inc(),
            on_tried=self._removal_tried,
            on_remembered=self._remember,
            on_round=self._reclaimed,
        )
        self._recovery = Recovery(
            self._memory,
            self._node,
            self._advertising,
            self._allocation,
            mark=self._mark,
            pod=pod,
            on_recalled=lambda: self._advertise(self._node.snapshot),
        )
        self._adoptable = Adoptable(
            self._node,
            self._ledger,
            adopted=lambda: self._advertising.adopted,
            held=lambda: self._advertising.held if self._recovery.has_read else None,
            read_again=self._recovery.read_again,
            grace=config.reclaim.grace,
            interval=config.reclaim.interval,
            on_change=lambda: self._advertise(self._node.snapshot),
        )

    async def run(self, ended: asyncio.Event) -> None:
        """Do the agent's work until ``ended`` is set.

        Raises:
            PluginError: it can't begin.
            BaseExceptionGroup: a part of it failed that has no business to.
        """
        with self._told_by_http():
            remove_stale_sockets(self._paths, SOCKETS)
            if self._specs is not None:
                # Before any device is made again, which may have another group than it says there.
                await self._specs.tidy()
            recalled = await self._recovery.recall()
            # Before there is a task group nothing can be started: the first offer is made inside it.
            await self._node.rescan()
            await self._serve(ended, recalled=recalled)
        self._refusals.close()
        self._allocation.close()

    def _told_by_http(self) -> contextlib.AbstractContextManager[object]:
        if self._http is None:
            return contextlib.nullcontext()
        # Imported here, since an agent that serves nothing does without it.
        from deviceplugin.telemetry.http import serving

        return serving(self._http, self.metrics.registry, self.readiness)

    async def _serve(self, ended: asyncio.Event, *, recalled: bool) -> None:
        async with asyncio.TaskGroup() as tasks:
            if recalled:
                await self._recover(tasks)
            self._advertising.discover(self._node.snapshot)
            self._advertising.adopt(self._node.snapshot)
            looking = tasks.create_task(self._adoptable.look(), name="look at what others made")
            self._work.append(looking)
            await asyncio.wait({looking}, timeout=PATIENCE)
            self._tasks = tasks
            self._start(self._node.follow(), "follow the node")
            moved = self._connections.plugin_moved
            self._start(watch(self._paths, self._endpoints.values(), on_socket=moved), "watch the kubelet")
            self._start(self._connections.agreement.run(), "compare with what the kubelet believes")
            self._start(self._pods.run(), "name the pods")
            self._start(self._recovery.keep_up(), "keep up with what the kubelet remembers")
            if self._specs is not None:
                self._start(self._specs.run(), "tidy the CDI specifications")
            self._start(self._adoptable.run(), "look at what others made")
            if self._config.reclaim.enabled:
                self._start(self._reclaim.run(), "reclaim")
            if not recalled:
                self._start(self._recovery.recall_later(), "recall what the kubelet remembers")
            self._advertise(self._node.snapshot)
            if not self._endpoints:
                log.warning("this node has no mediated device type yet; waiting for one")
            await ended.wait()
            log.info("ending; devices stay as they are")
            self._tasks = None
            for task in self._work:
                task.cancel()

    async def _recover(self, tasks: asyncio.TaskGroup) -> None:
        """Have devices made again before their room is offered; what takes too long goes on beside."""
        self._advertising.discover(self._node.snapshot)
        if not self._recovery.missing():
            return
        restoring = tasks.create_task(self._recovery.restore(), name="restore devices")
        self._work.append(restoring)
        await asyncio.wait({restoring}, timeout=PATIENCE)
        await self._node.rescan()

    def _start(self, work: Coroutine[Any, Any, object], name: str) -> None:
        if self._tasks is not None:
            self._work.append(self._tasks.create_task(work, name=name))

    def readiness(self) -> Readiness:
        """Whether every resource is served to the kubelet."""
        from deviceplugin.telemetry.http import Readiness

        if self._tasks is None:
            return Readiness(("the node has not been looked at yet, or the agent is ending",))
        return Readiness(self._connections.problems())

    # --- facts, going up ---------------------------------------------------------------------------

    def _changed(self, before: Snapshot, after: Snapshot) -> None:
        # Looks at cards overlap: a device that moved to another one in between is not gone.
        gone = [uuid for uuid in before.devices.keys() - after.devices.keys() if not self._node.has(uuid)]
        self._ledger.vanished(gone, held=self._advertising.held)
        self._knowledge = self._knowledge.forget(before.cards.keys() - after.cards.keys())
        self._refusals.forget(before.cards.keys() - after.cards.keys())
        if gone and self._specs is not None:
            self._specs.tidy_soon()
        if self._ledger.pulled:
            self._pods.ask_soon()
        self._advertise(after)

    def _settled(self, cards: Sequence[Card]) -> None:
        """Learn from what cards are like."""
        if self._specs is not None:
            self._specs.tidy_soon()  # A device may have come and gone between two looks.
        before = self._knowledge
        for card in cards:
            self._refusals.seen(card)
            lesson = self._knowledge.learn(card)
            self._knowledge = lesson.knowledge
            self.metrics.predictions.labels(result=result(True)).inc(lesson.confirmed)
            self.metrics.predictions.labels(result=result(False)).inc(len(lesson.surprises))
            for surprise in lesson.surprises:
                if (surprise.driver, surprise.type) not in self._surprised:
                    self._surprised.add((surprise.driver, surprise.type))
                    # No fault, and nothing to do: estimates only rank cards, and the metric counts them.
                    log.debug("%s", surprise, extra={"parent": surprise.card, "type": surprise.type})
        if self._knowledge is not before:
            self._advertise(self._node.snapshot)

    def _occupied(self, uuid: str) -> None:
        self._adoptable.is_in_use(uuid)
        if self._config.reclaim.enabled:  # Nobody else would look whether it is free again.
            self._reclaim.found_occupied(uuid)
            self._reclaimed()

    def _withdrawn(self, uuid: str) -> None:
        self._advertising.released(uuid)
        self._advertise(self._node.snapshot)

    def _made(self, resource: Resource, device: Device) -> None:
        self.metrics.made.labels(resource=resource.name, type=device.type).inc()

    def _advertise(self, snapshot: Snapshot) -> None:
        """Have every resource advertise what the node can do now."""
        self.metrics.snapshot = snapshot
        if self._tasks is None:
            return
        limits = self._refusals.limits()
        capacity = Capacity(snapshot, self._knowledge, hung=self._allocation.hung, limits=limits)
        self._advertising.update(
            capacity, pulled=self._ledger.pulled, stuck=self._stuck, free=self._adoptable.free
        )
        self._adoptable.look_soon()
        self.metrics.offers = {name: endpoint.offer for name, endpoint in self._endpoints.items()}

    def _publish(self, now: Offer) -> None:
        self._endpoint(now.resource).publish(now)

    def _endpoint(self, resource: str) -> Endpoint:
        """The resource's endpoint; a new one is started."""
        if resource not in self._endpoints:
            types = self._advertising.resource(resource).choices(self._node.snapshot)
            self.metrics.add_resource(resource, types)
            self._endpoints[resource] = Endpoint(
                resource,
                self,
                self._paths,
                on_connection=self._connections.changed,
                on_registration=self._registration_tried,
                on_doubt=self._connections.doubted,
                recall=self._recovery.recall_again,
            )
            self._start(self._endpoints[resource].run(), f"endpoint {resource}")
        return self._endpoints[resource]

    def _faulty(self, fault: Fault) -> None:
        self.metrics.faults.labels(kind=fault.kind.value).inc()
        log.warning("left out", extra={"path": fault.path, "reason": fault.reason})

    def _registration_tried(self, _resource: str, success: bool) -> None:
        self.metrics.registrations.labels(result=result(success)).inc()

    def _remember(self, checkpoint: Checkpoint) -> None:
        self._advertising.remember(checkpoint)
        self._advertise(self._node.snapshot)

    def _reclaimed(self) -> None:
        """A device that a VM holds beyond its pod would only have pods fail that get it."""
        stuck = self._reclaim.occupied
        if stuck != self._stuck:
            self._stuck = stuck
            self._advertise(self._node.snapshot)

    def _removal_tried(self, success: bool, seconds: float) -> None:
        self.metrics.reclaims.labels(result=result(success)).inc()
        self.metrics.reclaim_seconds.observe(seconds)

    # --- commands, going down ----------------------------------------------------------------------

    async def allocate(self, resource: str, ids: Sequence[str]) -> Handover:
        """See ``kubelet.service.Backend``."""
        began = self._clock()
        with self._counted(self.metrics.allocations, resource):
            try:
                devices = await self._allocation.allocate(self._advertising.resource(resource), ids)
            finally:
                self.metrics.allocation_seconds.observe(self._clock() - began)
        return hand_over(self._node.kernel.paths, resource, devices, cdi=self._config.cdi)

    async def prepare(self, resource: str, ids: Sequence[str]) -> None:
        """See ``kubelet.service.Backend``."""
        with self._counted(self.metrics.starts, resource):
            await self._allocation.prepare(self._advertising.resource(resource), ids)
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
        """See ``kubelet.service.Backend``."""
        return self._allocation.prefer(available, required, size)

    def _about(self, uuid: str) -> dict[str, object]:
        """A device of ours in the log, or one that is offered; nothing of any other."""
        if not self._mark.is_ours(uuid) and self._advertising.resource_of(uuid) is None:
            return {}
        device = self._node.snapshot.devices.get(uuid)
        about: dict[str, object] = {"resource": self._advertising.resource_of(uuid), "device": uuid}
        return about if device is None else about | {"type": device.type, "parent": device.parent}
