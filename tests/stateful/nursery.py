"""The test's side of the nursery: agents that look like the subprocesses of asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any


class ForkedAgent:
    """An agent of the nursery's."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = asyncio.Event()

    def end(self, code: int) -> None:
        self.returncode = code
        self._ended.set()

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    @property
    def cpu_seconds(self) -> float:
        """The processor time that it has used."""
        with contextlib.suppress(OSError, ValueError):
            with Path(f"/proc/{self.pid}/stat").open(encoding="ascii") as file:
                fields = file.read().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return 0.0


class Nursery:
    """Starts agents; used on one event loop."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._started: asyncio.Queue[ForkedAgent] = asyncio.Queue()
        self._agents: dict[int, ForkedAgent] = {}
        self._listening: asyncio.Task[None] | None = None
        self._one = asyncio.Lock()

    async def start(self, **wanted: Any) -> ForkedAgent:
        """Have an agent started."""
        async with self._one:
            if self._process is None:
                # Agents that are killed leave no figures of what they covered, and counting slows them.
                environment = {key: value for key, value in os.environ.items() if "COVERAGE" not in key}
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "tests.stateful.agent"),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    env=environment,
                )
                self._listening = asyncio.create_task(self._listen(), name="listen to the nursery")
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(wanted).encode() + b"\n")
            return await self._started.get()

    async def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            told = json.loads(line)
            if "started" in told:
                agent = self._agents[told["started"]] = ForkedAgent(told["started"])
                self._started.put_nowait(agent)
            else:
                self._agents.pop(told["ended"]).end(told["code"])

    async def close(self) -> None:
        """End the nursery; its agents have ended before."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        assert self._listening is not None
        await self._listening
        self._process = None
