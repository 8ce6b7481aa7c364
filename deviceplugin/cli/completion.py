"""``completion``: the script that makes a shell complete this command."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from deviceplugin import cli

_PROGRAM = "mdev-device-plugin"
_VARIABLE = "_MDEV_DEVICE_PLUGIN_COMPLETE"
"""The variable by which click's script asks back; its name follows from the program's."""


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script for a shell.

    \b
    bash   eval "$(mdev-device-plugin completion bash)"
    zsh    eval "$(mdev-device-plugin completion zsh)"
    fish   mdev-device-plugin completion fish | source
    """  # noqa: D301  # click keeps the lines behind \b as they are
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"there is no completion for {shell}")
    click.echo(kind(cli.cli, {}, _PROGRAM, _VARIABLE).source())
