"""The agent's one port: ``/metrics``, ``/healthz`` and ``/readyz``, for Prometheus and the kubelet.

Connections are accepted on the event loop and answered by threads, so whoever gets an answer knows that
the loop turns. Only GET, one short request a connection, each within seconds, and a few at a time: where
one too many comes, the one that has taken longest has to go, so that nobody keeps others out by being slow.
What a client sends chooses one of the three answers and nothing else, and none of it is logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import LineTooLong
from http.server import BaseHTTPRequestHandler
from io import BufferedIOBase
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, NoReturn, cast

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from deviceplugin.errors import ConfigError, in_words

log = logging.getLogger(__name__)

_AT_A_TIME = 8
"""Connections that are served at the same time; one more makes the oldest go."""
_PATIENCE = 5.0
"""Seconds that a client may take in all, from coming to having its answer."""
_LONGEST = 16 << 10
"""Bytes of a request, its headers included: what parsing takes is a small multiple of that."""
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
    server = _Server(
        _listening(address), lambda path: _answer(path, registry, lambda: _asked(loop, readiness))
    )
    loop.add_reader(server.fileno(), server.handle_request)
    watch = asyncio.create_task(server.watch(), name="watch the clients of the port")
    try:
        yield server.port
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
        # Python puts the address into the error's text once more. A resolver's errors are no errnos.
        number = error.errno or 0
        why = in_words(number if number in errno.errorcode else error)
        raise ConfigError(f"nothing can listen on {address.host or '*'}:{address.port}: {why}") from error


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    content: bytes
    kind: str = "text/plain; charset=utf-8"


def _answer(path: str, registry: CollectorRegistry, readiness: Callable[[], Readiness]) -> _Answer:
    match path:
        case "/metrics":
            # One format, which all that read metrics understand: nothing is negotiated, nothing left out.
            return _Answer(HTTPStatus.OK, generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4)
        case "/healthz":
            return _Answer(HTTPStatus.OK, b"ok\n")
        case "/readyz":
            state = readiness()
            content = json.dumps({"ready": state.ready, "reasons": state.reasons}) + "\n"
            status = HTTPStatus.OK if state.ready else HTTPStatus.SERVICE_UNAVAILABLE
            return _Answer(status, content.encode(), "application/json; charset=utf-8")
        case _:
            return _Answer(HTTPStatus.NOT_FOUND, b"there are /metrics, /healthz and /readyz\n")


class _Bounded:
    """The lines of a request, until they are more than a request has."""

    def __init__(self, stream: BufferedIOBase) -> None:
        self._stream = stream
        self._left = _LONGEST

    def readline(self, _limit: int = -1) -> bytes:
        """The next line.

        Raises:
            LineTooLong: the request is too long; the caller answers that.
        """
        line = self._stream.readline(self._left + 1)
        self._left -= len(line)
        if self._left < 0:
            raise LineTooLong("request")
        return line

    def close(self) -> None:
        self._stream.close()


class _Handler(BaseHTTPRequestHandler):
    timeout = 2 * _PATIENCE
    """Seconds without a byte. The server hangs up before that, and nothing has to be said of it then."""
    server_version = "mdev-device-plugin"
    sys_version = ""
    default_request_version = "HTTP/1.0"
    """What is taken for its version until that was read, so that errors have a status line too."""

    def setup(self) -> None:
        super().setup()
        self.rfile = cast("Any", _Bounded(self.rfile))

    def handle(self) -> None:
        # What an error is answered with is written by these, should it come before they are known.
        self.requestline = self.request_version = self.command = ""
        self.close_connection = True
        try:
            self.raw_requestline = self.rfile.readline()
            if self.raw_requestline and self.parse_request():
                self._respond()
                return
        except LineTooLong:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        self._read_away()

    def _respond(self) -> None:
        if self.command != "GET":
            self.send_error(HTTPStatus.METHOD_NOT_ALLOWED, explain="only GET is answered")
            return
        try:
            answer = cast("_Server", self.server).answer(self.path.partition("?")[0])
        except Exception as error:  # noqa: BLE001  # the next request may fare better
            log.warning("a request could not be answered", extra={"reason": repr(error)})
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(answer.content)

    def _read_away(self) -> None:
        """Let a client finish what was not read: closed before that, its side would drop the answer."""
        self.connection.shutdown(socket.SHUT_WR)
        while self.connection.recv(_LONGEST):
            pass

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Say nothing: the kubelet asks every few seconds."""


class _Server(ThreadingMixIn, TCPServer):
    """Takes connections when it is told that there are some, and answers each in a thread."""

    daemon_threads = True
    block_on_close = False
    timeout = 0

    def __init__(self, listening: socket.socket, answer: Callable[[str], _Answer]) -> None:
        super().__init__(listening.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        # A client that hung up before it was accepted must not keep the event loop waiting.
        listening.setblocking(False)
        self.port: int = listening.getsockname()[1]
        self.answer = answer
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
