"""Options that several commands share, and what becomes of them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from deviceplugin.errors import ConfigError
from deviceplugin.host.kernel import Kernel, LinuxKernel
from deviceplugin.host.paths import HostPaths
from deviceplugin.kubelet.paths import KubeletPaths
from deviceplugin.settings import Config

F = TypeVar("F", bound=Callable[..., Any])
EXISTING_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


def config_option(function: F) -> F:
    return click.option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="MDEV_CONFIG",
        show_envvar=True,
        help="Configuration file. Everything works without one.",
    )(function)


def node_name_option(function: F) -> F:
    return click.option(
        "--node-name",
        envvar=["MDEV_NODE_NAME", "NODE_NAME"],
        show_envvar=True,
        help="This node's name in the cluster.  [default: the host name]",
    )(function)


def kubelet_root_option(function: F) -> F:
    return click.option(
        "--kubelet-root",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("/var/lib/kubelet"),
        show_default=True,
        envvar="MDEV_KUBELET_ROOT",
        show_envvar=True,
        help="The kubelet's root directory.",
    )(function)


def simulated_option(function: F) -> F:
    return click.option(
        "--simulated",
        type=EXISTING_DIRECTORY,
        envvar="MDEV_SIMULATED",
        show_envvar=True,
        help="Work on a node made by 'simulate' instead of this machine's /sys and /dev.",
    )(function)


def host_root_option(function: F) -> F:
    return click.option(
        "--host-root",
        type=EXISTING_DIRECTORY,
        envvar="MDEV_HOST_ROOT",
        show_envvar=True,
        help="Where the node's root directory is mounted.  [default: /]",
    )(function)


def output_option(function: F) -> F:
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="A table for people, or JSON for programs.",
    )(function)


def kernel_for(simulated: Path | None, host_root: Path | None = None) -> Kernel:
    """The node that a command works on."""
    if simulated is not None and host_root is not None:
        raise click.UsageError("--simulated and --host-root exclude each other")
    if simulated is not None:
        # Imported here, since a real node never needs it.
        from deviceplugin.simulator.node.kernel import SimulatedKernel

        return SimulatedKernel(simulated)
    return LinuxKernel(HostPaths(host_root) if host_root is not None else None)


def kubelet_for(
    ctx: click.Context, kubelet_root: Path, simulated: Path | None, host_root: Path | None
) -> KubeletPaths | None:
    """The kubelet that a command asks.

    None for a simulated node, unless one is named: this machine's is not its own.
    """
    is_default = ctx.get_parameter_source("kubelet_root") is ParameterSource.DEFAULT
    if simulated is not None and is_default:
        return None
    if host_root is not None and is_default:
        kubelet_root = host_root / str(kubelet_root).lstrip("/")
    return KubeletPaths(kubelet_root.absolute())


def config_for(path: Path | None) -> Config:
    if path is None:
        return Config()
    # Imported here, since reading a file takes libraries that an agent without one does without.
    from deviceplugin.config import load

    return load(path)


def node_name_for(name: str | None) -> str:
    found = name or os.environ.get("NODE_NAME") or socket.gethostname()
    if not found.isprintable():
        # Bytes that are no UTF-8 come as halves of surrogate pairs.
        raise ConfigError(f"{found!a} can't be a node's name: not all of it can be printed")
    return found
