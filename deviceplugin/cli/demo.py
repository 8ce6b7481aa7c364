"""``demo``: watch the plugin at work, without hardware and without a cluster."""

from __future__ import annotations

import asyncio

import click

from deviceplugin.simulator.demo.demo import perform
from deviceplugin.simulator.demo.processes import WentWrong


@click.command("demo")
@click.option("--plain", is_flag=True, help="Plain lines and no waiting, as where there is no terminal.")
def command(plain: bool) -> None:
    """Watch the plugin at work on a simulated node, within a minute.

    The agent is the real one, and so are its sockets; the node's cards and the kubelet are imitated. Every
    step is checked: what goes otherwise than told ends the demo with exit code 1.
    """
    try:
        asyncio.run(perform(click.echo, plain=plain))
    except WentWrong as error:
        raise click.ClickException(f"the demo went wrong: {error}") from error
    except asyncio.CancelledError:
        raise click.Abort from None
    click.echo(
        "\nAll of this was checked as it happened. The same by hand: mdev-device-plugin simulate --help"
    )
