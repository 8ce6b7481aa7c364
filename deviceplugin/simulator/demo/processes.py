"""The processes of the demo: the agent, whose log is read as it comes, and VM stand-ins.

They are in sessions of their own, since Ctrl-C is the demo's: it ends them itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from deviceplugin.simulator.kubelet.changes import Changes

PATIENCE = 10.0
"""Seconds; several times what anything here takes."""


class WentWrong(Exception):
    """Something did not happen as the story tells it."""


class AgentProcess:
    """The agent, started as often as it is wanted, with one log."""

    def __init__(self, *options: str | Path) -> None:
        self.log: list[dict[str, Any]] = []
        """What it has logged so far, over all its lives."""
        self._options = options
        self._stray = ""
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._changes = Changes()

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "deviceplugin", "run", "--log-format", "json", "--log-level", "info"),
            *self._options,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            # The options say it all: what this shell has set for other agents is not meant for this one.
            env={name: value for name, value in os.environ.items() if not name.startswith("MDEV_")},
        )
        if self._process.stderr is not None:
            self._reading = asyncio.create_task(self._read(self._process.stderr), name="read the agent's log")

    async def end(self, how: signal.Signals) -> int:
        """Send a signal and wait for the end; returns the exit status."""
        if self._process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(how)
        try:
            async with asyncio.timeout(PATIENCE):
                status = await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            raise WentWrong(f"the agent did not end within {PATIENCE:.0f} s of {how.name}") from None
        if self._reading is not None:
            await self._reading
        self._process = None
        return status

    async def logged(self, event: str, *, since: int = 0, **values: object) -> dict[str, Any]:
        """Wait until it has logged this, not counting the first ``since`` events.

        Raises:
            WentWrong: it did not, for a long time.
        """

        def found() -> dict[str, Any] | None:
            entries = (entry for entry in self.log[since:] if entry.get("event") == event)
            return next((entry for entry in entries if values.items() <= entry.items()), None)

        try:
            await self._changes.wait_for(found, PATIENCE)
        except TimeoutError:
            about = ", ".join(f"{key} {value}" for key, value in values.items())
            raise WentWrong(
                f"the agent did not log '{event}' ({about}) within {PATIENCE:.0f} s{self.trouble}"
            ) from None
        return found() or {}

    @property
    def trouble(self) -> str:
        """What may explain that something did not happen, to be added to a sentence."""
        what = ""
        if self._process is not None and self._process.returncode is not None:
            what += f"; the agent had ended with {self._process.returncode}"
            what += f", saying: {self._stray}" if self._stray else ""
        warnings = [
            str(entry.get("event")) for entry in self.log if entry.get("level") in ("warning", "error")
        ]
        return f"{what}; its last warning was: {warnings[-1]}" if warnings else what

    async def _read(self, stream: asyncio.StreamReader) -> None:
        async for line in stream:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self._stray = line.decode(errors="replace").strip() or self._stray
            self._changes.notify()


class MachineProcess:
    """A VM that holds a device."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, node: Path, uuid: str) -> MachineProcess:
        """Have a VM attach a device.

        Raises:
            WentWrong: it could not.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "deviceplugin.simulator.node.vm", node, uuid),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        machine = cls(process)
        try:
            async with asyncio.timeout(PATIENCE):
                line = await process.stdout.readline() if process.stdout is not None else b""
        except BaseException:
            await machine.end()
            raise
        if not line.startswith(b"holding"):
            await machine.end()
            raise WentWrong(f"no VM could attach {uuid}")
        return machine

    async def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
