"""A source of events that fails is opened anew, and what it did not tell is looked at."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from deviceplugin.host import listening as module
from deviceplugin.host.kernel import Uevent, UeventsLost
from deviceplugin.host.listening import Listening

PATIENCE = 60.0
ADDED = Uevent("add", "/devices/virtual/mtty/mtty/x", "mdev")


class Source:
    """A source that tells what a test has it tell."""

    def __init__(self) -> None:
        self.reader, self.writer = socket.socketpair()
        self.tells: list[Uevent] = []
        self.fails: Exception | None = None
        self.closed = False

    def tell(self, *events: Uevent) -> None:
        self.tells += events
        self.writer.send(b"x")

    def fail(self, error: Exception) -> None:
        self.fails = error
        self.writer.send(b"x")

    def fileno(self) -> int:
        return self.reader.fileno()

    def receive(self) -> list[Uevent]:
        if self.fails is not None:
            raise self.fails
        self.reader.recv(4096)
        events, self.tells = self.tells, []
        return events

    def close(self) -> None:
        self.closed = True
        self.reader.close()
        self.writer.close()


class Kernel:
    """Opens sources, as long as it is willing."""

    def __init__(self) -> None:
        self.sources: list[Source] = []
        self.refusals: list[Exception] = []
        self.events: list[Uevent] = []
        self.missed = 0
        self.failures: list[Exception] = []
        self.listening = Listening(
            self._open, on_event=self.events.append, on_missed=self._miss, on_failure=self.failures.append
        )

    def _open(self) -> Source:
        if self.refusals:
            raise self.refusals.pop(0)
        self.sources.append(Source())
        return self.sources[-1]

    def _miss(self) -> None:
        self.missed += 1

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.002)

    @asynccontextmanager
    async def heard(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.listening.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
        assert task.cancelled(), task.exception()
        assert all(source.closed for source in self.sources)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(module, "LAST_PAUSE", 0.02)
    return Kernel()


async def test_events_are_passed_on_and_the_beginning_means_a_look(kernel: Kernel) -> None:
    async with kernel.heard():
        await kernel.until(lambda: kernel.listening.hears)
        assert kernel.missed == 1
        kernel.sources[0].tell(ADDED, ADDED)
        await kernel.until(lambda: kernel.events == [ADDED, ADDED])
    assert not kernel.listening.hears
    assert kernel.failures == []


@pytest.mark.parametrize(
    "error",
    [
        OSError("Error while polling fd"),
        OSError(errno.ENOBUFS, "No buffer space available"),
        UeventsLost(),
        ValueError("a library's own"),
        EOFError(),
    ],
    ids=lambda error: repr(error)[:24],
)
async def test_whatever_a_source_fails_with_another_is_opened(kernel: Kernel, error: Exception) -> None:
    async with kernel.heard():
        await kernel.until(lambda: len(kernel.sources) == 1 and kernel.listening.hears)
        kernel.sources[0].fail(error)
        await kernel.until(lambda: len(kernel.sources) == 2 and kernel.listening.hears)
        assert kernel.sources[0].closed
        assert kernel.failures == [error]
        assert kernel.missed == 3  # At the beginning, at the failure, and at the next beginning.
        kernel.sources[1].tell(ADDED)
        await kernel.until(lambda: kernel.events == [ADDED])


async def test_a_source_that_can_not_be_opened_is_tried_again(kernel: Kernel) -> None:
    kernel.refusals = [OSError(errno.EMFILE, "Too many open files"), ImportError("no libudev"), OSError("?")]
    async with kernel.heard():
        await kernel.until(lambda: kernel.listening.hears)
        assert len(kernel.failures) == 3
        assert kernel.missed == 4


async def test_the_pause_grows_up_to_a_bound(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await real(0)

    real = asyncio.sleep
    monkeypatch.setattr(module, "FIRST_PAUSE", 1.0)
    monkeypatch.setattr(module, "LAST_PAUSE", 5.0)
    kernel.refusals = [OSError("no")] * 5
    with monkeypatch.context() as instant:
        instant.setattr(asyncio, "sleep", sleep)
        task = asyncio.create_task(kernel.listening.run())
        for _ in range(100):
            await real(0)
        task.cancel()
        await asyncio.wait({task})
    assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0]


async def test_a_source_that_worked_for_long_fails_anew_without_a_long_pause(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LAST_PAUSE", 3600.0)
    monkeypatch.setattr(module, "LASTING", 0.0)
    async with kernel.heard():
        for number in range(1, 25):  # Doubled each time, the last of these pauses would last for days.
            await kernel.until(lambda: len(kernel.sources) == number and kernel.listening.hears)
            kernel.sources[-1].fail(OSError("again"))


async def test_failures_in_a_row_are_said_once_and_so_is_their_end(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "LASTING", 0.5)
    caplog.set_level(logging.INFO)
    kernel.refusals = [OSError(errno.EMFILE, "Too many open files")] * 3
    async with kernel.heard():
        await kernel.until(lambda: any("heard again" in record.message for record in caplog.records))
        said = [record.levelname for record in caplog.records if "events" in record.message]
        assert said == ["WARNING", "INFO"]
        kernel.sources[-1].fail(UeventsLost())
        await kernel.until(lambda: len(caplog.records) > 2)
        assert caplog.records[-1].__dict__["reason"] == (
            "the kernel dropped events, which came faster than they were read"
        )
