"""What the agent counts on from a kernel with mtty, mdpy and mbochs, be it real or simulated."""

from __future__ import annotations

import errno
import os
import select
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deviceplugin.host.kernel import Kernel, Uevent, UeventSource
from deviceplugin.simulator.node.kernel import SimulatedKernel
from deviceplugin.simulator.node.vm import hold

Create = Callable[[str], str]

TYPES = {
    "mtty-1": ("Single port serial", None, 24),
    "mtty-2": ("Dual port serial", None, 12),
    "mdpy-vga": ("mdpy-vga", "virtual display, 640x480 framebuffer", 4),
    "mdpy-xga": ("mdpy-xga", "virtual display, 1024x768 framebuffer", 4),
    "mdpy-hd": ("mdpy-hd", "virtual display, 1920x1080 framebuffer", 4),
    "mbochs-small": ("mbochs-small", "virtual display, 4 MB video memory", 64),
    "mbochs-medium": ("mbochs-medium", "virtual display, 16 MB video memory", 16),
    "mbochs-large": ("mbochs-large", "virtual display, 64 MB video memory", 4),
}


def parent_of(type_id: str) -> str:
    return type_id.partition("-")[0]


def counts(kernel: Kernel, parent: str) -> dict[str, int]:
    types = (kernel.paths.parent(parent) / "mdev_supported_types").iterdir()
    return {path.name: int((path / "available_instances").read_text()) for path in types}


def group_of(kernel: Kernel, device: str) -> int:
    return int((kernel.paths.device(device) / "iommu_group").readlink().name)


@contextmanager
def refused(*codes: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at right here
        yield
    assert caught.value.errno in codes, errno.errorcode[caught.value.errno or 0]


@pytest.fixture
def events(kernel: Kernel) -> Iterator[UeventSource]:
    source = kernel.uevents()
    yield source
    source.close()


def received(source: UeventSource, *, until: tuple[str, str], about: str) -> list[Uevent]:
    """The events about a device or parent, up to one with that action and subsystem."""
    found: list[Uevent] = []
    while not (found and (found[-1].action, found[-1].subsystem) == until):
        assert select.select([source.fileno()], [], [], 10)[0], f"no {until} came after {found}"
        found += [event for event in source.receive() if about in event.devpath]
    return found


@pytest.mark.parametrize("type_id", TYPES)
def test_a_type_says_what_it_is(kernel: Kernel, type_id: str) -> None:
    name, description, count = TYPES[type_id]
    here = kernel.paths.type(parent_of(type_id), type_id)
    assert (here / "name").read_text() == f"{name}\n"
    assert (here / "device_api").read_text() == "vfio-pci\n"
    assert (here / "available_instances").read_text() == f"{count}\n"
    if description is None:
        assert not (here / "description").exists()
    else:
        assert (here / "description").read_text() == f"{description}\n"
    assert list((here / "devices").iterdir()) == []


def test_the_parents_are_no_pci_devices(kernel: Kernel) -> None:
    for name in ("mtty", "mdpy", "mbochs"):
        parent = kernel.paths.parent(name)
        assert parent.is_symlink()
        assert parent.resolve() == kernel.paths.sysfs.resolve() / f"devices/virtual/{name}/{name}"
        assert (parent / "subsystem").readlink().name == name
        assert not (parent / "driver").exists()
        assert not (parent / "numa_node").exists()
        assert not (parent / "physfn").exists()


def test_each_parent_has_its_own_types(kernel: Kernel) -> None:
    found = {type_id for parent in ("mtty", "mdpy", "mbochs") for type_id in counts(kernel, parent)}
    assert found == set(TYPES)


@pytest.mark.parametrize(
    ("type_id", "left"),
    [
        ("mbochs-large", {"mbochs-small": 48, "mbochs-medium": 12, "mbochs-large": 3}),
        ("mbochs-small", {"mbochs-small": 63, "mbochs-medium": 15, "mbochs-large": 3}),
        ("mtty-1", {"mtty-1": 23, "mtty-2": 11}),
        ("mtty-2", {"mtty-1": 22, "mtty-2": 11}),
        ("mdpy-hd", {"mdpy-vga": 3, "mdpy-xga": 3, "mdpy-hd": 3}),
    ],
)
def test_a_device_takes_room_from_all_types(
    kernel: Kernel, create: Create, type_id: str, left: dict[str, int]
) -> None:
    before = counts(kernel, parent_of(type_id))
    device = create(type_id)
    assert counts(kernel, parent_of(type_id)) == left
    kernel.write(kernel.paths.remove(device), "1")
    assert counts(kernel, parent_of(type_id)) == before


def test_a_device_is_linked_from_everywhere(kernel: Kernel, create: Create) -> None:
    device = create("mtty-2")
    paths = kernel.paths
    here = paths.device(device)
    assert here.is_symlink()
    assert here.resolve() == paths.parent("mtty").resolve() / device
    assert (here / "mdev_type").resolve() == paths.type("mtty", "mtty-2").resolve()
    assert (here / "mdev_type").readlink() == Path("../mdev_supported_types/mtty-2")
    assert (here / "subsystem").resolve() == paths.sysfs.resolve() / "bus/mdev"
    assert (here / "driver").readlink().name == "mtty"
    assert (paths.type("mtty", "mtty-2") / "devices" / device).resolve() == here.resolve()
    group = group_of(kernel, device)
    assert (here / "iommu_group").resolve() == paths.sysfs.resolve() / f"kernel/iommu_groups/{group}"
    assert [entry.name for entry in (here / "iommu_group/devices").iterdir()] == [device]
    assert paths.group(group).exists()
    assert paths.container.exists()


def test_a_driver_may_add_files_to_a_device(kernel: Kernel, create: Create) -> None:
    device = create("mbochs-medium")
    attribute = kernel.paths.device(device) / "vendor/memory"
    assert attribute.read_text() == "16 MB\n"
    with refused(errno.EACCES):
        kernel.write(attribute, "32 MB\n")


def test_nothing_of_a_removed_device_is_left(kernel: Kernel, create: Create) -> None:
    device = create("mtty-1")
    group = group_of(kernel, device)
    kernel.write(kernel.paths.remove(device), "1")
    paths = kernel.paths
    assert not os.path.lexists(paths.device(device))
    assert not (paths.parent("mtty") / device).exists()
    assert not os.path.lexists(paths.type("mtty", "mtty-1") / "devices" / device)
    assert not (paths.sysfs / f"kernel/iommu_groups/{group}").exists()
    assert not paths.group(group).exists()
    with refused(errno.ENOENT):
        kernel.open_group(group)


@pytest.mark.parametrize("written", ["{}", "{}\n", "{}x"])
def test_a_uuid_may_have_a_character_behind(kernel: Kernel, written: str) -> None:
    device = str(uuid.uuid4())
    kernel.write(kernel.paths.create("mtty", "mtty-1"), written.format(device))
    assert kernel.paths.device(device).exists()


def test_a_uuid_is_shown_in_lower_case(kernel: Kernel) -> None:
    device = str(uuid.uuid4())
    kernel.write(kernel.paths.create("mtty", "mtty-1"), device.upper())
    assert kernel.paths.device(device).exists()


@pytest.mark.parametrize(
    "written",
    [
        "x",
        "\n",
        "6d646576-0000-8000-8000-00000000000",
        "6d646576-0000-8000-8000-0000000000000\n",
        "6d646576-0000-8000-8000-00000000000g",
        "6d646576000080008000000000000000----",
        "{d646576-0000-8000-8000-00000000000}",
    ],
)
def test_what_is_no_uuid_is_invalid(kernel: Kernel, written: str) -> None:
    with refused(errno.EINVAL):
        kernel.write(kernel.paths.create("mtty", "mtty-1"), written)


@pytest.mark.parametrize("other", ["mtty-1", "mtty-2", "mdpy-hd"])
def test_a_uuid_exists_once_on_the_node(kernel: Kernel, create: Create, other: str) -> None:
    device = create("mtty-1")
    before = counts(kernel, "mtty"), counts(kernel, "mdpy")
    with refused(errno.EEXIST):
        kernel.write(kernel.paths.create(parent_of(other), other), device)
    assert (counts(kernel, "mtty"), counts(kernel, "mdpy")) == before


@pytest.mark.parametrize(
    ("earlier", "then", "code"),
    [
        (["mbochs-large"] * 4, "mbochs-small", errno.ENOSPC),
        (["mtty-2"] * 12, "mtty-1", errno.ENOSPC),
        (["mdpy-vga"] * 4, "mdpy-hd", errno.EUSERS),
    ],
)
def test_a_full_parent_refuses(
    kernel: Kernel, create: Create, earlier: list[str], then: str, code: int
) -> None:
    for type_id in earlier:
        create(type_id)
    assert set(counts(kernel, parent_of(then)).values()) == {0}
    with refused(code):
        create(then)
    assert len(list(kernel.paths.devices.iterdir())) == len(earlier)


def test_a_type_that_takes_too_much_is_refused_while_a_smaller_fits(kernel: Kernel, create: Create) -> None:
    for _ in range(11):
        create("mtty-2")
    create("mtty-1")
    assert counts(kernel, "mtty") == {"mtty-1": 1, "mtty-2": 0}
    with refused(errno.ENOSPC):
        create("mtty-2")
    create("mtty-1")


def test_there_is_no_writing_to_what_is_not_there(kernel: Kernel) -> None:
    device = str(uuid.uuid4())
    for path in (
        kernel.paths.create("mtty", "mtty-3"),
        kernel.paths.create("nosuch", "mtty-1"),
        kernel.paths.remove(device),
    ):
        with refused(errno.ENOENT):
            kernel.write(path, device)


def test_counts_can_not_be_written(kernel: Kernel) -> None:
    with refused(errno.EACCES):
        kernel.write(kernel.paths.type("mtty", "mtty-1") / "available_instances", "5")


def test_writing_nothing_does_nothing(kernel: Kernel, create: Create) -> None:
    device = create("mtty-1")
    kernel.write(kernel.paths.create("mtty", "mtty-1"), "")
    kernel.write(kernel.paths.remove(device), "")
    assert [path.name for path in kernel.paths.devices.iterdir()] == [device]


@pytest.mark.parametrize("written", ["0", "0\n", "00", "0x0"])
def test_removing_zero_does_nothing(kernel: Kernel, create: Create, written: str) -> None:
    device = create("mtty-1")
    kernel.write(kernel.paths.remove(device), written)
    assert kernel.paths.device(device).exists()


@pytest.mark.parametrize("written", ["1", "1\n", "2", "0x1", "+1", "010"])
def test_removing_takes_any_other_number(kernel: Kernel, create: Create, written: str) -> None:
    device = create("mtty-1")
    kernel.write(kernel.paths.remove(device), written)
    assert not kernel.paths.device(device).exists()


@pytest.mark.parametrize("written", ["yes", "-1", "1 ", " 1", "1\n\n", "08"])
def test_removing_takes_nothing_but_a_number(kernel: Kernel, create: Create, written: str) -> None:
    device = create("mtty-1")
    with refused(errno.EINVAL):
        kernel.write(kernel.paths.remove(device), written)
    assert kernel.paths.device(device).exists()


def test_a_group_can_be_open_once(kernel: Kernel, create: Create) -> None:
    group = group_of(kernel, create("mtty-1"))
    first = kernel.open_group(group)
    with refused(errno.EBUSY):
        kernel.open_group(group)
    os.close(first)
    os.close(kernel.open_group(group))


def test_every_device_has_a_group_of_its_own(kernel: Kernel, create: Create) -> None:
    groups = [group_of(kernel, create(type_id)) for type_id in TYPES]
    assert len(set(groups)) == len(groups)
    fds = [kernel.open_group(group) for group in groups]
    for fd in fds:
        os.close(fd)


def test_group_numbers_are_used_again_at_once(kernel: Kernel, create: Create) -> None:
    devices = [create("mtty-1") for _ in range(3)]
    group = group_of(kernel, devices[1])
    kernel.write(kernel.paths.remove(devices[1]), "1")
    assert group_of(kernel, create("mdpy-vga")) == group


def test_a_device_whose_group_we_hold_is_removed_at_once(kernel: Kernel, create: Create) -> None:
    device = create("mbochs-large")
    claim = kernel.open_group(group_of(kernel, device))
    kernel.write(kernel.paths.remove(device), "1")
    assert not os.path.lexists(kernel.paths.device(device))
    assert counts(kernel, "mbochs")["mbochs-large"] == 4
    os.close(claim)


def test_the_same_uuid_can_be_made_again_while_its_old_group_is_held(kernel: Kernel, create: Create) -> None:
    device = create("mtty-1")
    claim = kernel.open_group(group_of(kernel, device))
    kernel.write(kernel.paths.remove(device), "1")
    kernel.write(kernel.paths.create("mtty", "mtty-1"), device)
    os.close(kernel.open_group(group_of(kernel, device)))
    os.close(claim)


def test_a_create_tells_in_order(create: Create, events: UeventSource) -> None:
    device = create("mtty-1")
    about_it = received(events, until=("bind", "mdev"), about=device)
    assert [(event.action, event.subsystem) for event in about_it if event.subsystem == "mdev"] == [
        ("add", "mdev"),
        ("bind", "mdev"),
    ]
    assert about_it[0].devpath == f"/devices/virtual/mtty/mtty/{device}"


def test_a_removal_tells_in_order(kernel: Kernel, create: Create, events: UeventSource) -> None:
    device = create("mtty-1")
    kernel.write(kernel.paths.remove(device), "1")
    about_it = received(events, until=("remove", "mdev"), about=device)
    assert [event.action for event in about_it if event.subsystem == "mdev"] == [
        "add",
        "bind",
        "unbind",
        "remove",
    ]


def test_vfio_tells_of_a_group(kernel: Kernel, create: Create, events: UeventSource) -> None:
    group = group_of(kernel, create("mtty-1"))
    added = received(events, until=("add", "vfio"), about=f"/devices/virtual/vfio/{group}")
    assert added[0].properties["DEVNAME"].removeprefix("/dev/") == f"vfio/{group}"


def test_a_driver_that_refuses_lets_the_device_appear_for_a_moment(
    kernel: Kernel, create: Create, events: UeventSource
) -> None:
    for _ in range(4):
        create("mbochs-large")
    refused_device = str(uuid.uuid4())
    with refused(errno.ENOSPC):
        kernel.write(kernel.paths.create("mbochs", "mbochs-large"), refused_device)
    about_it = received(events, until=("remove", "mdev"), about=refused_device)
    assert [event.action for event in about_it] == ["add", "remove"]


def test_a_queue_begins_when_it_is_opened(kernel: Kernel, create: Create) -> None:
    earlier = create("mtty-1")
    source = kernel.uevents()
    try:
        later = create("mtty-1")
        received(source, until=("bind", "mdev"), about=later)
        kernel.write(kernel.paths.remove(earlier), "1")
        about_it = received(source, until=("remove", "mdev"), about=earlier)
        assert "add" not in {event.action for event in about_it}
    finally:
        source.close()


def test_a_vm_keeps_others_out(kernel: Kernel, create: Create) -> None:
    if not isinstance(kernel, SimulatedKernel):
        pytest.skip("on a real kernel this takes QEMU: see tests/kernel")
    device = create("mtty-1")
    with hold(kernel, device), refused(errno.EBUSY):
        kernel.open_group(group_of(kernel, device))
    os.close(kernel.open_group(group_of(kernel, device)))
