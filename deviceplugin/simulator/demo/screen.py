"""The demo on a terminal: the story scrolls by, and below it the node is seen as it is.

The only module that needs rich, which is an extra.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from deviceplugin.inventory.snapshot import Snapshot
from deviceplugin.simulator.demo.stage import RESOURCES, Stage

_EVERY = 0.08
"""Seconds between looks at the node."""
_TITLE, _LINE, _QUOTE = 1.0, 0.7, 0.2
"""Seconds to read a chapter's title, a line, and a quoted one."""
_PER_CHARACTER = 0.007
"""Seconds more for each character of a line."""
_ROOM_FOR_DEVICES = 5
"""Rows that devices get at least, so that the view does not jump."""


class Screen:
    """A ``Show`` on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._chapter = 0

    async def chapter(self, title: str) -> None:
        self._chapter += 1
        self._console.print()
        self._console.print(Text(f"{self._chapter}. {title}", "bold"))
        await asyncio.sleep(_TITLE)

    async def say(self, line: str) -> None:
        self._console.print(Padding(Text(line), (0, 0, 0, 3)))
        await asyncio.sleep(_LINE + len(line) * _PER_CHARACTER)

    async def quote(self, line: str) -> None:
        self._console.print(Padding(Text(line, "cyan"), (0, 0, 0, 5)))
        await asyncio.sleep(_QUOTE)


@asynccontextmanager
async def screen(stage: Stage) -> AsyncIterator[Screen]:
    """Show the stage until the block ends."""
    console = Console(highlight=False)
    with Live(view(stage), console=console, auto_refresh=False, transient=False) as live:
        refreshing = asyncio.create_task(_refresh(live, stage), name="refresh the view")
        try:
            yield Screen(console)
        finally:
            refreshing.cancel()
            await asyncio.wait([refreshing])
            live.update(view(stage), refresh=True)


async def _refresh(live: Live, stage: Stage) -> NoReturn:
    while True:
        live.update(view(stage), refresh=True)
        await asyncio.sleep(_EVERY)


def view(stage: Stage) -> RenderableType:
    """The node at this moment."""
    snapshot = stage.snapshot
    return Group(Text(), _resources(stage, snapshot), _devices(stage, snapshot), _legend(stage))


def _resources(stage: Stage, snapshot: Snapshot) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("RESOURCE", width=20)
    table.add_column("SLOTS", width=32, no_wrap=True)
    table.add_column("USED", justify="right", width=4)
    table.add_column("FREE", justify="right", width=4)
    table.add_column("OF", justify="right", width=4)
    for resource in RESOURCES:
        listed = stage.kubelet.devices(resource)
        held = stage.kubelet.held(resource) & stage.owners.keys()
        left = (listed.keys() & snapshot.devices.keys()) - held
        healthy = {device for device, (is_healthy, _) in listed.items() if is_healthy}
        free = healthy - held - left
        bar = Text()
        bar.append("■" * len(held), "green")
        bar.append("■" * len(left), "yellow")
        bar.append("□" * len(free), "green")
        bar.append("·" * (len(listed) - len(held | left | free)), "dim")
        table.add_row(resource, bar, str(len(held | left)), str(len(free)), str(len(listed)))
    return table


def _devices(stage: Stage, snapshot: Snapshot) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("DEVICE", width=36)
    table.add_column("TYPE", width=10)
    table.add_column("PARENT", width=12)
    table.add_column("POD", width=8)
    table.add_column("VM", width=4)
    for uuid, device in snapshot.devices.items():
        pod = stage.owners.get(uuid)
        table.add_row(
            Text(uuid, "green" if pod else "yellow"),
            device.type,
            device.parent,
            pod or "none",
            "runs" if uuid in stage.machines else "none",
        )
    for _ in range(_ROOM_FOR_DEVICES - len(snapshot.devices)):
        table.add_row()
    return table


def _legend(stage: Stage) -> Text:
    state = "running" if stage.agent.runs else "not running"
    return Text.assemble(
        (f"agent {state}", "bold green" if state == "running" else "bold red"),
        "    ",
        ("■", "green"),
        " a pod's  ",
        ("■", "yellow"),
        " left over  ",
        ("□", "green"),
        " can be had  ",
        ("·", "dim"),
        " not now",
    )
