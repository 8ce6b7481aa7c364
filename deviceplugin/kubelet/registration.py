"""Registering with the kubelet, and noticing that it is a new one.

At its start the kubelet deletes all sockets in its plugin directory and makes its own anew; while it is
down, its old socket stays. So the directory is watched, by inotify.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

import grpc
import grpc.aio
from asyncinotify import Inotify, Mask

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.api import deviceplugin_v1beta1_pb2_grpc as rpc
from deviceplugin.errors import KubeletError
from deviceplugin.kubelet.channel import kubelet_channel
from deviceplugin.kubelet.paths import KubeletPaths

log = logging.getLogger(__name__)

API_VERSION = "v1beta1"
REGISTER_DEADLINE = 15.0
"""Seconds: the kubelet dials back before it answers, and gives that ten."""
_NO_WATCH = 1.0
"""Seconds between looks at a directory that can't be watched."""


@dataclass(frozen=True, slots=True)
class Registrar:
    """One making of the kubelet's socket. A new one may have the old one's inode number."""

    inode: int
    changed_ns: int

    @classmethod
    def at(cls, socket: Path) -> Registrar | None:
        """The socket that is there now."""
        try:
            status = socket.stat()
        except OSError:
            return None
        return cls(status.st_ino, status.st_ctime_ns)


class Listener(Protocol):
    """Somebody who wants to know what happens in the kubelet's directory."""

    def kubelet_appeared(self, identity: Registrar) -> None: ...

    def socket_gone(self, name: str) -> None: ...


async def register(socket: Path, endpoint: str, resource: str) -> None:
    """Announce an endpoint, which has to be serving already.

    Raises:
        KubeletError: the kubelet is not there, refused, or did not answer in time.
    """
    request = pb.RegisterRequest(
        version=API_VERSION,
        endpoint=endpoint,
        resource_name=resource,
        options=pb.DevicePluginOptions(pre_start_required=True, get_preferred_allocation_available=True),
    )
    if Registrar.at(socket) is None:
        raise KubeletError(f"there is no kubelet at {socket}")
    async with kubelet_channel(socket) as channel:
        await rpc.RegistrationStub(channel).Register(request, timeout=REGISTER_DEADLINE)


def was_reached(error: KubeletError) -> bool:
    """Whether a failed registration got as far as the kubelet, which may remember the socket then."""
    cause = error.__cause__
    return isinstance(cause, grpc.aio.AioRpcError) and cause.code() is not grpc.StatusCode.UNAVAILABLE


def remove_stale_sockets(paths: KubeletPaths, pattern: str) -> None:
    """Delete the sockets that an agent before this one left behind, by the pattern of their names."""
    for path in paths.plugins.glob(pattern):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("an old socket stays", extra={"path": str(path), "reason": str(error)})


async def watch(
    paths: KubeletPaths,
    listeners: Iterable[Listener],
    *,
    on_socket: Callable[[str], None],
) -> NoReturn:
    """Tell the listeners of every new kubelet socket and of every socket that goes.

    Goes on when the directory is replaced or does not exist yet. Runs until it is cancelled.
    A directory that is not there is said once for each time.

    Args:
        paths: where the kubelet is.
        listeners: read anew for each event.
        on_socket: called with the name of each plugin's socket that comes or goes, whoever's it is.
    """
    is_missing = False
    while True:
        if is_missing is not (is_missing := not paths.plugins.is_dir()) and is_missing:
            log.warning(
                "there is no kubelet yet; waiting for its directory",
                extra={
                    "path": str(paths.plugins),
                    "reason": "no kubelet has run here, or its root directory is another one than "
                    f"{paths.root}, which --kubelet-root names",
                },
            )
        try:
            inotify = _watching(paths)
        except OSError as error:
            # No directory yet, or no inotify instance to be had: look from time to time.
            await _without(error, paths, listeners)
            continue
        with inotify:
            # The watch may have come after the socket.
            _appeared(paths, listeners)
            await _pass_on(inotify, paths, listeners, on_socket)


async def _pass_on(
    inotify: Inotify,
    paths: KubeletPaths,
    listeners: Iterable[Listener],
    on_socket: Callable[[str], None],
) -> None:
    """Tell the listeners of what happens, until it has to be watched anew."""
    while True:
        try:
            event = await inotify.get()
        except Exception as error:  # noqa: BLE001  # whatever the library raises, the agent goes on
            await _without(error, paths, listeners)
            return
        name = event.name.name if event.name is not None else ""
        if event.mask & (Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.IGNORED | Mask.Q_OVERFLOW) or (
            name == paths.plugins.name and event.watch is not None and event.watch.path == paths.root
        ):
            return  # What is there now is to be watched.
        if event.watch is None or event.watch.path != paths.plugins:
            continue
        if event.mask & (Mask.DELETE | Mask.MOVED_FROM) and name.endswith(".sock"):
            for listener in tuple(listeners):
                listener.socket_gone(name)
            on_socket(name)
        elif name == paths.registration.name:
            _appeared(paths, listeners)
        else:
            with contextlib.suppress(OSError):
                if (paths.plugins / name).is_socket():
                    on_socket(name)


async def _without(error: Exception, paths: KubeletPaths, listeners: Iterable[Listener]) -> None:
    """Look instead of watching, and wait until it is time to try that again."""
    log.debug("the kubelet's directory can't be watched", extra={"reason": str(error)})
    _appeared(paths, listeners)
    await asyncio.sleep(_NO_WATCH)


def _watching(paths: KubeletPaths) -> Inotify:
    """Watches on the kubelet's root directory and, where it is there, the one for plugins."""
    inotify = Inotify()
    try:
        itself = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR
        inotify.add_watch(paths.root, Mask.CREATE | Mask.MOVED_TO | itself)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            inotify.add_watch(
                paths.plugins, Mask.CREATE | Mask.MOVED_TO | Mask.MOVED_FROM | Mask.DELETE | itself
            )
    except BaseException:
        inotify.close()
        raise
    return inotify


def _appeared(paths: KubeletPaths, listeners: Iterable[Listener]) -> None:
    if (identity := Registrar.at(paths.registration)) is not None:
        log.debug("the kubelet's socket is there")
        for listener in tuple(listeners):
            listener.kubelet_appeared(identity)
