"""What a pod gets: its devices, all of them or none, and everything that it needs to use them."""

from __future__ import annotations

import asyncio
import errno
import signal
import uuid

import grpc.aio
import pytest

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.simulator.kubelet.kubelet import AdmissionError
from tests.component.conftest import Begin
from tests.component.world import BACK_OFF, NEVER, allocate_request, slot, vfio

BOTH = "resources: [{name: example.com/any, types: [mdpy-hd, mbochs-large]}]\n" + NEVER


def paths(answer: pb.ContainerAllocateResponse) -> list[tuple[str, str, str]]:
    return [(node.container_path, node.host_path, node.permissions) for node in answer.devices]


async def test_the_device_bears_the_id_that_the_kubelet_chose(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_2=12, mtty_1=24)
    pod = await world.admit("mtty-2")
    assert world.ids(pod) == set(world.devices)
    assert [device.type for device in world.devices.values()] == ["mtty-2"]
    await world.offers(mtty_2=12, mtty_1=22)


async def test_a_container_gets_nodes_environment_and_annotations(begin: Begin) -> None:
    world = await begin("nvidia-t4", config=NEVER)
    await world.offers(nvidia_231=16)
    pod = await world.admit({vfio("nvidia-231"): 2})
    answer = world.handed(pod)
    first, second = sorted(world.devices.values(), key=lambda device: device.uuid[19:23])
    uuids = f"{first.uuid},{second.uuid}"
    assert dict(answer.envs) == {
        "MDEV_PCI_RESOURCE_VFIO_DEV_NVIDIA-231": uuids,
        "MDEV_VFIO_DEV_NVIDIA_231_UUIDS": uuids,
        "MDEV_VFIO_DEV_NVIDIA_231_TYPES": "nvidia-231,nvidia-231",
        "MDEV_VFIO_DEV_NVIDIA_231_SYSFSDEVS": (
            f"/sys/bus/mdev/devices/{first.uuid},/sys/bus/mdev/devices/{second.uuid}"
        ),
    }
    vfio_directory = world.node.paths.vfio
    assert paths(answer) == [
        ("/dev/vfio/vfio", str(vfio_directory / "vfio"), "mrw"),
        *(
            (f"/dev/vfio/{group}", str(vfio_directory / str(group)), "mrw")
            for group in sorted([first.group or 0, second.group or 0])
        ),
    ]
    assert dict(answer.annotations) == {
        f"mdev.vfio.dev/{device.uuid}": f"nvidia-231 on {device.parent}" for device in (first, second)
    }


async def test_a_container_may_hold_several_resources_and_several_devices_of_one(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24, mdpy_hd=4)
    pod = await world.run_pod({vfio("mtty-1"): 3, vfio("mdpy-hd"): 1})
    answer = world.handed(pod)
    assert len(answer.envs["MDEV_VFIO_DEV_MTTY_1_UUIDS"].split(",")) == 3
    assert answer.envs["MDEV_VFIO_DEV_MDPY_HD_TYPES"] == "mdpy-hd"
    assert {node.container_path for node in answer.devices} == {
        "/dev/vfio/vfio",
        *(f"/dev/vfio/{device.group}" for device in world.devices.values()),
    }
    assert len(answer.annotations) == len(world.devices) == 4


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EAGAIN, errno.ENOMEM, errno.ENODEV])
async def test_a_create_that_fails_says_what_was_tried_where_and_the_errno(begin: Begin, code: int) -> None:
    world = await begin(config=NEVER, agent=False)
    await world.start_agent(moved_clock=True)
    await world.offers(mdpy_hd=4)
    world.node.fault("fail-create", parent="mdpy", errno=code)
    with pytest.raises(AdmissionError, match="UnexpectedAdmissionError") as failure:
        await world.admit("mdpy-hd")
    assert "vfio.dev/mdpy-hd" in str(failure.value)
    assert f"mdpy: {errno.errorcode[code]}" in str(failure.value)
    world.node.clear_faults()
    assert not world.devices
    if code not in {errno.EAGAIN, errno.ENODEV}:
        # It is not offered until it is tried again, and with one device first.
        await world.offers(mdpy_hd=0)
        world.time_passes(BACK_OFF)
        await world.offers(mdpy_hd=1)
    await world.admit("mdpy-hd", name="next")
    await world.offers(mdpy_hd=4)


async def test_the_first_of_two_goes_when_the_second_can_not_be_made(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mdpy_hd=4, mtty_1=24)
    world.create("mdpy", "mdpy-vga", str(uuid.uuid4()))
    world.create("mdpy", "mdpy-vga", str(uuid.uuid4()))
    world.create("mdpy", "mdpy-vga", str(uuid.uuid4()))
    foreign = set(world.devices)
    ids = [slot(vfio("mdpy-hd"), index) for index in range(2)]
    async with world.plugin(vfio("mdpy-hd")) as plugin:
        with pytest.raises(grpc.aio.AioRpcError, match=r"mdpy: EUSERS|is full|no parent could take"):
            await plugin.Allocate(allocate_request(ids))
    assert set(world.devices) == foreign
    await world.offers(mdpy_hd=1)


async def test_nothing_stays_when_the_card_fails_in_the_middle(begin: Begin) -> None:
    world = await begin(text=FAILS_LATER, config=NEVER)
    await world.offers(thing=8)
    world.node.fault("fail-create", parent="second", errno=errno.EIO)
    with pytest.raises(AdmissionError, match="second: EIO"):
        await world.admit({vfio("thing"): 6})
    assert not world.devices
    await world.offers(thing=4)
    await world.admit({vfio("thing"): 4})


FAILS_LATER = """
models:
  m: {driver: d, pools: {p: 4}, types: [{id: thing, takes: {p: 1}}]}
cards:
- {model: m, address: first}
- {model: m, address: second}
"""


async def test_a_card_that_fails_is_passed_over_for_one_that_works(begin: Begin) -> None:
    world = await begin(text=FAILS_LATER, config=NEVER)
    await world.offers(thing=8)
    world.node.fault("fail-create", parent="first", errno=errno.EIO)
    await world.admit({vfio("thing"): 4})
    assert {device.parent for device in world.devices.values()} == {"second"}


async def test_a_card_that_filled_up_unseen_is_passed_over(begin: Begin) -> None:
    world = await begin(text=FAILS_LATER, config=NEVER)
    await world.offers(thing=8)
    await world.admit("thing")
    (taken,) = {device.parent for device in world.devices.values()}
    for _ in range(3):
        world.create(taken, "thing", str(uuid.uuid4()))
    # The agent packs, so it would go to the fuller card; no event may have reached it yet.
    pod = await world.admit({vfio("thing"): 2}, name="second")
    assert {world.devices[device].parent for device in world.ids(pod)} == {"first", "second"} - {taken}


async def test_an_id_that_turned_unhealthy_is_served_if_there_is_room(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mdpy_hd=4)
    for _ in range(2):
        world.create("mdpy", "mdpy-vga", str(uuid.uuid4()))
    await world.offers(mdpy_hd=2)
    unhealthy = slot(vfio("mdpy-hd"), 3)
    assert world.kubelet.devices(vfio("mdpy-hd"))[unhealthy] == (False, None)
    async with world.plugin(vfio("mdpy-hd")) as plugin:
        await plugin.Allocate(allocate_request([unhealthy]))
    assert unhealthy in world.devices


async def test_a_node_full_of_foreign_devices_says_so_and_leaves_them_alone(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mdpy_hd=4)
    foreign = [str(uuid.uuid4()) for _ in range(4)]
    for device in foreign:
        world.create("mdpy", "mdpy-vga", device)
    await world.offers(mdpy_hd=0)
    async with world.plugin(vfio("mdpy-hd")) as plugin:
        with pytest.raises(grpc.aio.AioRpcError, match="every parent that offers mdpy-hd is full"):
            await plugin.Allocate(allocate_request([slot(vfio("mdpy-hd"))]))
    assert set(world.devices) == set(foreign)


async def test_a_failure_on_dozens_of_cards_is_told_in_a_sentence_that_can_be_read(begin: Begin) -> None:
    parents = '{addresses: ["0.0.01[0-3]?"]}'
    config = f"resources: [{{name: a.b/io, types: [vfio_ccw-io], parents: {parents}}}]\n{NEVER}"
    world = await begin("s390", config=config)
    await world.kubelet.wait_for(lambda: world.kubelet.allocatable("a.b/io") == 64)
    world.node.fault("fail-create", type="vfio_ccw-io", errno=errno.EIO)
    with pytest.raises(AdmissionError, match=r"vfio_ccw-io on 0\.0\.0100: EIO") as failure:
        await world.admit({"a.b/io": 1})
    # It travels in an HTTP header and ends up in the pod's status.
    assert len(str(failure.value)) < 2000


async def test_several_types_satisfy_one_resource_in_their_order(begin: Begin) -> None:
    world = await begin(config=BOTH)
    await world.kubelet.wait_for(lambda: world.kubelet.allocatable("example.com/any") == 8)
    await world.run_pod({"example.com/any": 3})
    assert {device.type for device in world.devices.values()} == {"mdpy-hd"}
    await world.run_pod({"example.com/any": 2}, name="second")
    assert [device.type for device in world.devices.values()].count("mbochs-large") >= 1
    await world.kubelet.wait_for(lambda: world.kubelet.allocatable("example.com/any") >= 8 - 1)


async def test_attributes_are_set_before_a_device_is_handed_over(begin: Begin) -> None:
    config = (
        "resources: [{name: example.com/q, types: [nvidia-231], "
        "attributes: {nvidia/vgpu_params: frame_rate_limiter=0}}]\n" + NEVER
    )
    world = await begin("nvidia-t4", config=config)
    await world.kubelet.wait_for(lambda: world.kubelet.allocatable("example.com/q") == 16)
    await world.admit({"example.com/q": 1})
    (device,) = world.devices
    text = (world.node.paths.device(device) / "nvidia/vgpu_params").read_text()
    assert text.strip() == "frame_rate_limiter=0"
    (told,) = world.logged("attribute set", attribute="nvidia/vgpu_params")
    assert (told["device"], told["value"], told["reads"]) == (device, *["frame_rate_limiter=0"] * 2)


async def test_an_attribute_that_is_refused_fails_the_pod_and_leaves_nothing(begin: Begin) -> None:
    config = "resources: [{name: example.com/q, types: [mtty-1], attributes: {nonsense: '1'}}]\n" + NEVER
    world = await begin(config=config)
    await world.kubelet.wait_for(lambda: world.kubelet.allocatable("example.com/q") == 24)
    with pytest.raises(AdmissionError, match="attribute 'nonsense' refused '1'"):
        await world.admit({"example.com/q": 2})
    assert not world.devices


THREE = """
models:
  m: {driver: d, pools: {p: 1}, types: [{id: thing, takes: {p: 1}}]}
cards:
- {model: m, address: a}
- {model: m, address: b}
- {model: m, address: c}
"""


async def test_a_device_that_nobody_knew_of_is_renewed_wherever_there_is_room(begin: Begin) -> None:
    foreign = str(uuid.uuid4())
    world = await begin(text=THREE, config=NEVER)
    await world.offers(thing=3)
    resource = vfio("thing")
    async with world.plugin(resource) as plugin:
        world.signal_agent(signal.SIGSTOP)
        world.create("b", "thing", slot(resource))
        world.mark(slot(resource))
        world.create("a", "thing", foreign)
        answer = asyncio.ensure_future(plugin.Allocate(allocate_request([slot(resource)])))
        world.signal_agent(signal.SIGCONT)
        await answer
    assert world.devices.keys() == {slot(resource), foreign}
    assert not world.is_marked(slot(resource))
