"""Registering with the kubelet, and noticing that it is a new one."""

from __future__ import annotations

import asyncio
import errno
import socket as sockets
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from asyncinotify import Event, Inotify

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.api import deviceplugin_v1beta1_pb2_grpc as rpc
from deviceplugin.errors import KubeletError
from deviceplugin.kubelet import registration
from deviceplugin.kubelet.paths import KubeletPaths
from deviceplugin.kubelet.registration import Registrar, register, remove_stale_sockets, was_reached, watch
from deviceplugin.kubelet.server import SOCKETS
from tests import parts

PATIENCE = 60.0


@pytest.fixture
def paths() -> Iterator[KubeletPaths]:
    # A socket's path has to be short.
    with tempfile.TemporaryDirectory(prefix="u") as directory:
        made = KubeletPaths(Path(directory) / "kubelet")
        made.plugins.mkdir(parents=True)
        yield made


@asynccontextmanager
async def kubelet(
    paths: KubeletPaths, refuse: tuple[grpc.StatusCode, str] | None = None
) -> AsyncIterator[list[pb.RegisterRequest]]:
    seen: list[pb.RegisterRequest] = []

    class Service(rpc.RegistrationServicer):
        async def Register(  # noqa: N802 - the name on the wire
            self, request: pb.RegisterRequest, context: grpc.aio.ServicerContext[Any, Any]
        ) -> pb.Empty:
            seen.append(request)
            if refuse is not None:
                await context.abort(*refuse)
            return pb.Empty()

    server = grpc.aio.server()
    rpc.add_RegistrationServicer_to_server(Service(), server)
    server.add_insecure_port(f"unix:{paths.registration}")
    await server.start()
    try:
        yield seen
    finally:
        await server.stop(None)


# Registering.


async def test_the_kubelet_learns_where_the_endpoint_is_and_what_it_can(paths: KubeletPaths) -> None:
    async with kubelet(paths) as seen:
        await register(paths.registration, "mdev-1.sock", "vfio.dev/mtty-1")
    (request,) = seen
    assert (request.version, request.endpoint, request.resource_name) == (
        "v1beta1",
        "mdev-1.sock",
        "vfio.dev/mtty-1",
    )
    assert request.options.pre_start_required
    assert request.options.get_preferred_allocation_available


async def test_where_no_kubelet_is_the_error_says_so(paths: KubeletPaths) -> None:
    with pytest.raises(KubeletError, match=r"there is no kubelet at .*kubelet\.sock") as caught:
        await register(paths.registration, "mdev-1.sock", "vfio.dev/mtty-1")
    assert not was_reached(caught.value)


async def test_the_socket_of_a_dead_kubelet_is_not_one_that_was_reached(paths: KubeletPaths) -> None:
    with sockets.socket(sockets.AF_UNIX) as dead:
        dead.bind(str(paths.registration))
    with pytest.raises(KubeletError, match="nobody answers") as caught:
        await register(paths.registration, "mdev-1.sock", "vfio.dev/mtty-1")
    assert not was_reached(caught.value)


async def test_a_kubelet_that_refuses_was_reached_and_is_quoted(paths: KubeletPaths) -> None:
    refusal = (grpc.StatusCode.UNKNOWN, "device plugin already connected: /mdev-1.sock")
    async with kubelet(paths, refusal):
        with pytest.raises(KubeletError, match=r"device plugin already connected: /mdev-1\.sock") as caught:
            await register(paths.registration, "mdev-1.sock", "vfio.dev/mtty-1")
    assert was_reached(caught.value)


async def test_a_kubelet_that_hangs_is_given_up_and_may_remember_the_socket(
    paths: KubeletPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "REGISTER_DEADLINE", 0.1)
    with sockets.socket(sockets.AF_UNIX) as silent:
        silent.bind(str(paths.registration))
        silent.listen()
        with pytest.raises(KubeletError):
            await register(paths.registration, "mdev-1.sock", "vfio.dev/mtty-1")


# What an earlier agent left behind.

OURS = "mdev-0123abcd-4567cdef.sock"


def test_only_our_own_sockets_are_cleaned_away(paths: KubeletPaths) -> None:
    others = {"nvidia.sock", "kubelet.sock", "mdev-notes", "mdev-other.sock", f"x{OURS}"}
    for name in (OURS, "mdev-ffffffff-00000000.sock", *others):
        (paths.plugins / name).touch()
    remove_stale_sockets(paths, SOCKETS)
    assert {path.name for path in paths.plugins.iterdir()} == others


def test_where_nothing_was_left_nothing_is_cleaned(paths: KubeletPaths) -> None:
    remove_stale_sockets(paths, SOCKETS)
    paths.plugins.rmdir()
    remove_stale_sockets(paths, SOCKETS)


def test_what_is_no_socket_but_is_called_so_keeps_no_agent_from_starting(paths: KubeletPaths) -> None:
    (paths.plugins / "mdev-00000000-00000000.sock").mkdir()
    (paths.plugins / OURS).touch()
    remove_stale_sockets(paths, SOCKETS)
    assert not (paths.plugins / OURS).exists()


# Noticing.


def test_a_socket_that_was_made_anew_is_another_one(paths: KubeletPaths) -> None:
    assert Registrar.at(paths.registration) is None
    paths.registration.touch()
    first = Registrar.at(paths.registration)
    assert first == Registrar.at(paths.registration)
    aside = paths.plugins / "aside"
    aside.touch()
    aside.replace(paths.registration)
    assert Registrar.at(paths.registration) != first


class Noted:
    """A listener that notes what it was told."""

    def __init__(self) -> None:
        self.kubelets: list[Registrar] = []
        self.gone: list[str] = []
        self._told = asyncio.Event()

    def kubelet_appeared(self, identity: Registrar) -> None:
        if identity not in self.kubelets:
            self.kubelets.append(identity)
        self._told.set()

    def socket_gone(self, name: str) -> None:
        self.gone.append(name)
        self._told.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._told.clear()
                await self._told.wait()


@asynccontextmanager
async def watching(paths: KubeletPaths) -> AsyncIterator[Noted]:
    noted = Noted()
    task = asyncio.create_task(watch(paths, [noted], on_socket=parts.nothing))
    try:
        yield noted
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def new_kubelet(paths: KubeletPaths) -> None:
    aside = paths.plugins / "aside"
    aside.touch()
    aside.replace(paths.registration)


async def test_a_kubelet_that_is_there_already_is_noticed(paths: KubeletPaths) -> None:
    new_kubelet(paths)
    async with watching(paths) as noted:
        await noted.until(lambda: len(noted.kubelets) == 1)


async def test_every_new_kubelet_is_noticed(paths: KubeletPaths) -> None:
    new_kubelet(paths)
    async with watching(paths) as noted:
        for number in range(1, 4):
            await noted.until(lambda: len(noted.kubelets) == number)
            new_kubelet(paths)
        paths.registration.unlink()
        await noted.until(lambda: "kubelet.sock" in noted.gone)
        paths.registration.touch()
        await noted.until(lambda: Registrar.at(paths.registration) in noted.kubelets)


@pytest.mark.parametrize("how", ["deleted", "moved away"])
async def test_a_socket_of_ours_that_goes_is_noticed(paths: KubeletPaths, how: str) -> None:
    new_kubelet(paths)
    ours = paths.plugins / "mdev-1.sock"
    ours.touch()
    async with watching(paths) as noted:
        await noted.until(lambda: bool(noted.kubelets))
        if how == "deleted":
            ours.unlink()
        else:
            ours.rename(paths.root / "elsewhere")
        await noted.until(lambda: noted.gone == ["mdev-1.sock"])


async def test_a_kubelet_whose_directory_is_made_later_is_noticed(paths: KubeletPaths) -> None:
    paths.plugins.rmdir()
    async with watching(paths) as noted:
        await asyncio.sleep(0)
        paths.plugins.mkdir()
        new_kubelet(paths)
        await noted.until(lambda: bool(noted.kubelets))


async def test_a_kubelet_whose_root_is_made_later_is_noticed(
    paths: KubeletPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "_NO_WATCH", 0.01)
    paths.plugins.rmdir()
    paths.root.rmdir()
    async with watching(paths) as noted:
        await asyncio.sleep(0)
        paths.plugins.mkdir(parents=True)
        new_kubelet(paths)
        await noted.until(lambda: bool(noted.kubelets))


@pytest.mark.parametrize("what", ["plugins", "root"])
async def test_a_directory_that_is_replaced_is_watched_anew(
    paths: KubeletPaths, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "_NO_WATCH", 0.01)
    new_kubelet(paths)
    async with watching(paths) as noted:
        await noted.until(lambda: len(noted.kubelets) == 1)
        directory: Path = getattr(paths, what)
        directory.rename(directory.with_name("before"))
        paths.plugins.mkdir(parents=True)
        new_kubelet(paths)
        await noted.until(lambda: Registrar.at(paths.registration) in noted.kubelets)
        (paths.plugins / "mdev-1.sock").touch()
        (paths.plugins / "mdev-1.sock").unlink()
        await noted.until(lambda: "mdev-1.sock" in noted.gone)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), ValueError("a library's own")])
async def test_a_watch_that_fails_is_made_anew(
    paths: KubeletPaths, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    failures = [error]
    get = Inotify.get

    async def fail_once(inotify: Inotify) -> Event:
        if failures:
            raise failures.pop()
        return await get(inotify)

    monkeypatch.setattr(registration, "_NO_WATCH", 0.01)
    monkeypatch.setattr(Inotify, "get", fail_once)
    async with watching(paths) as noted:
        await asyncio.sleep(0)
        new_kubelet(paths)
        await noted.until(lambda: Registrar.at(paths.registration) in noted.kubelets)
    assert failures == []


async def test_other_files_mean_nothing(paths: KubeletPaths) -> None:
    new_kubelet(paths)
    async with watching(paths) as noted:
        await noted.until(lambda: bool(noted.kubelets))
        (paths.plugins / "kubelet_internal_checkpoint").touch()
        (paths.root / "pods").mkdir()
        new_kubelet(paths)
        await noted.until(lambda: len(noted.kubelets) == 2)
        assert noted.gone == []


async def test_a_listener_that_comes_later_is_told_too(paths: KubeletPaths) -> None:
    first, later = Noted(), Noted()
    listeners = [first]
    task = asyncio.create_task(watch(paths, listeners, on_socket=parts.nothing))
    new_kubelet(paths)
    await first.until(lambda: len(first.kubelets) == 1)
    listeners.append(later)
    new_kubelet(paths)
    await later.until(lambda: len(later.kubelets) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_kubelet_directory_that_is_not_there_is_said_at_once_and_once(
    paths: KubeletPaths, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("deviceplugin.kubelet.registration._NO_WATCH", 0.01)
    paths.plugins.rmdir()
    paths.root.rename(paths.root.with_name("elsewhere"))
    async with watching(paths) as noted:
        async with asyncio.timeout(PATIENCE):
            while not caplog.records:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)  # It looks again, and has nothing new to say.
        (record,) = caplog.records
        assert (record.levelname, vars(record)["path"]) == ("WARNING", str(paths.plugins))
        assert "--kubelet-root" in vars(record)["reason"]
        paths.plugins.mkdir(parents=True)
        new_kubelet(paths)
        await noted.until(lambda: len(noted.kubelets) > 0)
    assert len(caplog.records) == 1
