"""Uevents of a simulated node: a log that writers append to, and a queue that begins at its end.

A log file in the place of a netlink socket lets any process listen. Events are numbered, so a reader knows
when it missed some: because the log was begun anew before the reader came round, or because a test had some
lost on purpose.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from asyncinotify import Inotify, Mask

from deviceplugin.host.kernel import Uevent, UeventsLost
from deviceplugin.simulator.node.state import Event

LIMIT = 4 * 1024 * 1024
"""How many bytes the log may have before it is begun anew."""
LOST = "lost"
"""The action of a line that is no event, but says that a listener's buffer overflowed."""


class EventLog:
    """The writers' side; wants the node's lock to be held."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, events: Iterable[Event]) -> None:
        """Write those events that the log does not have yet."""
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size, last = self._end(fd)
            lines = [_line(event) for event in events if event.sequence > last]
            if not lines:
                return
            if size <= LIMIT:
                os.write(fd, b"".join(lines))
                return
        finally:
            os.close(fd)
        anew = self.path.with_name(f"{self.path.name}.new")
        anew.write_bytes(b"".join(lines))
        anew.rename(self.path)

    def _end(self, fd: int) -> tuple[int, int]:
        """The log's size and last number, with half a line of a killed writer cut off."""
        size = os.fstat(fd).st_size
        start = max(0, size - 65536)
        tail = os.pread(fd, size - start, start)
        whole = tail.rfind(b"\n") + 1
        if whole < len(tail):
            size = start + whole
            os.ftruncate(fd, size)
        lines = tail[:whole].splitlines()
        return size, int(json.loads(lines[-1])["sequence"]) if lines else 0


def _line(event: Event) -> bytes:
    return json.dumps(asdict(event)).encode() + b"\n"


class SimulatedUevents:
    """The listeners' side, a ``UeventSource``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inotify = Inotify()
        os.set_blocking(self._inotify.fd, False)
        self._fd = -1
        self._last: int | None = None
        self._open()
        lines = self._lines()
        self._last = int(json.loads(lines[-1])["sequence"]) if lines else 0

    def _open(self) -> None:
        # ATTRIB tells of the unlinking, since the last link is gone while this descriptor keeps the file.
        self._inotify.add_watch(self._path, Mask.MODIFY | Mask.ATTRIB)
        # Without blocking, since this is read within event loops; for a file it makes no difference.
        self._fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
        self._position = 0

    def fileno(self) -> int:
        return self._inotify.fd

    def receive(self) -> list[Uevent]:
        with suppress(BlockingIOError):
            while os.read(self._inotify.fd, 65536):
                pass
        lines = self._lines()
        while os.fstat(self._fd).st_nlink == 0:
            lines += self._lines()
            os.close(self._fd)
            self._open()
            lines += self._lines()
        events = [Event(**json.loads(line)) for line in lines]
        expected = self._last
        for event in events:
            if expected is not None and event.sequence != expected + 1:
                expected = None
            elif expected is not None:
                expected = None if event.action == LOST else event.sequence
        if events:
            self._last = events[-1].sequence
        if events and expected is None:
            raise UeventsLost("The simulated node lost events on purpose or began its log anew.")
        return [Uevent(event.action, event.devpath, event.subsystem, event.properties) for event in events]

    def _lines(self) -> list[bytes]:
        """The whole lines that were not read yet."""
        data = b""
        while chunk := os.pread(self._fd, 1 << 20, self._position + len(data)):
            data += chunk
        whole = data.rfind(b"\n") + 1
        self._position += whole
        return data[:whole].splitlines()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._inotify.close()
