"""Whatever comes in wrong gets a clear answer, and what worked goes on working."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import Sequence

import grpc
import grpc.aio
import pytest

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from tests.component.conftest import Begin
from tests.component.world import NEVER, PATIENCE, World, allocate_request, slot, vfio

OWN = slot(vfio("mtty-1"))
NOT_FOUND, INVALID = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT


async def serves(world: World) -> None:
    """A pod gets what it asks for."""
    pod = await world.run_pod("mtty-1", name="sound")
    await world.kubelet.delete(pod)


SENSELESS: dict[str, tuple[list[str], grpc.StatusCode]] = {
    "none": ([], INVALID),
    "twice": ([OWN, OWN], INVALID),
    "a slot that was never offered": ([slot(vfio("mtty-1"), 9999)], NOT_FOUND),
    "another resource's": ([slot(vfio("mtty-2"))], NOT_FOUND),
    "another node's": ([slot(vfio("mtty-1"), node_name="other")], NOT_FOUND),
    "another NUMA node's": ([slot(vfio("mtty-1"), numa_node=0)], NOT_FOUND),
    "somebody's UUID": ([str(uuid.UUID(int=5))], NOT_FOUND),
    "in capitals": ([OWN.upper()], NOT_FOUND),
    "with a newline": ([f"{OWN}\n"], NOT_FOUND),
    "with a space": ([f" {OWN}"], NOT_FOUND),
    "empty": ([""], NOT_FOUND),
    "a path": (["../../../etc/passwd"], NOT_FOUND),
    "10 kB": (["x" * 10_000], NOT_FOUND),
    "control characters": (["\0\x1b[2J\r\n" * 100], NOT_FOUND),
    "not ASCII": (["\uff16\uff44646576-\xe9"], NOT_FOUND),
    "one right and one wrong": ([OWN, "x"], NOT_FOUND),
    "20 000 of them": ([f"{OWN}{number}" for number in range(20_000)], NOT_FOUND),
}


async def test_device_ids_that_make_no_sense_are_refused(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24)
    async with world.plugin(vfio("mtty-1")) as plugin:
        for case, (ids, code) in SENSELESS.items():
            for call in (
                plugin.Allocate(allocate_request(ids)),
                plugin.PreStartContainer(pb.PreStartContainerRequest(devices_ids=ids)),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as failure:
                    await call
                assert failure.value.code() is code, case
                told = failure.value.details() or ""
                assert told.startswith("vfio.dev/mtty-1: "), case
                assert len(told) < 500, case
                assert told.isprintable(), case
            assert not world.devices, case
            await serves(world)
            (device,) = world.devices
            world.remove(device)
            await world.offers(mtty_1=24)


async def test_a_request_for_no_container_or_several_is_refused(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24)
    async with world.plugin(vfio("mtty-1")) as plugin:
        for containers in ([], [[OWN], [slot(vfio("mtty-1"), 1)]]):
            with pytest.raises(
                grpc.aio.AioRpcError, match=f"the request is for {len(containers)} containers"
            ):
                await plugin.Allocate(allocate_request(*containers))
    assert not world.devices
    await serves(world)


async def test_bytes_that_are_no_request_hurt_nobody(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24)
    await world.says("registered", resource=vfio("mtty-1"))
    path = world.socket(vfio("mtty-1"))
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        for payload in (b"\xff" * 100, b"\x0a\x05\x0a\xff\xff\xff\xff", b"\x0a\x04\x0a\x02\xc3\x28"):
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
                "/v1beta1.DevicePlugin/Allocate"
            )
            with pytest.raises(grpc.aio.AioRpcError):
                await call(payload)
    _, writer = await asyncio.open_unix_connection(path)
    writer.write(b"GET / HTTP/1.1\r\n\r\n" + b"\0" * 4096)
    writer.close()
    # gRPC itself says in the log what it could not read; that is no failure of the agent.
    world.excused = True
    await serves(world)
    assert world.agent_runs


UNREADABLE: dict[str, bytes | None] = {
    "empty": b"",
    "newline": b"\n",
    "word": b"many\n",
    "negative": b"-1\n",
    "fraction": b"1.5\n",
    "not UTF-8": b"\xff\xfe\x00\n",
    "100 digits": b"9" * 100 + b"\n",
    "other digits": "٣\n".encode(),
    "gone": None,
}


async def test_a_count_that_can_not_be_read_costs_that_type_alone(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mdpy_hd=4, mdpy_vga=4)
    for case, content in UNREADABLE.items():
        said = len(world.logged("left out"))
        world.node.fault("odd-count", parent="mdpy", type="mdpy-hd", content=content)
        # The file alone tells of nothing; something that happens on the card does.
        world.create("mdpy", "mdpy-vga", foreign := str(uuid.uuid4()))
        await world.offers(mdpy_hd=0, mdpy_vga=3, mtty_1=24)
        world.remove(foreign)
        await world.offers(mdpy_hd=0, mdpy_vga=4)
        new = world.logged("left out")[said:]
        assert len(new) == 1, case
        assert all(each["path"].endswith("mdpy-hd/available_instances") for each in new), case
        world.node.clear_faults()
        world.create("mdpy", "mdpy-vga", foreign)
        await world.offers(mdpy_hd=3, mdpy_vga=3)
        world.remove(foreign)
        await world.offers(mdpy_hd=4, mdpy_vga=4)


async def test_types_without_a_readable_name_are_offered_by_their_id(begin: Begin) -> None:
    world = await begin(agent=False, config=f"discovery: {{name: name}}\n{NEVER}")
    world.node.fault("no-name", parent="mdpy", type="mdpy-hd")
    name = world.node.paths.type("mbochs", "mbochs-small") / "name"
    name.unlink()
    name.write_bytes(b"\xff\xfe\n")
    await world.start_agent()
    await world.offers(mdpy_hd=4, mbochs_small=64)
    await world.kubelet.wait_for(lambda: world.kubelet.allocatable("vfio.dev/Single_port_serial") == 24)
    assert world.logged("left out", reason="is not UTF-8 and is taken as missing")


async def test_things_that_do_not_belong_in_sysfs_are_passed_over(begin: Begin) -> None:
    world = await begin(agent=False, config=NEVER)
    paths = world.node.paths
    (paths.parents / "dangling").symlink_to("../../nowhere")
    (paths.parents / "a-file").write_text("")
    (paths.parents / "empty").mkdir()
    (paths.parents / "mtty" / "mdev_supported_types" / "stray").write_text("")
    (paths.parents / "mtty" / "mdev_supported_types" / "hollow").mkdir()
    (paths.parents / "mtty" / "mdev_supported_types" / "bad name\n").mkdir()
    (paths.parents / "mtty" / OWN).mkdir()
    (paths.devices / "not-a-device").symlink_to("../../nowhere")
    await world.start_agent()
    await world.offers(mtty_1=24, mdpy_hd=4)
    await world.run_pod("mdpy-hd")
    assert world.agent_runs


UNUSABLE: tuple[tuple[str, str], ...] = (
    ("", "is empty"),
    ("version: v1\nreclaim: {interwal: 5s}\n", "'interval'"),
    ("version: v1\nrelcaim: {interval: 5s}\n", "config.yaml:2"),
    ("version: v1\nreclaim: {grace: soon}\n", "config.yaml:2"),
    ("version: v1\nreclaim: {enabled: 3}\n", "config.yaml:2"),
    ("version: v7\n", "config.yaml:1"),
    ("version: v1\nresources:\n- name: nonsense\n  types: [a]\n", "config.yaml:3"),
    (
        "version: v1\nresources:\n- {name: a.b/c, types: [x]}\n- {name: a.b/c, types: [y]}\n",
        "config.yaml:4",
    ),
    ("version: v1\nversion: v1\n", "config.yaml:2"),
    ("{[", "config.yaml:1"),
    ("- 1\n", "config.yaml"),
    ("version: v1\ndiscovery: {domain: kubernetes.io}\n", "kubernetes.io"),
)
MISTAKEN: tuple[list[str], ...] = (
    ["--config", "/nonexistent/config.yaml"],
    ["--simulated", "/nonexistent"],
    ["--log-format", "xml"],
    ["--log-level", "loud"],
    ["--misspelt", "1"],
)
EACH = """
import contextlib, io, json, sys
from deviceplugin.cli import main
for arguments in json.load(sys.stdin):
    sys.argv = ["mdev-device-plugin", *arguments]
    code = None
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    print(json.dumps([code, said.getvalue()]))
"""
"""Calls the command with each of the lists of arguments that it reads."""


async def test_a_configuration_that_can_not_be_used_ends_with_one_line_and_code_2(begin: Begin) -> None:
    world = await begin(agent=False, kubelet=False)
    calls: list[list[str]] = []
    for number, (text, _) in enumerate(UNUSABLE):
        path = world.directory / str(number) / "config.yaml"
        path.parent.mkdir()
        path.write_text(text)
        calls.append(["--config", str(path)])
    for (code, said), (text, told) in zip(await run(world, calls), UNUSABLE, strict=True):
        assert code == 2, text
        assert said.startswith("mdev-device-plugin: "), text
        assert said.count("\n") == 1, text
        assert told in said, text


async def test_flags_that_make_no_sense_end_with_one_line_and_code_2(begin: Begin) -> None:
    world = await begin(agent=False, kubelet=False)
    for (code, said), arguments in zip(await run(world, MISTAKEN), MISTAKEN, strict=True):
        assert code == 2, arguments
        assert said.startswith("mdev-device-plugin: "), arguments
        assert said.count("\n") == 1, arguments


async def run(world: World, calls: Sequence[list[str]]) -> list[tuple[int | None, str]]:
    """Run the agent's command to its end with each of these; returns its exit codes and what it said."""
    always = ["run", "--kubelet-root", str(world.kubelet.root), "--simulated", str(world.directory / "node")]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", EACH), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(PATIENCE):
            out, _ = await process.communicate(json.dumps([[*always, *each] for each in calls]).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    return [(code, said) for code, said in map(json.loads, out.splitlines())]
