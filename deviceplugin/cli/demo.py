"""``demo``: the plugin at work on a simulated node, within a minute."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import click

from deviceplugin.simulator.story import Say, Story

_PAUSE = 1.5
"""Seconds that a person has to read each step."""


@click.command("demo")
@click.option("--plain", is_flag=True, help="Plain lines, as where there is no terminal.")
def command(plain: bool) -> None:
    """Show the life of devices on a simulated node, with a simulated kubelet.

    Needs no root, no hardware and no cluster, and leaves nothing behind. Ends by itself within a minute;
    the exit code is 1 if anything went otherwise than it should.
    """
    live = not plain and sys.stdout.isatty()
    with tempfile.TemporaryDirectory(prefix="mdev-") as directory:
        story = Story(Path(directory), say=_colourful() if live else click.echo, pause=_PAUSE if live else 0)
        asyncio.run(story.tell())
    click.echo("\nEverything went as it should.")


def _colourful() -> Say:
    """Lines in colour, where rich is installed."""
    try:
        from rich.console import Console
    except ImportError:
        return click.echo
    console = Console(highlight=True)

    def say(line: str) -> None:
        if line.startswith("# "):
            console.rule(f"[bold]{line[2:]}", align="left")
        else:
            console.print(line, markup=False, soft_wrap=True)

    return say
