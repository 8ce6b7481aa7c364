"""An agent that can be asked what it has in memory.

Nothing of this is in the agent itself. It is started with one more signal handler: SIGUSR1 has it write how
many tasks its event loop has, how much of its memory is really in use, and how many entries are in each
container that one of its objects holds. The containers are found, not listed, so that one that is new is
counted too.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import inspect
import json
import signal
import sys
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path

from deviceplugin.agent import Agent
from deviceplugin.cli import main as commands

_ROOT = Path(__file__).parents[2]
_CONTAINERS = (dict, list, set, frozenset, tuple, deque)


def code(answers: Path) -> str:
    """What Python is to run for an agent that answers in this file."""
    return (
        f"import sys; sys.path.insert(0, {str(_ROOT)!r}); "
        f"from tests.load.counted import main; main({str(answers)!r})"
    )


def main(answers: str) -> None:
    """Be the agent."""
    run = Agent.run

    async def run_counted(self: Agent, ended: asyncio.Event) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _answer, Path(answers))
        await run(self, ended)

    Agent.run = run_counted  # type: ignore[method-assign]
    commands()


def _answer(path: Path) -> None:
    """Write what there is, under its name once it is whole."""
    gc.collect()
    found = {
        "tasks": len(asyncio.all_tasks()),
        "blocks": sys.getallocatedblocks(),
        "heap": _heap(),
        "entries": entries(),
    }
    unfinished = path.with_suffix(".new")
    unfinished.write_text(json.dumps(found))
    unfinished.replace(path)


class _Mallinfo(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def _heap() -> int | None:
    """Bytes that were asked of malloc and not given back, gRPC's among them; None without glibc 2.33."""
    ask = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if ask is None:
        return None
    ask.restype = _Mallinfo
    found = ask()
    return int(found.uordblks + found.hblkhd)


def entries() -> dict[str, int]:
    """How many objects each class of the agent has, and how many entries each container that they hold."""
    found: Counter[str] = Counter()
    for each in gc.get_objects():
        kind = type(each)
        module = str(getattr(kind, "__module__", ""))
        if not module.startswith("deviceplugin."):
            continue
        whose = f"{module.removeprefix('deviceplugin.')}.{kind.__qualname__}"
        found[whose] += 1
        for name, value in _attributes(each):
            if isinstance(value, deque) and value.maxlen is not None:
                continue  # It is bounded, and what is in it depends on the moment.
            if isinstance(value, _CONTAINERS):
                # One level more, for what is kept by card or by device.
                inside = value.values() if isinstance(value, dict) else value
                nested = sum(len(one) for one in inside if isinstance(one, _CONTAINERS))
                found[f"{whose}.{name}"] += len(value) + nested
    return dict(found)


def _attributes(each: object) -> Iterator[tuple[str, object]]:
    """What an object holds, without a property being asked."""
    yield from tuple(getattr(each, "__dict__", {}).items())
    for kind in type(each).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            value = inspect.getattr_static(each, name, None)
            if inspect.ismemberdescriptor(value):
                yield name, getattr(each, name, None)
