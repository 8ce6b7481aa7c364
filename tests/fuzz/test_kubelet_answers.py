"""Whatever the kubelet says, in its checkpoint or as the pods' resources: it is understood, or an error that
says that it can't be; never taken for 'nobody has a device'."""

from __future__ import annotations

import asyncio
import base64
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deviceplugin.advertising import Advertising
from deviceplugin.api import deviceplugin_v1beta1_pb2 as plugin_pb
from deviceplugin.api import podresources_v1_pb2 as pb
from deviceplugin.errors import KubeletError
from deviceplugin.inventory.capacity import Capacity
from deviceplugin.inventory.snapshot import Parent, ParentType, Snapshot
from deviceplugin.kubelet import checkpoint
from deviceplugin.kubelet.checkpoint import Checkpoint
from deviceplugin.kubelet.podresources import Holder, list_holders
from deviceplugin.kubelet.translation import offered
from deviceplugin.settings import Config
from tests.fuzz.examples import fuzzed, json_values, mutated, texts
from tests.fuzz.test_device_ids import OFFERED

PATH = Path("checkpoint")
NODE = Snapshot((Parent("p", "p", "d", None, None, (ParentType("a", "", "", "", 2),), ()),))


def answer(*paths: str) -> str:
    nodes = [plugin_pb.DeviceSpec(host_path=path) for path in paths]
    return base64.b64encode(plugin_pb.ContainerAllocateResponse(devices=nodes).SerializeToString()).decode()


def entry(**values: Any) -> dict[str, Any]:
    return {
        "PodUID": "u",
        "ContainerName": "c",
        "ResourceName": "vfio.dev/a",
        "DeviceIDs": {"-1": [OFFERED[0]]},
        "AllocResp": answer("/dev/vfio/vfio", "/dev/vfio/1"),
        **values,
    }


def file_of(*entries: object) -> bytes:
    return json.dumps({"Data": {"PodDeviceEntries": list(entries), "RegisteredDevices": {}}}).encode()


def understood(content: bytes) -> None:
    try:
        found = Checkpoint((0, 0, 0), checkpoint.parse(content, PATH))
        devices = found.devices
    except KubeletError as error:
        assert "can't be understood" in str(error)
        assert len(str(error)) < 1000
        return
    assert devices.keys() == found.holdings.keys()
    # Whatever the kubelet claims to have given away, there is a list that it can be sent.
    sent: list[plugin_pb.ListAndWatchResponse] = []
    advertising = Advertising(Config(), node_name="n", publish=lambda offer: sent.append(offered(offer)))
    advertising.remember(found)
    advertising.update(Capacity(NODE), pulled=(), stuck=())
    assert sent


@fuzzed
@given(st.binary(max_size=200))
@example(b"[" * 200_000)
@example(b"1" * 10_000)
@example(b"\xef\xbb\xbf{}")
def test_a_checkpoint_of_any_bytes(content: bytes) -> None:
    understood(content)


@fuzzed
@given(mutated([file_of(), file_of(entry()), file_of(entry(), entry(DeviceIDs=[OFFERED[1]]))]))
def test_a_checkpoint_with_pieces_that_are_wrong(content: bytes) -> None:
    understood(content)


responses = st.one_of(
    json_values,
    st.binary(max_size=40).map(lambda raw: base64.b64encode(raw).decode()),
    st.lists(texts.filter(lambda text: text.isascii()), max_size=3).map(lambda paths: answer(*paths)),
    st.just(answer("/dev/vfio/" + "9" * 5000)),
)
ids = json_values | st.dictionaries(texts, st.lists(texts | st.sampled_from(OFFERED), max_size=3), max_size=3)


@fuzzed
@given(
    st.lists(
        st.fixed_dictionaries(
            {"DeviceIDs": ids}, optional={"ResourceName": texts | json_values, "AllocResp": responses}
        ).map(lambda values: entry(**values))
        | json_values,
        max_size=3,
    )
)
@example([entry(AllocResp=answer("/dev/vfio/" + "9" * 5000))])
@example([entry(DeviceIDs={"-1": ["\ud800", "../..", "\0"]})])
def test_a_checkpoint_with_whatever_values(entries: list[Any]) -> None:
    understood(file_of(*entries))


@fuzzed
@given(st.lists(st.sampled_from(OFFERED), min_size=1, unique=True), json_values)
def test_an_entry_that_can_not_be_read_does_not_hide_the_others(held: list[str], other: Any) -> None:
    try:
        found = checkpoint.parse(file_of(other, entry(DeviceIDs={"0": held})), PATH)
    except KubeletError:
        return
    assert set(held) <= found.keys()


Ask = Callable[[bytes], dict[str, Holder]]


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """A kubelet that answers with these bytes, asked."""
    content = b""

    async def raw(_request: bytes, _context: object) -> bytes:
        return content

    with tempfile.TemporaryDirectory(prefix="f") as directory, asyncio.Runner() as runner:
        socket = Path(directory) / "s"

        async def start() -> grpc.aio.Server:
            server = grpc.aio.server()
            handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(raw)
            server.add_generic_rpc_handlers(
                [grpc.method_handlers_generic_handler("v1.PodResourcesLister", {"List": handler})]
            )
            server.add_insecure_port(f"unix:{socket}")
            await server.start()
            return server

        server = runner.run(start())

        def call(with_this: bytes) -> dict[str, Holder]:
            nonlocal content
            content = with_this
            return runner.run(list_holders(socket))

        yield call
        runner.run(server.stop(None))


def listing(*names: str) -> bytes:
    pod = pb.PodResources(
        name="pod",
        namespace="space",
        containers=[
            pb.ContainerResources(
                name="c", devices=[pb.ContainerDevices(resource_name="vfio.dev/a", device_ids=names)]
            )
        ],
    )
    return pb.ListPodResourcesResponse(pod_resources=[pod]).SerializeToString()


@fuzzed
@given(st.binary(max_size=100) | mutated([listing(), listing(OFFERED[0]), listing(*OFFERED)]))
@example(b"\xff" * 20)
@example(listing(OFFERED[0])[:-3])
def test_pod_resources_of_any_bytes(ask: Ask, content: bytes) -> None:
    try:
        found = ask(content)
    except KubeletError as error:
        assert "can't be understood" in str(error)
        return
    pb.ListPodResourcesResponse.FromString(content)  # Nothing was made of what is no answer.
    for uuid, holder in found.items():
        f"{uuid} {holder}".encode()


@fuzzed
@given(st.lists(texts.filter(lambda text: text.isprintable()), unique=True, max_size=4))
def test_every_device_that_the_kubelet_lists_has_a_holder(ask: Ask, names: list[str]) -> None:
    found = ask(listing(*names))
    assert set(found) == set(names)
    assert {str(holder) for holder in found.values()} <= {"space/pod"}
