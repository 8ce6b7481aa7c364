"""The port for metrics and health, asked as Prometheus, the kubelet and a troublemaker would."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from deviceplugin.errors import ConfigError
from deviceplugin.telemetry import http
from deviceplugin.telemetry.http import Address, Readiness, serving


@pytest.fixture
async def port() -> AsyncIterator[int]:
    registry = CollectorRegistry()
    Counter("cakes", "Eaten.", registry=registry).inc(3)
    with serving(Address("127.0.0.1", 0), registry, Readiness) as found:
        yield found


async def ask(port: int, path: str, *, method: str = "GET", host: str = "127.0.0.1") -> tuple[int, str]:
    """The status and the body of an answer."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: node\r\n\r\n".encode())
        async with asyncio.timeout(60):
            head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        return int(head.split()[1]), body
    finally:
        writer.close()


async def test_the_metrics_are_served(port: int) -> None:
    status, body = await ask(port, "/metrics")
    assert status == 200
    assert "cakes_total 3.0" in body


async def test_a_loop_that_turns_is_healthy(port: int) -> None:
    assert await ask(port, "/healthz") == (200, "ok\n")


async def test_readiness_tells_its_reasons() -> None:
    states = [Readiness(), Readiness(("vfio.dev/a: the kubelet does not listen to it",))]
    with serving(Address("127.0.0.1", 0), CollectorRegistry(), lambda: states[0]) as port:
        assert await ask(port, "/readyz") == (200, '{"ready": true, "reasons": []}\n')
        del states[0]
        status, body = await ask(port, "/readyz")
    assert status == 503
    assert json.loads(body) == {"ready": False, "reasons": ["vfio.dev/a: the kubelet does not listen to it"]}


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/", "GET", 404), ("/metrics/x", "GET", 404), ("/metrics", "POST", 405), ("/readyz", "HEAD", 405)],
)
async def test_nothing_else_is_answered(port: int, path: str, method: str, status: int) -> None:
    assert (await ask(port, path, method=method))[0] == status


async def test_clients_that_say_nothing_keep_nobody_waiting(port: int) -> None:
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(3 * http._AT_A_TIME)]
    try:
        assert await ask(port, "/healthz") == (200, "ok\n")
        for client in silent[: 2 * http._AT_A_TIME]:
            client.settimeout(60)
            assert client.recv(1) == b""  # Hung up on, to make room.
    finally:
        for client in silent:
            client.close()


async def test_a_client_that_says_a_byte_now_and_then_is_hung_up_on(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_PATIENCE", 0.3)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    with pytest.raises(ConnectionError):
        await drip(writer)
    writer.close()
    assert await ask(port, "/healthz") == (200, "ok\n")


async def drip(writer: asyncio.StreamWriter) -> None:
    """A request that never ends."""
    writer.write(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
    async with asyncio.timeout(60):
        while True:
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01" * 1000,
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 1000 + b"\r\n",
        b"GET / HTTP/9.9.9\r\n\r\n",
        b"\r\n\r\n",
        b"GET\0 /metrics\xff HTTP/1.1\r\n\r\n",
        b"GET /\r\nX: \xff\r\n\r\n",
    ],
    ids=["TLS", "long path", "1000 headers", "version", "nothing", "binary", "old"],
)
async def test_garbage_is_answered_or_hung_up_on(
    port: int, garbage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(garbage)
    writer.write_eof()
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionError):
            assert b" 200 " not in await reader.read()
    writer.close()
    assert await ask(port, "/healthz") == (200, "ok\n")
    assert "Traceback" not in capsys.readouterr().err


async def whole(port: int, data: bytes) -> bytes:
    """All that comes back for these bytes, from a client that sends them to the end before it reads."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        await writer.drain()
        writer.write_eof()
        async with asyncio.timeout(60):
            return await reader.read()
    finally:
        writer.close()


GET = b"GET /metrics HTTP/1.1\r\nHost: node\r\n"


@pytest.mark.parametrize(
    "headers",
    [
        b"Accept: application/openmetrics-text; version=x\r\n",
        b'Accept: text/plain; version=2.\r\n FORGED {"level": "error"}\r\n',
        b"Accept: text/plain; version=" + b"9" * 10_000 + b"\r\n",
        b"Accept: application/openmetrics-text; version=1.0.0; escaping=nothing\r\n",
        b"Accept-Encoding: gzip;q=x\r\n",
        b"Content-Length: -1\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    ],
    ids=["version", "folded", "long", "escaping", "encoding", "length", "chunked"],
)
async def test_no_header_changes_what_is_answered(
    port: int, headers: bytes, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    answer = await whole(port, GET + headers + b"\r\n")
    assert answer.startswith(b"HTTP/1.0 200 ")
    assert b"Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n" in answer
    assert b"cakes_total 3.0" in answer
    assert capfd.readouterr().err == ""
    assert not caplog.records


async def test_no_query_changes_what_is_answered(port: int) -> None:
    assert "cakes_total 3.0" in (await ask(port, "/metrics?name[]=other&name[]=x"))[1]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (GET + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 60_000) for n in range(90)) + b"\r\n", b"431"),
        (GET + b"a: b\r\n" * 101 + b"\r\n", b"431"),
        (
            b"GET /metrics?" + b"&".join(b"name[]=%d" % n for n in range(100_000)) + b" HTTP/1.1\r\n\r\n",
            b"431",
        ),
        (b"GET /\x1b[2J x HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/9.9\r\n\r\n", b"505"),
    ],
    ids=["long headers", "many headers", "names", "escape", "version"],
)
async def test_what_is_too_much_gets_an_answer_that_says_so(
    port: int, data: bytes, status: bytes, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert (await whole(port, data)).split(b" ", 2)[1] == status
    assert capfd.readouterr().err == ""
    assert not caplog.records


async def test_an_answer_that_can_not_be_had_is_an_error_of_one_line(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> Readiness:
        raise ValueError("two\nlines")

    with serving(Address("127.0.0.1", 0), CollectorRegistry(), fails) as port:
        assert (await ask(port, "/readyz"))[0] == 500
    assert capfd.readouterr().err == ""
    (record,) = caplog.records
    assert record.exc_info is None
    assert vars(record)["reason"] == r"ValueError('two\nlines')"


async def test_clients_that_hang_up_do_no_harm(port: int) -> None:
    for _ in range(20):
        client = socket.create_connection(("127.0.0.1", port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    assert await ask(port, "/healthz") == (200, "ok\n")


async def test_all_addresses_are_those_of_both_protocols() -> None:
    with serving(Address.parse(":0"), CollectorRegistry(), Readiness) as port:
        assert (await ask(port, "/healthz"))[0] == 200
        if socket.has_ipv6:
            assert (await ask(port, "/healthz", host="::1"))[0] == 200


async def test_a_port_that_is_taken_is_an_error_that_says_so(port: int) -> None:
    with (
        pytest.raises(ConfigError, match=rf"127.0.0.1:{port}: EADDRINUSE"),
        serving(Address("127.0.0.1", port), CollectorRegistry(), Readiness),
    ):
        pass


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        (":8080", "", 8080),
        ("127.0.0.1:1", "127.0.0.1", 1),
        ("[::1]:65535", "::1", 65535),
        ("node:80", "node", 80),
    ],
)
def test_an_address_is_host_and_port(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == Address(host, port)


@pytest.mark.parametrize("text", ["8080", "", ":", "node", "node:http", ":65536", ":-1", "::1:80", ":٣"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no address to listen on"):
        Address.parse(text)
