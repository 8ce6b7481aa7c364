"""The agent's one port: ``/metrics``, ``/healthz`` and ``/readyz``, for Prometheus and the kubelet.

Connections are accepted on the event loop and answered by threads, so whoever gets an answer knows that
the loop turns. Only GET, one request a connection, each within seconds, and a few at a time: where one
too many comes, the one that has taken longest has to go, so that nobody keeps others out by being slow.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any, NoReturn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from deviceplugin.errors import ConfigError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

log = logging.getLogger(__name__)

_AT_A_TIME = 8
"""Connections that are served at the same time; one more makes the oldest go."""
_PATIENCE = 5.0
"""Seconds that a client may take in all, from coming to having its answer."""
_MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; an empty host is all of the machine's addresses."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``HOST:PORT``, ``[HOST]:PORT`` or ``:PORT``.

        Raises:
            ConfigError: it is none of these.
        """
        host, colon, port = text.rpartition(":")
        if not colon or not (port.isascii() and port.isdigit()) or int(port) > _MAX_PORT:
            raise ConfigError(
                f"{text!r} is no address to listen on; write it as in ':8080' or '127.0.0.1:8080'"
            )
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ConfigError(
                f"{text!r} is no address to listen on; put an IPv6 host in brackets: '[::1]:8080'"
            )
        return cls(host, int(port))


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the agent serves its node, and if not, why."""

    reasons: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        return not self.reasons


@contextmanager
def serving(
    address: Address, registry: CollectorRegistry, readiness: Callable[[], Readiness]
) -> Iterator[int]:
    """Answer requests for the length of the block, which gets the port. Wants a running event loop.

    Args:
        readiness: called on the event loop.

    Raises:
        ConfigError: the address can't be listened on.
    """
    loop = asyncio.get_running_loop()
    server = _Server(_listening(address), _application(registry, lambda: _asked(loop, readiness)))
    loop.add_reader(server.fileno(), server.handle_request)
    watch = asyncio.create_task(server.watch(), name="watch the clients of the port")
    try:
        yield server.server_port
    finally:
        watch.cancel()
        loop.remove_reader(server.fileno())
        server.server_close()


def _asked(loop: asyncio.AbstractEventLoop, question: Callable[[], Readiness]) -> Readiness:
    """The answer to a question that only the event loop can answer, for another thread."""

    async def answer() -> Readiness:
        return question()

    return asyncio.run_coroutine_threadsafe(answer(), loop).result(_PATIENCE)


def _listening(address: Address) -> socket.socket:
    host = address.host or "::"
    try:
        if ":" in host:
            try:
                return socket.create_server(
                    (host, address.port),
                    family=socket.AF_INET6,
                    dualstack_ipv6=not address.host and socket.has_dualstack_ipv6(),
                )
            except OSError as error:
                if address.host or error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
                host = ""  # A machine without IPv6.
        return socket.create_server((host, address.port))
    except OSError as error:
        why = errno.errorcode.get(error.errno or 0, "unknown error")
        raise ConfigError(
            f"nothing can listen on {address.host or '*'}:{address.port}: "
            f"{why} ({os.strerror(error.errno) if error.errno else error})"
        ) from error


def _application(
    registry: CollectorRegistry, readiness: Callable[[], Readiness]
) -> Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]:
    metrics = make_wsgi_app(registry)

    def answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "GET":
            return _text(start, "405 Method Not Allowed", "only GET is answered\n")
        match environ["PATH_INFO"]:
            case "/metrics":
                scraped: Iterable[bytes] = metrics(environ, start)
                return scraped
            case "/healthz":
                return _text(start, "200 OK", "ok\n")
            case "/readyz":
                state = readiness()
                content = json.dumps({"ready": state.ready, "reasons": state.reasons}) + "\n"
                status = "200 OK" if state.ready else "503 Service Unavailable"
                return _text(start, status, content, kind="application/json")
            case _:
                return _text(start, "404 Not Found", "there are /metrics, /healthz and /readyz\n")

    return answer


def _text(start: StartResponse, status: str, content: str, *, kind: str = "text/plain") -> Iterable[bytes]:
    start(status, [("Content-Type", f"{kind}; charset=utf-8"), ("Cache-Control", "no-store")])
    return [content.encode()]


class _Handler(WSGIRequestHandler):
    timeout = 2 * _PATIENCE
    """Seconds without a byte. The server hangs up before that, and nothing has to be said of it then."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Say nothing: the kubelet asks every few seconds."""


class _Server(ThreadingMixIn, WSGIServer):
    """Takes connections when it is told that there are some, and answers each in a thread."""

    daemon_threads = True
    block_on_close = False
    timeout = 0

    def __init__(
        self,
        listening: socket.socket,
        application: Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]],
    ) -> None:
        TCPServer.__init__(self, listening.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        # A client that hung up before it was accepted must not keep the event loop waiting.
        listening.setblocking(False)
        self.server_name, self.server_port = listening.getsockname()[:2]
        self.setup_environ()
        self.set_app(application)
        self._lock = threading.Lock()
        self._served: dict[socket.socket, float] = {}
        """When each connection came, the oldest first."""

    async def watch(self) -> NoReturn:
        """Hang up on whoever takes too long, byte by byte even; runs until it is cancelled."""
        while True:
            await asyncio.sleep(_PATIENCE / 10)
            self._hang_up(lambda came: time.monotonic() - came > _PATIENCE)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._hang_up(lambda _: len(self._served) >= _AT_A_TIME)
        with self._lock:
            self._served[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._served.pop(request, None)
            super().shutdown_request(request)

    def _hang_up(self, is_due: Callable[[float], bool]) -> None:
        """Hang up on the oldest as long as they are due; their threads find out and end."""
        with self._lock:
            while self._served and is_due(next(iter(self._served.values()))):
                oldest = next(iter(self._served))
                del self._served[oldest]
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """A client that went away or never said anything is nobody's business but its own."""
        log.debug("a request was not answered", extra={"reason": repr(sys.exception())})
