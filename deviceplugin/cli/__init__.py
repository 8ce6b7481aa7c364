"""The commands. Each has a module of its own, imported only when it is called."""

from __future__ import annotations

import importlib
import os
import sys
import traceback

import click

from deviceplugin import __version__
from deviceplugin.errors import ConfigError, PluginError, in_words

COMMANDS = {
    "run": "Serve this node's mediated devices to its kubelet.",
    "types": "List the types that this node's cards offer.",
    "devices": "List the mediated devices that exist.",
    "check": "Check a configuration file, and say what it would offer here.",
    "plan": "Show where the devices of pods would go, and what would be left.",
    "kubevirt": "Print what KubeVirt needs so that VMs can have this plugin's devices.",
    "simulate": "Make a simulated node, without hardware.",
    "demo": "Watch the plugin at work on a simulated node.",
    "schema": "Print the JSON schema of the configuration file.",
    "completion": "Print the completion script for a shell.",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"deviceplugin.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="mdev-device-plugin")
def cli() -> None:
    """Mediated devices (vGPUs and others) for pods: made when a pod asks, removed when it is gone."""


def main() -> None:
    """Run a command. Exit codes: 0 done, 1 failed, 2 called wrongly."""
    try:
        code = cli.main(prog_name="mdev-device-plugin", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        fail(error.format_message(), 2 if isinstance(error, click.UsageError) else 1)
    except ConfigError as error:
        fail(str(error), 2)
    except PluginError as error:
        fail(str(error), 1)
    except (click.Abort, KeyboardInterrupt):
        fail("interrupted", 130)
    except OSError as error:
        if not _is_of_output(error):
            raise
        # What is left to be written must not fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        fail(f"the output can't be written: {in_words(error)}", 1)
    sys.exit(code if isinstance(code, int) else 0)


def fail(message: str, code: int) -> None:
    """Say one line on standard error and end."""
    print(one_line(message), file=sys.stderr)
    sys.exit(code)


def one_line(message: object) -> str:
    """A message as it is printed, whatever bytes a path in it has."""
    text = f"mdev-device-plugin: {' '.join(str(message).split())}"
    return text.encode(errors="backslashreplace").decode()


def _is_of_output(error: OSError) -> bool:
    """Whether it came while something was printed; any other is a defect, whose traceback tells where."""
    return any(frame.f_code is click.echo.__code__ for frame, _ in traceback.walk_tb(error.__traceback__))
