"""A thousand pods on a big node, and whether the agent is after the last as it was after the hundredth."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.__main__ import IN_MEMORY
from tests.bench.processes import machine
from tests.load.figures import Row, table, what_grew
from tests.load.pods import Load, world_in

TYPES = tuple(f"nvidia-{number}" for number in range(900, 920))
AT_ONCE, AT_ONCE_TYPE = 50, "nvidia-900"
ALIVE = 10
EVERY = 100


def main() -> None:
    """Run, print the table, and fail if something grew."""
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("--pods", type=int, default=1000)
    parser.add_argument("--alive", type=int, default=ALIVE, help="pods at a time")
    chosen = parser.parse_args()
    print(machine(), flush=True)
    began = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="load-", dir=IN_MEMORY))
    try:
        load = asyncio.run(_run(directory, pods=chosen.pods, alive=chosen.alive))
    finally:
        shutil.rmtree(directory)
    print(table(load.rows))
    print(
        f"{load.rejected} times the room had just gone, and the pod came again; "
        f"took {time.monotonic() - began:.0f} s"
    )
    grown = what_grew(load.rows[1], load.rows[-1])
    print("\n".join(f"GREW: {each}" for each in grown) or "flat: nothing grew beyond its tolerance")
    sys.exit(bool(grown))


async def _run(directory: Path, *, pods: int, alive: int) -> Load:
    world = world_in(directory, "big")
    try:
        load = await Load(world, TYPES, alive=alive, every=EVERY, on_row=_told).begin()
        await load.in_a_row(pods)
        await load.at_once(AT_ONCE, AT_ONCE_TYPE)
    finally:
        wrong = await world.end()
    assert not wrong, "\n".join(wrong)
    return load


def _told(row: Row) -> None:
    print(table([row]).splitlines()[-1], file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
