"""Measure everything and print the figures; missed goals are said and are no failure."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import click

from . import allocate, change, idle, scan, start
from .figures import Figure, table
from .processes import machine

IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""As sysfs is; a simulated node on a disk is as slow as the disk is busy."""
MEASURES = {
    "allocate": allocate.measure,
    "change": change.measure,
    "start": start.measure,
    "scan": scan.measure,
    "idle": idle.measure,
}


@click.command()
@click.option("-o", "output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.argument("which", nargs=-1, type=click.Choice(list(MEASURES)))
def main(output: str, which: tuple[str, ...]) -> None:
    """Measure the figures of CONTRIBUTING.md on this machine, all or only those named."""
    where = machine()
    began = time.monotonic()
    figures = []
    for name in which or MEASURES:
        if sys.stderr.isatty():
            click.echo(f"measuring: {name}", err=True)
        with tempfile.TemporaryDirectory(prefix="bench-", dir=IN_MEMORY) as directory:
            figures += asyncio.run(_measured(name, Path(directory)))
    if output == "json":
        click.echo(
            json.dumps({"machine": where, "figures": [figure.as_dict() for figure in figures]}, indent=2)
        )
    else:
        click.echo(table(figures))
        click.echo(f"\n{where}; took {time.monotonic() - began:.0f} s")


async def _measured(name: str, directory: Path) -> list[Figure]:
    return await MEASURES[name](directory)


if __name__ == "__main__":
    main()
