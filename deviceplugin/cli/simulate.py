"""``simulate``: make a simulated node, and play its hardware, its administrator or a VM by hand."""

from __future__ import annotations

import errno
import signal
import uuid as uuids
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import yaml

from deviceplugin.cli.faults import clear_faults, fault
from deviceplugin.cli.tables import note, table
from deviceplugin.errors import ConfigError, HostError, in_words
from deviceplugin.host import mdev, vfio
from deviceplugin.inventory import slots
from deviceplugin.simulator.node import description
from deviceplugin.simulator.node.journal import Journal
from deviceplugin.simulator.node.kernel import SimulatedKernel
from deviceplugin.simulator.node.vm import hold

if TYPE_CHECKING:
    from collections.abc import Callable


def _list_nodes(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    rows = [(name, _described(name)) for name in description.names()]
    click.echo(table(("NODE", "WHAT IT IS"), rows))
    ctx.exit()


class _OptionsAnywhere(click.Group):
    """A group whose own options may stand behind its argument, unless a command follows."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.allow_interspersed_args = not any(argument in self.commands for argument in args[1:])
        try:
            return super().parse_args(ctx, args)
        except click.MissingParameter as error:
            raise click.UsageError(
                "Missing argument 'DIR', the directory of the node: 'simulate /tmp/node --node nvidia-t4' "
                "makes one there, and 'simulate --list' tells which nodes there are",
                ctx,
            ) from error


@click.group(
    "simulate",
    cls=_OptionsAnywhere,
    invoke_without_command=True,
    subcommand_metavar="--node NODE | COMMAND ...",
    options_metavar="",
)
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--node", metavar="NAME|FILE", help="Make this node: a name of --list, or a file that describes one."
)
@click.option(
    "--if-missing",
    is_flag=True,
    help="Where a node is there already, whichever it is: leave it as it is, and succeed.",
)
@click.option(
    "--device-nodes",
    is_flag=True,
    help="Make what is below DIR/dev/vfio device nodes instead of files, so that a container runtime can "
    "hand them on. That takes root with CAP_MKNOD, and so does making devices on this node later.",
)
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_nodes,
    help="List the nodes by name.",
)
@click.pass_context
def command(
    ctx: click.Context, directory: Path, node: str | None, if_missing: bool, device_nodes: bool
) -> None:
    """Make a simulated node in DIR, without hardware; or do something to one that is there.

    \b
    mdev-device-plugin simulate /tmp/node --node nvidia-t4
    mdev-device-plugin types --simulated /tmp/node
    mdev-device-plugin simulate /tmp/node create nvidia-230

    It answers as a kernel does, errors included. What refuses is named by its errno.
    """  # noqa: D301  # click keeps the lines behind \b as they are
    exists = Journal.exists(directory)
    if ctx.invoked_subcommand is not None:
        if node is not None or if_missing or device_nodes:
            raise click.UsageError(
                f"'{ctx.invoked_subcommand}' is for a node that is there; --node, --if-missing and "
                "--device-nodes are for making one"
            )
        if not exists:
            raise click.UsageError(
                f"{directory} holds no simulated node; make one with 'simulate {directory} --node NAME'"
            )
        ctx.obj = SimulatedKernel(directory)
        return
    if exists and not if_missing:
        raise click.UsageError(
            f"{directory} holds a simulated node already; say what to do to it, as in "
            f"'simulate {directory} create TYPE', or make another in a new directory"
        )
    if node is None:
        raise click.UsageError("say which node to make with --node; --list tells which there are")
    if not exists:
        try:
            _make(directory, node, device_nodes=device_nodes)
        except ConfigError:
            # With --if-missing it is no failure that another process was quicker.
            if not (if_missing and Journal.exists(directory)):
                raise
        else:
            return
    _leave(directory, node, device_nodes=device_nodes)


def _leave(directory: Path, node: str, *, device_nodes: bool) -> None:
    """Say that a node stays as it is, which pods may be using, and in what it differs from the wanted one."""
    kernel = SimulatedKernel(directory)
    differences = []
    try:
        wanted = description.load(node)
    except ConfigError as error:
        differences.append(f"can't be compared with {node!r} ({error})")
    else:
        if (wanted.cards, wanted.first_group) != (kernel.node.cards, kernel.node.first_group):
            differences.append(f"is another than {node!r}")
    if device_nodes and not kernel.device_nodes:
        differences.append("has files in the place of device nodes, which no container runtime hands on")
    if kernel.device_nodes and not device_nodes:
        differences.append("has device nodes, which were not asked for")
    which = f", though it {' and '.join(differences)}" if differences else ""
    click.echo(" ".join(f"{directory} holds a simulated node already; it stays as it is{which}".split()))


def _make(directory: Path, node: str, *, device_nodes: bool) -> None:
    cards = description.load(node)
    try:
        vacant = Journal.is_vacant(directory)
    except OSError as error:
        raise ConfigError(f"{directory} can't be used: {in_words(error)}") from error
    if not vacant:
        raise click.UsageError(f"{directory} is not empty; a node is made in a new or empty directory")
    kernel = SimulatedKernel.build(directory, cards, device_nodes=device_nodes)
    snapshot = mdev.scan(kernel.paths).snapshot
    click.echo(
        f"{directory}: {_count(len(snapshot.cards), 'card')} with {_count(len(snapshot.parents), 'parent')} "
        f"and {_count(len(snapshot.types), 'type')}{', with device nodes' if device_nodes else ''}"
    )
    for card in cards.cards[:8]:
        click.echo(f"  {card.address}  {card.model.driver}, {_count(len(card.model.offered), 'type')}")
    if len(cards.cards) > 8:  # noqa: PLR2004  # as many as are listed above
        click.echo(f"  … and {_count(len(cards.cards) - 8, 'other')}")
    click.echo("Now try:")
    first = next(iter(snapshot.types))
    for line in (
        f"types --simulated {directory}",
        f"simulate {directory} create {first}",
        f"devices --simulated {directory}",
        f"run --simulated {directory} --log-format console",
    ):
        click.echo(f"  mdev-device-plugin {line}")


@command.command("create", short_help="Make a device by hand.")
@click.argument("type_id", metavar="TYPE")
@click.option("--parent", metavar="ADDRESS", help="On this parent.  [default: the first with room]")
@click.option("--uuid", help="With this UUID.  [default: a random one]")
@click.pass_obj
def create(kernel: SimulatedKernel, type_id: str, parent: str | None, uuid: str | None) -> None:
    """Make a device by hand, which the agent then finds as somebody else's."""
    if uuid is not None:
        uuid = uuid.lower()
        _check_uuid(uuid)
    snapshot = mdev.scan(kernel.paths).snapshot
    carrying = [one.address for one in snapshot.carrying(type_id)]
    if not carrying:
        known = ", ".join(snapshot.types) or "none"
        raise click.UsageError(f"no parent offers the type {type_id!r} (types: {known})")
    if parent is None:
        free = (one for one in snapshot.carrying(type_id) if (kind := one.type(type_id)) and kind.available)
        parent = next((one.address for one in free), carrying[0])
    elif parent not in carrying:
        raise click.UsageError(f"{parent!r} does not offer {type_id} (parents: {', '.join(carrying)})")
    try:
        device = mdev.create(kernel, parent, type_id, uuid or str(uuids.uuid4()))
    except HostError as error:
        raise HostError(f"{type_id} could not be made on {error}") from error
    click.echo(f"{device.uuid}  {type_id} on {parent}, group {device.group}")


@command.command("remove", short_help="Remove a device by hand.")
@click.argument("uuid")
@click.pass_obj
def remove(kernel: SimulatedKernel, uuid: str) -> None:
    """Remove a device by hand; while something holds it that takes as long, as in the kernel."""
    _check_device(kernel, uuid)
    if vfio.is_held(kernel, uuid):
        note(f"{uuid} is in use; as in the kernel, its removal waits until it is not")
    with _refusals(f"{uuid} could not be removed"):
        kernel.write(kernel.paths.remove(uuid), "1")


@command.command("hold", short_help="Hold a device as a VM does.")
@click.argument("uuid")
@click.pass_obj
def hold_device(kernel: SimulatedKernel, uuid: str) -> None:
    """Hold a device as a VM does, until Ctrl-C."""
    _check_device(kernel, uuid)
    ends = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    # Blocked from here on, so that none can come between letting know and waiting.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    try:
        with _refusals(f"{uuid} can't be held"), hold(kernel, uuid) as machine:
            click.echo(f"holding {uuid}, group {machine.group}; Ctrl-C lets go")
            signal.sigwait(ends)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@command.command("unregister", short_help="Have a parent leave.")
@click.argument("parent")
@click.pass_obj
def unregister(kernel: SimulatedKernel, parent: str) -> None:
    """Have a parent leave with its devices, as its driver does when it is unloaded."""
    _on_parent(kernel, parent, kernel.unregister)


@command.command("register", short_help="Have a parent come back.")
@click.argument("parent")
@click.pass_obj
def register(kernel: SimulatedKernel, parent: str) -> None:
    """Have a parent come back that left."""
    _on_parent(kernel, parent, kernel.register)


@command.command("reboot", short_help="Start the node anew.")
@click.pass_obj
def reboot(kernel: SimulatedKernel) -> None:
    """Start the node anew: no device is left, and groups have other numbers."""
    with _refusals("the node could not be rebooted"):
        kernel.reboot()


command.add_command(fault)
command.add_command(clear_faults)


def _on_parent(kernel: SimulatedKernel, parent: str, action: Callable[[str], None]) -> None:
    if parent not in kernel.node.card_of:
        known = list(kernel.node.card_of)
        shown = ", ".join(known[:8]) + (" …" if len(known) > 8 else "")  # noqa: PLR2004  # one line's worth
        raise click.UsageError(f"there is no parent {parent!r} on this node (parents: {shown})")
    with _refusals(f"{parent} refused"):
        action(parent)


def _check_uuid(uuid: str) -> None:
    if not slots.is_uuid(uuid):
        raise click.UsageError(f"{uuid!r} is not a UUID as sysfs writes it: 36 characters, lower case")


def _check_device(kernel: SimulatedKernel, uuid: str) -> None:
    _check_uuid(uuid)
    if mdev.find(kernel.paths, uuid) is None:
        raise HostError(f"there is no device {uuid}: {in_words(errno.ENOENT)}")


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Turn the kernel's answer into a sentence."""
    try:
        yield
    except OSError as error:
        raise HostError(f"{what}: {in_words(error)}") from error


def _described(name: str) -> str:
    return str(yaml.safe_load(description.load(name).source).get("description", ""))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
