"""What the kubelet asks of a resource: the DevicePlugin service, a new one for each connection.

Nothing on a socket tells who calls. The kubelet asks for the list within moments of a registration, and
whoever does so then may be it: all of them are served alike, the connection is up while one of them listens,
and each that hangs up leaves a doubt, which ``agreement`` settles by asking the kubelet. Who comes later is a
guest: its coming and going moves nothing. There are bounds to what all can ask for at a time, so that they
can't keep the agent from serving the kubelet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

import grpc
import grpc.aio

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.api import deviceplugin_v1beta1_pb2_grpc as rpc
from deviceplugin.errors import BadRequest, TooSlow
from deviceplugin.handover import Handover
from deviceplugin.kubelet.listing import Listing
from deviceplugin.kubelet.translation import Context, granted, translated

log = logging.getLogger(__name__)

MAX_GUESTS = 8
"""Streams of the list that begin when the kubelet has its own."""
FINISH = 3.5
"""Seconds that requests under way have to finish when a connection ends."""
LAST_MOMENT = 0.5
"""Seconds that refusals have to reach the kubelet after that, and then the ends of lists."""
LIMITS = (
    # The kubelet has one connection, and a request under way for each container that it starts; more of
    # these wait for their turn. Whoever takes all connections keeps it out, so there are many.
    ("grpc.max_allowed_incoming_connections", 48),
    ("grpc.max_concurrent_streams", 64),
    # Twice the IDs of a resource with as many slots as there can be.
    ("grpc.max_receive_message_length", 2 << 20),
    # Milliseconds: whoever connects and does not speak, or has nothing to ask, makes room for others.
    ("grpc.server_handshake_timeout_ms", 3_000),
    ("grpc.max_connection_idle_ms", 60_000),
)
"""What all clients of a socket can have together, as options of its server."""


class Backend(Protocol):
    """What stands behind all endpoints. Each method raises PluginError for what it can't do."""

    async def allocate(self, resource: str, ids: Sequence[str]) -> Handover: ...

    async def prepare(self, resource: str, ids: Sequence[str]) -> None: ...

    def prefer(self, available: Sequence[str], required: Sequence[str], size: int) -> Sequence[str]: ...


class Service(rpc.DevicePluginServicer):
    """Answers on one socket.

    Args:
        on_connection: called when the kubelet begins to listen, and when nobody does any more who may be it.
        on_doubt: called when one hangs up who may have been the kubelet, while others listen.
    """

    def __init__(
        self,
        listing: Listing,
        backend: Backend,
        *,
        on_connection: Callable[[bool], None],
        on_doubt: Callable[[], None],
    ) -> None:
        self._listing = listing
        self._backend = backend
        self._on_connection = on_connection
        self._on_doubt = on_doubt
        self._guests = 0
        self._listeners = 0
        self._working: set[asyncio.Timeout] = set()
        self._requests = _Calls()
        self.expecting = False
        """Whether the kubelet may ask for the list: it knows of this socket, or is being told."""
        self.listens_since: float | None = None
        """When somebody who may be the kubelet began to listen; None while nobody does."""
        self.listened = asyncio.Event()
        """Set once somebody has begun to."""
        self._ending = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether somebody listens who may be the kubelet."""
        return self.listens_since is not None

    async def end(self) -> None:
        """Let requests that are under way finish, refuse those that take too long, then end all lists.

        In this order, since the kubelet hangs up when its list ends.
        """
        await self._requests.over(FINISH)
        for limit in self._working:
            limit.reschedule(0)
        await self._requests.over(LAST_MOMENT)
        self._ending.set()

    @property
    def _resource(self) -> str:
        return self._listing.offer.resource

    async def GetDevicePluginOptions(self, request: pb.Empty, context: Context) -> pb.DevicePluginOptions:  # noqa: N802
        """Which optional calls are wanted: both."""
        return pb.DevicePluginOptions(pre_start_required=True, get_preferred_allocation_available=True)

    async def ListAndWatch(  # noqa: N802
        self, request: pb.Empty, context: Context
    ) -> AsyncIterator[pb.ListAndWatchResponse]:
        """The list, and the list again on every change. Several streams each see all of them."""
        if self.expecting:
            async with self._perhaps_the_kubelet():
                async for response in self._responses():
                    yield response
            return
        if self._guests >= MAX_GUESTS:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{self._resource}: {MAX_GUESTS} others listen already, beside the kubelet",
            )
        self._guests += 1
        try:
            async for response in self._responses():
                yield response
        finally:
            self._guests -= 1

    @contextlib.asynccontextmanager
    async def _perhaps_the_kubelet(self) -> AsyncIterator[None]:
        """Somebody listens who may be the kubelet, for the length of the block."""
        self._listeners += 1
        if self._listeners == 1:
            self.listens_since = time.monotonic()
            self.listened.set()
            self._on_connection(True)
        try:
            yield
        finally:
            self._listeners -= 1
            if self._listeners:
                self._on_doubt()
            else:
                self.listens_since = None
                self._on_connection(False)

    async def _responses(self) -> AsyncIterator[pb.ListAndWatchResponse]:
        sent = -1
        while not self._ending.is_set():
            changed = self._listing.changed
            if sent != self._listing.revision:
                sent = self._listing.revision
                yield self._listing.response
                continue
            await first_of(changed, self._ending)

    async def GetPreferredAllocation(  # noqa: N802
        self, request: pb.PreferredAllocationRequest, context: Context
    ) -> pb.PreferredAllocationResponse:
        """Which devices to choose; never an error, which would fail the pod.

        The kubelet asks for one container at a time. The event loop answers, so no time is spent on what
        it can't have asked: more containers, or devices that were never listed.
        """
        return pb.PreferredAllocationResponse(
            container_responses=[
                pb.ContainerPreferredAllocationResponse(deviceIDs=self._prefer(container))
                for container in request.container_requests[:1]
            ]
        )

    def _prefer(self, container: pb.ContainerPreferredAllocationRequest) -> Sequence[str]:
        available = [uuid for uuid in container.available_deviceIDs if uuid in self._listing.ids]
        required = container.must_include_deviceIDs[: len(self._listing.ids)]
        size = max(container.allocation_size, 0)
        try:
            return self._backend.prefer(available, required, size)
        except Exception:
            log.exception("no preference could be worked out", extra={"resource": self._resource})
            return (*required, *available)[:size]

    async def Allocate(self, request: pb.AllocateRequest, context: Context) -> pb.AllocateResponse:  # noqa: N802
        """Make the devices of one container."""
        count = len(request.container_requests)
        async with translated(context), self._request(context):
            if count != 1:
                raise BadRequest(
                    f"{self._resource}: the request is for {count} containers, and the kubelet sends one each"
                )
            given = await self._backend.allocate(self._resource, request.container_requests[0].devices_ids)
            return pb.AllocateResponse(container_responses=[granted(given)])

    async def PreStartContainer(  # noqa: N802
        self, request: pb.PreStartContainerRequest, context: Context
    ) -> pb.PreStartContainerResponse:
        """Have the devices ready before a container starts."""
        async with translated(context), self._request(context):
            await self._backend.prepare(self._resource, request.devices_ids)
        return pb.PreStartContainerResponse()

    @contextlib.asynccontextmanager
    async def _request(self, context: Context) -> AsyncIterator[None]:
        """A request under way, for the length of the block."""
        limit = asyncio.timeout(None)
        self._working.add(limit)
        self._requests.add(context)
        try:
            async with limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise TooSlow(
                f"{self._resource}: the agent ends or serves another kubelet, and the node has not answered "
                "yet; what it makes after all is known by its mark"
            ) from error
        finally:
            self._working.discard(limit)


class _Calls:
    """Requests, from their beginning until gRPC has done with them."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    def add(self, context: Context) -> None:
        self._count += 1
        self._none.clear()
        context.add_done_callback(self._done)  # type: ignore[arg-type]  # the stubs want a class

    def _done(self, _context: Context) -> None:
        self._count -= 1
        if not self._count:
            self._none.set()

    async def over(self, seconds: float) -> None:
        """Wait until there is none, but no longer than so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._none.wait()


async def first_of(*events: asyncio.Event) -> None:
    """Wait until one of them is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
