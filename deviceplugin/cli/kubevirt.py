"""``kubevirt``: the part of the KubeVirt resource that lets VMs have this plugin's devices."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import click
import yaml

from deviceplugin.cli.look import look
from deviceplugin.cli.options import (
    config_for,
    config_option,
    host_root_option,
    kernel_for,
    simulated_option,
)
from deviceplugin.cli.tables import note, print_json
from deviceplugin.planning.kubevirt import API, Permitted, permit

_HEAD = """\
# What the KubeVirt resource needs so that VMs can have these devices:
#   kubectl patch kubevirt kubevirt -n kubevirt --type merge --patch-file FILE
# That replaces the whole list 'mediatedDevices': add what is in it for other plugins.
spec:
  configuration:
    mediatedDevicesConfiguration:
      # Else KubeVirt removes mediated devices that it does not know, and makes its own.
      # (Before KubeVirt 1.8, the feature gate DisableMDEVConfiguration does this.)
      enabled: false
    permittedHostDevices:
      mediatedDevices:
"""
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]+", re.ASCII)


@click.command("kubevirt")
@config_option
@simulated_option
@host_root_option
@click.option(
    "-o",
    "--output",
    type=click.Choice(["yaml", "json"]),
    default="yaml",
    show_default=True,
    help="YAML with comments, or JSON.",
)
def command(config: Path | None, simulated: Path | None, host_root: Path | None, output: str) -> None:
    """Print what the KubeVirt resource needs so that VMs can have this plugin's devices.

    \b
    mdev-device-plugin kubevirt >patch.yaml
    kubectl patch kubevirt kubevirt -n kubevirt --type merge --patch-file patch.yaml

    It permits VMs the resources of this node, or of a configuration: there, types that are given literally
    need not be on this machine. It also keeps KubeVirt from removing the plugin's devices.
    """  # noqa: D301  # click keeps the lines behind \b as they are
    settings = config_for(config)
    found = look(kernel_for(simulated, host_root), settings)
    permissions = permit(found.resources.values(), found.snapshot)
    for problem in (*found.problems, *permissions.left_out):
        note(f"warning: {problem}")
    if not permissions.devices:
        why = found.nothing or f"no type that is offered here has the API {API}"
        elsewhere = "" if config is not None else ". On another machine, name the types in a configuration"
        raise click.ClickException(f"there is nothing that KubeVirt could permit: {why}{elsewhere}")
    if found.nothing and settings.discovery.include:
        note(
            "warning: what discovery adds is only known where the cards are, so only the configuration's "
            "own resources are listed"
        )
    if output == "json":
        print_json(_patch(permissions.devices))
    else:
        click.echo(_HEAD + "".join(map(_entry, permissions.devices)), nl=False)


def _patch(devices: Iterable[Permitted]) -> dict[str, object]:
    listed = [
        {
            "mdevNameSelector": device.selector,
            "resourceName": device.resource,
            "externalResourceProvider": True,
        }
        for device in devices
    ]
    return {
        "spec": {
            "configuration": {
                "mediatedDevicesConfiguration": {"enabled": False},
                "permittedHostDevices": {"mediatedDevices": listed},
            }
        }
    }


def _entry(device: Permitted) -> str:
    meant = ", ".join(device.types) or "as configured: no card here has it"
    comment = "" if device.types == (device.selector,) else f"  # {meant}"
    return (
        f"      - mdevNameSelector: {_scalar(device.selector)}{comment}\n"
        f"        resourceName: {_scalar(device.resource)}\n"
        "        externalResourceProvider: true\n"
    )


def _scalar(text: str) -> str:
    """Text as YAML reads it as text, whichever YAML that is."""
    if _PLAIN.fullmatch(text) and yaml.safe_load(text) == text:
        return text
    return json.dumps(text, ensure_ascii=False)
