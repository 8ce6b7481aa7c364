"""Who has which device, asked over a real socket."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from deviceplugin.api import podresources_v1_pb2 as pb
from deviceplugin.api import podresources_v1_pb2_grpc as rpc
from deviceplugin.errors import KubeletError
from deviceplugin.kubelet import podresources
from deviceplugin.kubelet.podresources import Holder, list_healthy, list_holders, list_pods

Answer = Callable[[grpc.aio.ServicerContext[Any, Any]], Awaitable[pb.ListPodResourcesResponse]]


@pytest.fixture
def socket() -> Iterator[Path]:
    # A socket's path has to be short.
    with tempfile.TemporaryDirectory(prefix="u") as directory:
        yield Path(directory) / "kubelet.sock"


@asynccontextmanager
async def kubelet(
    socket: Path, answer: Answer, allocatable: Sequence[pb.ContainerDevices] = ()
) -> AsyncIterator[None]:
    class Service(rpc.PodResourcesListerServicer):
        async def List(  # noqa: N802 - the name on the wire
            self, request: pb.ListPodResourcesRequest, context: grpc.aio.ServicerContext[Any, Any]
        ) -> pb.ListPodResourcesResponse:
            del request
            return await answer(context)

        async def GetAllocatableResources(  # noqa: N802 - the name on the wire
            self, request: pb.AllocatableResourcesRequest, context: grpc.aio.ServicerContext[Any, Any]
        ) -> pb.AllocatableResourcesResponse:
            del request, context
            return pb.AllocatableResourcesResponse(devices=allocatable)

    server = grpc.aio.server()
    rpc.add_PodResourcesListerServicer_to_server(Service(), server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)


def pod(name: str, **resources: list[list[str]]) -> pb.PodResources:
    """A pod whose one container has these devices, in so many entries."""
    devices = [
        pb.ContainerDevices(resource_name=f"vfio.dev/{resource}", device_ids=ids)
        for resource, several in resources.items()
        for ids in several
    ]
    return pb.PodResources(
        name=name, namespace="default", containers=[pb.ContainerResources(name="main", devices=devices)]
    )


async def test_each_device_has_its_holder(socket: Path) -> None:
    # With NUMA topology each ID comes as an entry of its own.
    pods = [pod("one", serial=[["a"], ["b"]]), pod("two", serial=[["c"]], gpu=[["d", "e"]]), pod("none")]

    async def answer(_: object) -> pb.ListPodResourcesResponse:
        return pb.ListPodResourcesResponse(pod_resources=pods)

    async with kubelet(socket, answer):
        holders = await list_holders(socket)
        listing = await list_pods(socket)
    assert listing.pods == {"default/one", "default/two", "default/none"}
    assert listing.holders == holders
    assert holders == {
        "a": Holder("default", "one", "main", "vfio.dev/serial"),
        "b": Holder("default", "one", "main", "vfio.dev/serial"),
        "c": Holder("default", "two", "main", "vfio.dev/serial"),
        "d": Holder("default", "two", "main", "vfio.dev/gpu"),
        "e": Holder("default", "two", "main", "vfio.dev/gpu"),
    }
    assert str(holders["a"]) == "default/one"


async def test_a_list_larger_than_grpcs_usual_limit_arrives(socket: Path) -> None:
    ids = [f"6d646576-0000-8000-8000-{n:012d}" for n in range(120_000)]

    async def answer(_: object) -> pb.ListPodResourcesResponse:
        return pb.ListPodResourcesResponse(pod_resources=[pod("big", serial=[ids])])

    async with kubelet(socket, answer):
        assert len(await list_holders(socket)) == len(ids)


async def test_a_throttled_list_means_that_nothing_is_known(socket: Path) -> None:
    async def answer(context: grpc.aio.ServicerContext[Any, Any]) -> pb.ListPodResourcesResponse:
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")
        raise AssertionError

    async with kubelet(socket, answer):
        with pytest.raises(KubeletError, match="RESOURCE_EXHAUSTED: rejected by rate limit"):
            await list_holders(socket)


async def test_a_kubelet_that_hangs_is_given_up(socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podresources, "LIST_DEADLINE", 0.05)

    async def answer(_: object) -> pb.ListPodResourcesResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async with kubelet(socket, answer):
        with pytest.raises(KubeletError, match="DEADLINE_EXCEEDED"):
            await list_holders(socket)


async def test_where_no_kubelet_is_nobody_answers(socket: Path) -> None:
    with pytest.raises(KubeletError, match=r"nobody answers at the kubelet's socket .*kubelet\.sock"):
        await list_holders(socket)
    socket.touch()
    with pytest.raises(KubeletError, match="nobody answers"):
        await list_holders(socket)


async def test_a_socket_whose_path_is_too_long_is_told_like_any_failure(tmp_path: Path) -> None:
    with pytest.raises(KubeletError):
        await list_holders(tmp_path / ("long" * 40) / "kubelet.sock")


async def test_a_kubelet_that_was_replaced_is_asked_at_once(socket: Path) -> None:
    async def empty(_: object) -> pb.ListPodResourcesResponse:
        return pb.ListPodResourcesResponse()

    async def full(_: object) -> pb.ListPodResourcesResponse:
        return pb.ListPodResourcesResponse(pod_resources=[pod("one", serial=[["a"]])])

    async with kubelet(socket, empty):
        assert await list_holders(socket) == {}
    async with kubelet(socket, full):
        assert set(await list_holders(socket)) == {"a"}


async def test_an_answer_that_makes_no_sense_is_an_error(socket: Path) -> None:
    async def garbage(_request: bytes, _context: object) -> bytes:
        return b"\xff\xff\xff\xff\x07garbage"

    handlers: dict[str, Any] = {"List": grpc.unary_unary_rpc_method_handler(garbage)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("v1.PodResourcesLister", handlers),)
    )
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        with pytest.raises(KubeletError, match="can't be understood"):
            await list_holders(socket)
    finally:
        await server.stop(None)


async def test_what_the_kubelet_takes_for_healthy_is_put_together_by_resource(socket: Path) -> None:
    # Each device is an entry of its own, and once for each of its NUMA nodes.
    entries = [
        pb.ContainerDevices(resource_name=resource, device_ids=[device])
        for resource, device in [("a/x", "1"), ("b/y", "2"), ("a/x", "3"), ("a/x", "3")]
    ]

    async def answer(_: object) -> pb.ListPodResourcesResponse:
        return pb.ListPodResourcesResponse()

    async with kubelet(socket, answer, entries):
        assert await list_healthy(socket) == {"a/x": {"1", "3"}, "b/y": {"2"}}
