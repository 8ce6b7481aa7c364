"""The agent: starts, watches and stops everything else.

Facts go up: what moves on the node goes into ``state``, of which ``offering`` makes each resource's offer,
which its endpoint sends. Commands come down: an endpoint's request goes to ``allocation``, which has the
node make what is missing.
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
from deviceplugin.inventory.cards import Card
from deviceplugin.inventory.slots import NodeMark
from deviceplugin.inventory.snapshot import Snapshot
from deviceplugin.kubelet.checkpoint import Checkpoint
from deviceplugin.kubelet.memory import KubeletMemory
from deviceplugin.kubelet.paths import KubeletPaths
from deviceplugin.kubelet.registration import remove_stale_sockets, watch
from deviceplugin.kubelet.server import SOCKETS, Endpoint
from deviceplugin.offering import Offering
from deviceplugin.pods import Pods
from deviceplugin.reclaim import Reclaim
from deviceplugin.recovery import PATIENCE, Recovery
from deviceplugin.settings import Config
from deviceplugin.specs import Specs
from deviceplugin.state import State
from deviceplugin.telemetry.metrics import Metrics, result
from deviceplugin.telemetry.recorder import Recorder

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
        self.metrics = metrics = Metrics(
            self._mark,
            held_back=lambda: tuple(self._reclaim.held_back.values()),
            refusing=lambda: self._state.refusals.listed(),  # noqa: PLW0108 - the state comes later
        )
        self._events = Recorder(metrics)
        self._state = State(clock, events=self._events, on_foretold=metrics.count_foretold)
        self._config = config
        self._http = http
        self._paths = kubelet
        self._clock = clock
        self._endpoints: dict[str, Endpoint] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._work: list[asyncio.Task[Any]] = []
        self._advertising = Advertising(
            config, node_name=node_name, publish=lambda now: self._endpoint(now.resource).publish(now)
        )
        self._node = Node(
            kernel,
            on_change=self._changed,
            on_fault=self._faulty,
            on_scan=self.metrics.scan_seconds.observe,
            on_settled=self._settled,
            on_deaf=self.metrics.count_event_failure,
        )
        self._memory = KubeletMemory(kubelet, self._endpoints, clock)
        self._connections = Connections(
            self._endpoints,
            self._memory,
            self._state.ledger,
            self.metrics,
            resource_of=self._advertising.resource_of,
        )
        files = SpecFiles(cdi or kernel.paths.cdi)
        self._specs = Specs(files, self._node, self._state.ledger) if config.cdi else None
        self._allocation = Allocation(
            self._node,
            self._state.ledger,
            mark=self._mark,
            offered=self._advertising.was_offered,
            remembered=self._memory.remembered_nodes,
            specs=self._specs,
            knowledge=lambda: self._state.knowledge,
            refusals=self._state.refusals,
            events=self._events,
            on_occupied=self._occupied,
            on_withdrawn=self._withdrawn,
            on_late=self._state.tell,
        )
        tell = self._state.tell
        self._pods = Pods(self._memory, self._state.ledger, about=self._about, on_released=tell)
        self._reclaim = Reclaim(
            self._node,
            self._state.ledger,
            self._memory,
            self._pods,
            config.reclaim,
            mark=self._mark,
            resource_of=self._advertising.resource_of,
            about=self._about,
            on_held_back=self.metrics.count_held_back,
            on_tried=self.metrics.count_removal,
            on_remembered=self._remember,
            on_occupied=self._state.occupy,
        )
        self._recovery = Recovery(
            self._memory,
            self._node,
            self._advertising,
            self._allocation,
            mark=self._mark,
            pod=pod,
            on_recalled=self._state.tell,
        )
        self._adoptable = Adoptable(
            self._node,
            self._state.ledger,
            adopted=lambda: self._advertising.adopted,
            held=lambda: self._advertising.held if self._recovery.has_read else None,
            read_again=self._recovery.read_again,
            grace=config.reclaim.grace,
            interval=config.reclaim.interval,
            on_change=self._state.tell,
        )
        self._offering = Offering(
            self._state,
            self._node,
            self._advertising,
            self._adoptable,
            hung=lambda: self._allocation.hung,
            on_round=self._offered,
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
        self._state.refusals.close()
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
            self._offering.begin()
            self._start(self._offering.run(), "keep the offers true")
            if not self._endpoints:
                log.warning("this node has no mediated device type yet; waiting for one")
            await ended.wait()
            log.info("ending; devices stay as they are")
            self._tasks = None
            self._offering.end()
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
        cards = before.cards.keys() - after.cards.keys()
        self._state.node_moved(gone=gone, held=self._advertising.held, cards_gone=cards)
        self.metrics.snapshot = after
        if gone and self._specs is not None:
            self._specs.tidy_soon()
        if self._state.ledger.pulled:
            self._pods.ask_soon()

    def _settled(self, cards: Sequence[Card]) -> None:
        if self._specs is not None:
            self._specs.tidy_soon()  # A device may have come and gone between two looks.
        self._state.settled(cards)

    def _occupied(self, uuid: str) -> None:
        self._adoptable.is_in_use(uuid)
        self._reclaim.found_occupied(uuid)
        self._state.tell()

    def _withdrawn(self, uuid: str) -> None:
        self._advertising.released(uuid)
        self._state.tell()

    def _offered(self) -> None:
        self.metrics.offers = {name: endpoint.offer for name, endpoint in self._endpoints.items()}

    def _endpoint(self, resource: str) -> Endpoint:
        """The resource's endpoint; a new one is started."""
        if resource not in self._endpoints:
            known = self._advertising.resource(resource)
            self.metrics.add_resource(resource, known.choices(self._node.snapshot))
            self._endpoints[resource] = Endpoint(
                resource,
                self,
                self._paths,
                on_connection=self._connections.changed,
                on_registration=self.metrics.count_registration,
                on_doubt=self._connections.doubted,
                recall=self._recall,
            )
            self._start(self._endpoints[resource].run(), f"endpoint {resource}")
        return self._endpoints[resource]

    def _faulty(self, fault: Fault) -> None:
        self.metrics.count_fault(fault)
        log.warning("left out", extra={"path": fault.path, "reason": fault.reason})

    def _remember(self, checkpoint: Checkpoint) -> None:
        self._advertising.remember(checkpoint)
        self._state.tell()

    async def _recall(self) -> None:
        """Before a registration: its first list has what the kubelet remembers by then."""
        await self._recovery.recall_again()
        self._offering.now()

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
            # What could not be had is listed so before the kubelet hears of it, and asks for the next pod.
            self._offering.now()
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
