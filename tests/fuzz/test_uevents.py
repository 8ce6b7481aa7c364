"""Whatever the kernel announces: other events are heeded all the same, and at worst the node is looked at."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deviceplugin.host.kernel import LinuxKernel, Uevent, UeventsLost
from deviceplugin.host.node import Node
from deviceplugin.host.paths import HostPaths
from deviceplugin.host.uevents import NetlinkUevents
from deviceplugin.inventory.snapshot import Parent, Snapshot
from tests import parts
from tests.fuzz.examples import fuzzed, texts

devpaths = texts | st.lists(texts, max_size=4).map("/".join) | st.just("/devices/virtual/p/p/uuid")
MTTY = Parent("p", "card", "d", None, None, (), ())


class Announced:
    """A source of events, as many as it is given."""

    def __init__(self) -> None:
        self.reader, self.writer = socket.socketpair()
        self.events: list[Uevent] = []

    def fileno(self) -> int:
        return self.reader.fileno()

    def receive(self) -> list[Uevent]:
        self.reader.recv(4096)
        events, self.events = self.events, []
        return events

    def close(self) -> None:
        self.reader.close()
        self.writer.close()


class Noting(Node):
    """A node that notes what it is to look at."""

    def __init__(self) -> None:
        super().__init__(LinuxKernel(HostPaths(Path("/nonexistent"))), **parts.NODE)
        self.snapshot = Snapshot((MTTY,))
        self.asked: list[tuple[str, ...]] = []
        self.wanted: tuple[str, ...] = ()
        self.asks = asyncio.Event()

    def look_again(self, *cards: str) -> None:
        self.asked.append(cards)
        if cards == self.wanted:
            self.asks.set()


@fuzzed
@given(texts | st.sampled_from(["mdev", "vfio"]), devpaths, st.booleans())
@example("mdev", "", False)
@example("mdev", "/", False)
def test_an_event_leads_to_a_look_at_most(subsystem: str, devpath: str, moved: bool) -> None:
    node = Noting()
    node._heed(subsystem, devpath, moved)
    if moved:
        assert node.asked == [()]
    elif subsystem == "mdev":
        assert node.asked in ([()], [("card",)])
    else:
        assert node.asked == []


@fuzzed
@given(
    st.lists(
        st.builds(
            Uevent, texts, devpaths, texts | st.just("mdev"), st.dictionaries(texts, texts, max_size=3)
        ),
        max_size=5,
    )
)
def test_what_comes_behind_odd_events_is_heeded(events: list[Uevent]) -> None:
    node = Noting()
    source = Announced()
    node.kernel = _Kernel(source)

    async def follow() -> None:
        following = asyncio.create_task(node.follow())
        async with asyncio.timeout(10):
            await node.asks.wait()  # The first look is at everything.
            node.wanted = ("card",)
            node.asks.clear()
            source.events = [*events, Uevent("add", "/devices/virtual/p/p/uuid", "mdev")]
            source.writer.send(b"x")
            await node.asks.wait()
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following

    asyncio.run(follow())


class _Kernel(LinuxKernel):
    def __init__(self, source: Announced) -> None:
        super().__init__(HostPaths(Path("/nonexistent")))
        self._source = source

    def uevents(self) -> Announced:
        return self._source


class Device:
    """A device of pyudev, which decodes what the kernel sent when it is asked for."""

    def __init__(self, raw: dict[bytes, bytes]) -> None:
        self._raw = raw

    @property
    def action(self) -> str:
        return self._raw.get(b"ACTION", b"").decode()

    @property
    def device_path(self) -> str:
        return self._raw.get(b"DEVPATH", b"").decode()

    @property
    def properties(self) -> Properties:
        return Properties(self._raw)


class Properties(Mapping[str, str]):
    """What an event says, decoded key by key."""

    def __init__(self, raw: dict[bytes, bytes]) -> None:
        self._raw = raw

    def __getitem__(self, key: str) -> str:
        return self._raw[key.encode()].decode()

    def __iter__(self) -> Iterator[str]:
        return (key.decode() for key in self._raw)

    def __len__(self) -> int:
        return len(self._raw)


class Monitor:
    def __init__(self, devices: list[Device]) -> None:
        self._devices = devices

    def poll(self, timeout: float) -> Device | None:  # noqa: ARG002
        return self._devices.pop(0) if self._devices else None


keys = st.sampled_from([b"ACTION", b"DEVPATH", b"SUBSYSTEM", b"MDEV_STATE", b"NAME"]) | st.binary(max_size=8)


@fuzzed
@given(st.lists(st.dictionaries(keys, st.binary(max_size=12), max_size=4), max_size=4))
@example([{b"NAME": b"\xff"}])
def test_bytes_that_are_no_text_are_events_that_were_lost(raw: list[dict[bytes, bytes]]) -> None:
    source = NetlinkUevents.__new__(NetlinkUevents)
    source._monitor = Monitor([Device(each) for each in raw])
    source._read_in_a_row = 0
    try:
        events = source.receive()
    except UeventsLost:
        with pytest.raises(UnicodeDecodeError):
            [(key.decode(), value.decode()) for each in raw for key, value in each.items()]
    else:
        assert len(events) == len(raw)
