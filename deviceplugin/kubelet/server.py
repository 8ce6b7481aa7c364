"""One resource's endpoint: the DevicePlugin service on a socket of its own.

An endpoint lives as long as the agent. Its *connection* to the kubelet, which is a server, its socket
and a registration, is renewed whenever the kubelet is new, the socket is gone or the kubelet ended the
stream; each connection has a socket name of its own, so that no end of an old one is taken for the end
of the new.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import NoReturn

import grpc.aio

from deviceplugin.api import deviceplugin_v1beta1_pb2_grpc as rpc
from deviceplugin.errors import KubeletError
from deviceplugin.inventory.offer import Offer
from deviceplugin.kubelet.listing import Listing
from deviceplugin.kubelet.paths import KubeletPaths
from deviceplugin.kubelet.registration import Registrar, register, was_reached
from deviceplugin.kubelet.service import LAST_MOMENT, LIMITS, Backend, Service, first_of

log = logging.getLogger(__name__)

SOCKET_PREFIX = "mdev-"
SOCKETS = f"{SOCKET_PREFIX}{'[0-9a-f]' * 8}-{'[0-9a-f]' * 8}.sock"
"""The names of all sockets that an agent ever makes, as a glob."""
LISTEN_DEADLINE = 2.0
"""Seconds from a registration to the kubelet's asking for the list, which it does at once."""
EXPECTING = 10.0
"""Seconds from a registration in which whoever asks for the list may be the kubelet, if it can't be asked."""
AFTER_END = 0.05
"""Seconds from the end of one connection to the next."""
SHORT_LIVED = 2.0
"""Seconds: a connection that ends sooner has not worked."""
FIRST_RETRY = 0.1
LAST_RETRY = 5.0
"""Seconds between attempts to register; each doubles the time, and a new kubelet socket resets it."""


class Endpoint:
    """A resource as the kubelet sees it.

    Args:
        on_connection: called with the resource when the kubelet begins or ends to listen.
        on_doubt: called with the resource when one of several listeners ends, which may be the kubelet.
        recall: done before each registration, so that the list has what the kubelet remembers by then.
    """

    def __init__(
        self,
        resource: str,
        backend: Backend,
        paths: KubeletPaths,
        *,
        on_connection: Callable[[str, bool], None],
        on_registration: Callable[[str, bool], None],
        on_doubt: Callable[[str], None],
        recall: Callable[[], Awaitable[None]],
    ) -> None:
        self.resource = resource
        self._backend = backend
        self._paths = paths
        self._on_connection = on_connection
        self._on_registration = on_registration
        self._on_doubt = on_doubt
        self._recall = recall
        self.listing = Listing(resource)
        self._connection = self._new_connection()
        self._retry = asyncio.Event()
        self._pause = FIRST_RETRY
        self._told = ""

    # --- what the agent says -----------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether the kubelet is listening to the list of devices."""
        return self._connection.service.connected

    @property
    def listens_since(self) -> float | None:
        """When the kubelet began to listen, on the monotonic clock; None while it does not."""
        return self._connection.service.listens_since

    @property
    def socket(self) -> str:
        """The name of the socket that is served now."""
        return self._connection.socket

    @property
    def offer(self) -> Offer:
        """What is advertised now."""
        return self.listing.offer

    def publish(self, offer: Offer) -> None:
        """Advertise this from now on; sent only if it differs."""
        self.listing.publish(offer)

    def resend(self) -> None:
        """Send the list as it is once more, which makes the kubelet rewrite its checkpoint."""
        self.listing.resend()

    def settle(self) -> None:
        """The kubelet has its list: whoever asks for it from here on is somebody else."""
        self._connection.settle()

    def renew(self) -> None:
        """Register under a new socket."""
        self._connection.renew.set()

    def kubelet_appeared(self, identity: Registrar) -> None:
        """The kubelet's socket was made anew: register there, unless that was done already."""
        connection = self._connection
        if connection.registrar == identity:
            if connection.socket and not (self._paths.plugins / connection.socket).exists():
                connection.renew.set()
            return
        self._retry.set()
        if connection.registered:
            connection.renew.set()

    def socket_gone(self, name: str) -> None:
        """A socket was deleted from the kubelet's directory."""
        if name == self._connection.socket:
            self._connection.renew.set()

    async def run(self) -> NoReturn:
        """Serve and stay registered; runs until it is cancelled, and then finishes what is under way."""
        pause = AFTER_END
        while True:
            began = asyncio.get_running_loop().time()
            async with self._served():
                if await self._register() and await self._listened_to():
                    await self._connection.renew.wait()
            _heed_cancellation()
            # A kubelet before 1.37 takes the end of an old stream for the end of whatever is registered
            # by then: it has to have seen it first. One that hangs up again and again gets more time.
            ended_soon = asyncio.get_running_loop().time() - began < SHORT_LIVED
            pause = min(2 * pause, LAST_RETRY) if ended_soon else AFTER_END
            self._retry.clear()
            await asyncio.sleep(AFTER_END)
            if self._connection.registrar == Registrar.at(self._paths.registration) and (
                await self._wait_to_retry(pause - AFTER_END)
            ):
                pause = AFTER_END

    # --- one connection ----------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _served(self) -> AsyncIterator[None]:
        """A server on a socket of its own, for the length of the block."""
        connection = self._new_connection(f"{_prefix(self.resource)}{secrets.token_hex(4)}.sock")
        self._connection = connection
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *LIMITS])
        rpc.add_DevicePluginServicer_to_server(connection.service, server)
        path = self._paths.plugins / connection.socket
        # Without the directory the kubelet, which makes it, has never run. An event tells when it does.
        while not (self._paths.plugins.is_dir() and _bound(server, path)):
            self._retry.clear()
            await self._wait_to_retry(LAST_RETRY)
        # Shielded, since gRPC does not get over a start that is given up; it takes no time.
        starting = asyncio.ensure_future(server.start())
        try:
            await asyncio.shield(starting)
            yield
        finally:
            await asyncio.wait({starting})
            await connection.service.end()
            await server.stop(LAST_MOMENT)
            with contextlib.suppress(OSError):
                path.unlink()

    def _new_connection(self, socket: str = "") -> _Connection:
        connection: _Connection

        def changed(up: bool) -> None:
            if not up:
                # Ended by us or by the kubelet, which never asks for the list again by itself.
                connection.renew.set()
            self._on_connection(self.resource, up)

        service = Service(
            self.listing,
            self._backend,
            on_connection=changed,
            on_doubt=lambda: self._on_doubt(self.resource),
        )
        connection = _Connection(service, socket)
        return connection

    async def _register(self) -> bool:
        """Register, however long it takes; False if this connection has become useless meanwhile."""
        connection = self._connection
        while not connection.renew.is_set():
            await self._recall()
            self._retry.clear()
            connection.registrar = Registrar.at(self._paths.registration)
            connection.service.expecting = True
            try:
                await self._attempt(connection)
            except KubeletError as error:
                connection.service.expecting = False
                if connection.renew.is_set():
                    return False
                self._on_registration(self.resource, False)
                if str(error) != self._told:
                    self._told = str(error)
                    log.warning(
                        "not registered, will try again",
                        extra={"resource": self.resource, "reason": self._told},
                    )
                hopeful = await self._wait_to_retry(self._pause)
                self._pause = FIRST_RETRY if hopeful else min(2 * self._pause, LAST_RETRY)
                if was_reached(error):
                    return False  # It may know this socket by now, and would refuse it a second time.
            else:
                self._pause, self._told = FIRST_RETRY, ""
                connection.registered = True
                asyncio.get_running_loop().call_later(EXPECTING, connection.settle)
                self._on_registration(self.resource, True)
                log.info("registered", extra={"resource": self.resource, "socket": connection.socket})
                return True
        return False

    async def _attempt(self, connection: _Connection) -> None:
        """One call of Register, given up when the kubelet or the socket that it is about is no more."""
        call = asyncio.ensure_future(register(self._paths.registration, connection.socket, self.resource))
        void = asyncio.ensure_future(first_of(self._retry, connection.renew))
        try:
            await asyncio.wait((call, void), return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                raise KubeletError("the kubelet or our socket was replaced before it answered")
            await call
        finally:
            void.cancel()
            call.cancel()
            await asyncio.gather(call, void, return_exceptions=True)

    async def _listened_to(self) -> bool:
        """Whether the kubelet began to listen; one that took an old end for this one's never does."""
        connection = self._connection
        try:
            async with asyncio.timeout(LISTEN_DEADLINE):
                await first_of(connection.service.listened, connection.renew)
        except TimeoutError:
            log.warning("registered, but the kubelet does not listen", extra={"resource": self.resource})
            return False
        return True

    async def _wait_to_retry(self, seconds: float) -> bool:
        """Wait until it is time to try again; True if there is a reason to hope."""
        try:
            async with asyncio.timeout(seconds):
                return await self._retry.wait()
        except TimeoutError:
            return False


class _Connection:
    """The state of one registration."""

    def __init__(self, service: Service, socket: str = "") -> None:
        self.service = service
        self.socket = socket
        self.registrar: Registrar | None = None
        self.registered = False
        self.renew = asyncio.Event()
        """Set when it has become useless: the kubelet's list ended, the kubelet or the socket is no more."""

    def settle(self) -> None:
        """The kubelet has its list by now: whoever asks for it from here on is somebody else."""
        self.service.expecting = False


def is_socket_of(name: str, resources: Iterable[str]) -> bool:
    """Whether a socket's name is one that an agent gives to an endpoint of these resources."""
    return any(name.startswith(_prefix(resource)) for resource in resources)


def _prefix(resource: str) -> str:
    return f"{SOCKET_PREFIX}{hashlib.sha256(resource.encode()).hexdigest()[:8]}-"


def _heed_cancellation() -> None:
    """End here if the running task was cancelled: a gRPC server that stops in that very moment hides it.

    Its stop waits with ``asyncio.wait_for``, which loses a cancellation when it is over (Python 3.11).
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _bound(server: grpc.aio.Server, path: Path) -> bool:
    """Have the server listen on a socket that only its owner can reach; False if there can't be one."""
    # From the start, and without a look at what has the name by then, as a later chmod would take.
    before = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{path}")
    except (RuntimeError, OSError) as error:
        log.warning("no socket could be made", extra={"path": str(path), "reason": str(error)})
        return False
    finally:
        os.umask(before)
    return True
