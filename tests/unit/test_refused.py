"""What ``types`` makes of the agent's answer, whatever that is."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from deviceplugin.cli.refused import Refused, refused
from deviceplugin.inventory.slots import NodeMark
from deviceplugin.telemetry.http import Address, Readiness, serving
from tests import parts

SINCE = 1_700_000_000.5


@contextmanager
def answering(answer: bytes, *, closes: bool = True) -> Iterator[str]:
    """Something that listens and says this to whoever comes."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(answer)
                if not closes:
                    ended.wait()

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        ended.set()
        thread.join()


async def test_the_agent_is_asked_what_cards_refuse() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    metrics = parts.metrics(NodeMark(0), refusing=lambda: [("0000:01:00.0", "large", "EIO", SINCE)])
    with serving(Address("127.0.0.1", port), metrics.registry, lambda: Readiness(())):
        found = await asyncio.to_thread(refused, f":{port}")
    assert found == {("0000:01:00.0", "large"): Refused("2023-11-14T22:13:20+00:00", "EIO")}
    assert re.fullmatch(r"since 2023-11-1\d \d\d:\d\d \(EIO\)", str(*found.values()))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense",
        b"HTTP/1.1 500 Oh\r\n\r\nmdev_refused_since_timestamp_seconds",
        b"HTTP/1.1 200 OK\r\n\r\n\xff\xfe",
        *(
            b"HTTP/1.1 200 OK\r\n\r\nmdev_refused_since_timestamp_seconds" + line + b"\n"
            for line in (
                b"",
                b"{",
                b'{card="a" 3',
                b'{card="a",type="b",errno="EIO"} NaN',
                b'{card="a",type="b",errno="EIO"} +Inf',
                b'{card="a",type="b",errno="EIO"} 1e300',
                b'{card="a",type="b",errno="\x1b[31m"} 5',
            )
        ),
    ],
)
def test_an_answer_that_says_nothing_is_left_out(answer: bytes) -> None:
    with answering(answer) as address:
        assert refused(address) == {}


def test_an_agent_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deviceplugin.cli.refused._PATIENCE", 0.05)
    with answering(b"HTTP/1.1 200 OK\r\n", closes=False) as address:
        assert refused(address) == {}


@pytest.mark.parametrize("address", [None, "", "nonsense", ":0", ":1", "[::1]:1"])
def test_without_an_agent_nothing_is_known(address: str | None) -> None:
    assert refused(address) == {}
