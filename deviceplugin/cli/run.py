"""``run``: the agent itself."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deviceplugin import __version__
from deviceplugin.agent import Agent
from deviceplugin.cli.confinement import Confinement
from deviceplugin.cli.options import (
    config_for,
    config_option,
    kernel_for,
    kubelet_root_option,
    node_name_for,
    node_name_option,
    simulated_option,
)
from deviceplugin.kubelet.paths import KubeletPaths
from deviceplugin.telemetry import logs

if TYPE_CHECKING:
    from deviceplugin.telemetry.http import Address

log = logging.getLogger(__name__)

LAST_MOMENT = 0.5
"""Seconds that what the agent leaves behind has to end by itself."""


@click.command("run")
@config_option
@kubelet_root_option
@simulated_option
@node_name_option
@click.option(
    "--pod",
    metavar="NAMESPACE/NAME",
    envvar="MDEV_POD",
    show_envvar=True,
    help="The pod that it runs in: once the kubelet names that one, it has looked at all that a reboot left.",
)
@click.option(
    "--http",
    metavar="HOST:PORT",
    envvar="MDEV_HTTP",
    show_envvar=True,
    help="Serve /metrics, /healthz and /readyz there; ':8080' means on all addresses.  [default: nowhere]",
)
@click.option(
    "--cdi-directory",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="MDEV_CDI_DIRECTORY",
    show_envvar=True,
    help="Where CDI specifications go, if the configuration wants them.  [default: the node's /var/run/cdi]",
)
@click.option(
    "--landlock/--no-landlock",
    default=True,
    show_default=True,
    envvar="MDEV_LANDLOCK",
    show_envvar=True,
    help="On a real node, have the kernel let the agent write only where it has to, if it can (Linux 5.13).",
)
@click.option(
    "--log-format",
    type=click.Choice(["json", "console"]),
    default="json",
    show_default=True,
    envvar="MDEV_LOG_FORMAT",
    show_envvar=True,
    help="JSON for machines, or lines for people.",
)
@click.option(
    "--log-level",
    type=click.Choice(logs.LEVELS),
    default="info",
    show_default=True,
    envvar="MDEV_LOG_LEVEL",
    show_envvar=True,
    help="The least important events to log; info tells each device's story.",
)
def command(
    config: Path | None,
    kubelet_root: Path,
    simulated: Path | None,
    node_name: str | None,
    pod: str | None,
    http: str | None,
    cdi_directory: Path | None,
    landlock: bool,
    log_format: logs.LogFormat,
    log_level: str,
) -> None:
    """Serve this node's mediated devices to its kubelet, until SIGTERM.

    Every type that some card offers becomes a resource, vfio.dev/<type>, unless a configuration says
    otherwise. A device is made when a pod asks for it, and removed when the pod is gone and nothing
    holds the device any more. Ending this program leaves all devices as they are.
    """
    logs.set_up(log_format, log_level)
    name = node_name_for(node_name)
    settings, kernel, kubelet = (
        config_for(config),
        kernel_for(simulated),
        KubeletPaths(kubelet_root.absolute()),
    )
    cdi = cdi_directory.absolute() if cdi_directory is not None else None
    agent = Agent(
        config=settings,
        kernel=kernel,
        kubelet=kubelet,
        node_name=name,
        pod=pod or None,
        http=_address(http),
        cdi=cdi,
    )
    log.info("starting", extra={"version": __version__, "node": name, "kubelet_root": str(kubelet_root)})
    confinement = None
    if landlock and simulated is None:
        confinement = Confinement(kernel.paths, kubelet, (cdi or kernel.paths.cdi) if settings.cdi else None)
        confinement.begin()
    try:
        told = asyncio.run(_until_told(agent, confinement))
    except BaseExceptionGroup:
        log.exception("a part of the agent failed, which ends it; devices stay as they are")
        _leave(1)
    log.info("ended")
    _leave(0 if told else 1)


def _address(text: str | None) -> Address | None:
    if not text:
        return None
    from deviceplugin.telemetry.http import Address

    return Address.parse(text)


async def _until_told(agent: Agent, confinement: Confinement | None = None) -> bool:
    """Run the agent until SIGTERM or SIGINT; False if it ended for want of what it is confined to."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    void = None
    if confinement is not None:
        void = asyncio.create_task(confinement.void(), name="watch the directory of VFIO groups")
        void.add_done_callback(lambda _: ended.set())
    await agent.run(ended)
    if void is not None:
        void.cancel()
    # The servers have ended, but gRPC may still have to do with calls: cancelled, it would complain of them.
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        await asyncio.wait(left, timeout=LAST_MOMENT)
    return void is None or void.cancelled() or not void.done()


def _leave(code: int) -> None:
    """End at once: a thread that a driver holds in a write would keep the interpreter waiting."""
    logging.shutdown()
    sys.stdout.flush()
    if "COVERAGE_PROCESS_CONFIG" in os.environ:
        sys.exit(code)  # Measured: nothing may be cut short.
    os._exit(code)
