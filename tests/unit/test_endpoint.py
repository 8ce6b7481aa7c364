"""An endpoint's life, apart from what it is asked."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.api import deviceplugin_v1beta1_pb2_grpc as rpc
from deviceplugin.handover import Handover
from deviceplugin.kubelet.listing import Listing
from deviceplugin.kubelet.paths import KubeletPaths
from deviceplugin.kubelet.registration import Registrar
from deviceplugin.kubelet.service import Service
from deviceplugin.simulator.kubelet.kubelet import SimulatedKubelet
from tests import parts


class Nothing:
    """A backend that nobody asks."""

    async def allocate(self, resource: str, ids: Sequence[str]) -> Handover:
        raise NotImplementedError

    async def prepare(self, resource: str, ids: Sequence[str]) -> None:
        raise NotImplementedError

    def prefer(self, available: Sequence[str], required: Sequence[str], size: int) -> Sequence[str]:
        raise NotImplementedError


async def socket_in(directory: Path) -> Path:
    """The socket that an endpoint makes there, once it has."""
    async with asyncio.timeout(60):
        while not (sockets := [*directory.iterdir()]):  # noqa: ASYNC110 - a file gives no sign
            await asyncio.sleep(0)
    return sockets[0]


async def test_an_end_in_the_moment_of_its_beginning_leaves_no_socket_and_no_complaint() -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, about: complaints.append(about))
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        paths = KubeletPaths(Path(directory))
        paths.plugins.mkdir()
        for turns in range(4):
            running = asyncio.create_task(parts.endpoint("vfio.dev/x", Nothing(), paths).run())
            for _ in range(turns):
                await asyncio.sleep(0)
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

        # What gRPC left running gets its turns, and its errors are told when it is thrown away.
        for _ in range(20):
            await asyncio.sleep(0)
        gc.collect()
        assert [*paths.plugins.iterdir()] == []
    assert complaints == []


async def test_an_end_while_a_server_stops_is_heeded_although_grpc_loses_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopping = asyncio.Event()
    kind = type(grpc.aio.server())
    stop = kind.stop

    async def stop_and_lose_a_cancellation(server: grpc.aio.Server, grace: float | None) -> None:
        await stop(server, grace)
        stopping.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    monkeypatch.setattr(kind, "stop", stop_and_lose_a_cancellation)
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        paths = KubeletPaths(Path(directory))
        paths.plugins.mkdir()
        endpoint = parts.endpoint("vfio.dev/x", Nothing(), paths)
        running = asyncio.create_task(endpoint.run())
        endpoint.socket_gone((await socket_in(paths.plugins)).name)
        async with asyncio.timeout(60):
            await stopping.wait()

        running.cancel()

        await asyncio.wait({running}, timeout=60)
        assert running.cancelled()


async def test_whoever_listens_before_the_kubelet_can_know_of_it_is_not_the_kubelet() -> None:
    moved: list[bool] = []
    service = Service(Listing("vfio.dev/x"), Nothing(), on_connection=moved.append, on_doubt=parts.nothing)
    server = grpc.aio.server()
    rpc.add_DevicePluginServicer_to_server(service, server)
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        server.add_insecure_port(f"unix:{directory}/socket")
        await server.start()
        async with grpc.aio.insecure_channel(f"unix:{directory}/socket") as channel:
            early = rpc.DevicePluginStub(channel).ListAndWatch(pb.Empty())
            await early.read()
            assert not service.connected
            service.expecting = True
            kubelet = rpc.DevicePluginStub(channel).ListAndWatch(pb.Empty())
            await kubelet.read()
            assert moved == [True]
            await service.end()
            assert await early.read() is await kubelet.read() is grpc.aio.EOF
        await server.stop(None)


async def becomes(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - a stream's end gives no sign here
            await asyncio.sleep(0.01)


async def test_one_of_several_that_may_be_the_kubelet_leaves_a_doubt_and_the_last_one_an_end() -> None:
    moved: list[bool] = []
    doubts: list[None] = []
    service = Service(
        Listing("vfio.dev/x"), Nothing(), on_connection=moved.append, on_doubt=lambda: doubts.append(None)
    )
    service.expecting = True
    server = grpc.aio.server()
    rpc.add_DevicePluginServicer_to_server(service, server)
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        server.add_insecure_port(f"unix:{directory}/socket")
        await server.start()
        async with grpc.aio.insecure_channel(f"unix:{directory}/socket") as channel:
            first, second = (rpc.DevicePluginStub(channel).ListAndWatch(pb.Empty()) for _ in range(2))
            await first.read()
            await second.read()
            service.expecting = False
            guest = rpc.DevicePluginStub(channel).ListAndWatch(pb.Empty())
            await guest.read()
            guest.cancel()
            first.cancel()
            await becomes(lambda: bool(doubts))
            assert service.connected
            assert moved == [True]
            second.cancel()
            await becomes(lambda: len(moved) > 1)
            assert moved == [True, False]
            assert len(doubts) == 1
        await server.stop(None)


async def test_where_no_kubelet_is_it_is_looked_for_at_growing_intervals() -> None:
    attempts: list[bool] = []
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        paths = KubeletPaths(Path(directory))
        paths.plugins.mkdir()
        endpoint = parts.endpoint(
            "vfio.dev/x",
            Nothing(),
            paths,
            on_registration=lambda _resource, success: attempts.append(success),
        )
        running = asyncio.create_task(endpoint.run())
        await socket_in(paths.plugins)
        await asyncio.sleep(0.6)
        running.cancel()
        await asyncio.wait({running}, timeout=60)
    # At once, and after 0.1, 0.2 and 0.4 seconds; later where the machine is busy.
    assert 0 < len(attempts) <= 4
    assert not any(attempts)


async def test_a_new_kubelet_is_registered_with_though_the_old_one_still_listens() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        async with SimulatedKubelet(Path(directory)) as kubelet:
            endpoint = parts.endpoint("vfio.dev/x", Nothing(), KubeletPaths(Path(directory)))
            running = asyncio.create_task(endpoint.run())
            await kubelet.wait_for(lambda: endpoint.connected)
            endpoint.kubelet_appeared(Registrar(inode=1, changed_ns=1))
            await kubelet.wait_for(lambda: kubelet.calls["Register"] == 2 and endpoint.connected)
            running.cancel()
            await asyncio.wait({running}, timeout=60)
