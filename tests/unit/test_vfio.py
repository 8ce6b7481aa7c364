"""The claim: nobody's device is removed, and nobody gets one that is being removed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from deviceplugin.errors import DeviceBusy, DeviceGone, HostError
from deviceplugin.host import mdev, vfio
from deviceplugin.host.kernel import LinuxKernel
from deviceplugin.host.paths import HostPaths
from deviceplugin.simulator.node.description import load
from deviceplugin.simulator.node.kernel import SimulatedKernel

UUID = "6d646576-0000-8000-8000-000000000001"
OTHER = "6d646576-0000-8000-8000-000000000002"


@pytest.fixture
def kernel(tmp_path: Path) -> SimulatedKernel:
    return SimulatedKernel.build(tmp_path / "node", load("samples"))


@pytest.fixture
def group(kernel: SimulatedKernel) -> int:
    """The group of a device that was made."""
    made = mdev.create(kernel, "mtty", "mtty-1", UUID)
    assert made.group is not None
    return made.group


def exists(kernel: SimulatedKernel, uuid: str = UUID) -> bool:
    return mdev.find(kernel.paths, uuid) is not None


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def paths(tmp_path: Path) -> HostPaths:
    """A node whose sysfs says that VFIO group 7 is the character device 1:3."""
    paths = HostPaths(tmp_path)
    paths.vfio.mkdir(parents=True)
    paths.group_number(7).parent.mkdir(parents=True)
    paths.group_number(7).write_text("1:3\n")
    return paths


@pytest.mark.parametrize("what", ["link", "file", "pipe", "directory"])
def test_what_is_no_device_proves_nothing_of_a_group_and_is_not_opened(paths: HostPaths, what: str) -> None:
    node = paths.group(7)
    match what:
        case "link":
            node.symlink_to("/dev/null")  # It leads to that very device.
        case "file":
            node.write_text("")
        case "pipe":
            os.mkfifo(node)
        case _:
            node.mkdir()
    before = open_descriptors()
    with pytest.raises(HostError, match=r"is no character device and not 1:3, .* would prove nothing"):
        LinuxKernel(paths).open_group(7)
    assert open_descriptors() == before


def test_another_device_proves_nothing_of_a_group(paths: HostPaths) -> None:
    LinuxKernel(paths)._prove_group(7, Path("/dev/null").stat())
    with pytest.raises(HostError, match=r"is the character device 1:5 and not 1:3, which sysfs names"):
        LinuxKernel(paths)._prove_group(7, Path("/dev/zero").stat())


def test_without_a_number_in_sysfs_nothing_is_proved(paths: HostPaths) -> None:
    paths.group_number(7).unlink()
    with pytest.raises(HostError, match=r"can't be proved to be the VFIO group 7"):
        LinuxKernel(paths)._prove_group(7, Path("/dev/null").stat())


@pytest.mark.usefixtures("group")
def test_a_device_whose_group_is_something_else_is_left_alone(
    kernel: SimulatedKernel, paths: HostPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths.group(7).write_text("")
    monkeypatch.setattr(kernel, "open_group", lambda _: LinuxKernel(paths).open_group(7))
    with pytest.raises(HostError, match="would prove nothing"):
        vfio.remove_unused(kernel, UUID)
    with pytest.raises(HostError, match="would prove nothing"):
        vfio.is_held(kernel, UUID)
    assert exists(kernel)


def test_a_device_that_nobody_uses_is_removed(kernel: SimulatedKernel, group: int) -> None:
    assert not vfio.is_held(kernel, UUID)
    assert vfio.remove_unused(kernel, UUID)
    assert not exists(kernel)
    assert not kernel.paths.group(group).exists()


def test_a_device_in_use_is_left_alone(kernel: SimulatedKernel, group: int) -> None:
    fd = kernel.open_group(group)
    try:
        assert vfio.is_held(kernel, UUID)
        with pytest.raises(DeviceBusy, match=f"its VFIO group {group} is open"):
            vfio.remove_unused(kernel, UUID)
        assert exists(kernel)
    finally:
        os.close(fd)
    assert vfio.remove_unused(kernel, UUID)


def test_while_a_device_is_claimed_nobody_else_gets_it(kernel: SimulatedKernel, group: int) -> None:
    with vfio.claim(kernel, UUID):
        with pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
            kernel.open_group(group)
        with pytest.raises(DeviceBusy):
            vfio.remove_unused(kernel, UUID)
    os.close(kernel.open_group(group))


def test_a_device_that_is_gone_is_neither_held_nor_removed(kernel: SimulatedKernel) -> None:
    assert not vfio.is_held(kernel, UUID)
    assert not vfio.remove_unused(kernel, UUID)
    with pytest.raises(DeviceGone, match=f"there is no device {UUID}"), vfio.claim(kernel, UUID):
        pass


def test_a_removal_that_nobody_waits_for_any_more_is_given_up(kernel: SimulatedKernel, group: int) -> None:
    with pytest.raises(HostError, match="was given up"):
        vfio.remove_unused(kernel, UUID, still_wanted=lambda: False)
    assert exists(kernel)
    os.close(kernel.open_group(group))


@pytest.mark.usefixtures("group")
def test_a_removal_that_the_driver_did_by_itself_is_a_success(kernel: SimulatedKernel) -> None:
    kernel.fault("fail-remove", errno=errno.ENODEV)
    assert vfio.remove_unused(kernel, UUID)
    assert not exists(kernel)


@pytest.mark.usefixtures("group")
def test_a_removal_that_the_driver_refuses_is_told(
    kernel: SimulatedKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, _text: str) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(path))

    monkeypatch.setattr(kernel, "write", refuse)
    with pytest.raises(HostError, match=f"the device {UUID} could not be removed: .*EAGAIN|Resource temp"):
        vfio.remove_unused(kernel, UUID)
    assert exists(kernel)
    assert not vfio.is_held(kernel, UUID)


@pytest.mark.parametrize("again", [False, True], ids=["gone", "made anew"])
def test_a_group_that_was_given_to_another_device_meanwhile_proves_nothing(
    kernel: SimulatedKernel, group: int, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    # Between the look at the device and the opening of its group, the number goes to another device; the
    # first is gone then, or is there again and has another one.
    opened = kernel.open_group
    written: list[Path] = []

    def too_late(number: int) -> int:
        monkeypatch.undo()
        kernel.write(kernel.paths.remove(UUID), "1")
        assert mdev.create(kernel, "mtty", "mtty-1", OTHER).group == group
        if again:
            assert mdev.create(kernel, "mtty", "mtty-1", UUID).group != group
        monkeypatch.setattr(kernel, "write", lambda path, _text: written.append(path))
        return opened(number)

    monkeypatch.setattr(kernel, "open_group", too_late)
    assert not vfio.remove_unused(kernel, UUID)
    assert written == []
    assert exists(kernel, OTHER)
    assert not vfio.is_held(kernel, OTHER)


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOENT, errno.ENODEV, errno.EMFILE])
def test_a_group_that_can_not_be_opened_proves_nothing(
    kernel: SimulatedKernel, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(_group: int) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(kernel, "open_group", refuse)
    for attempt in (vfio.remove_unused, vfio.is_held):
        with pytest.raises(HostError, match="can't be opened") as caught:
            attempt(kernel, UUID)
        assert not isinstance(caught.value, (DeviceBusy, DeviceGone))
    assert exists(kernel)


def made_by_hand(kernel: SimulatedKernel, *, character_device: bool) -> Path:
    """A device without a group."""
    path = kernel.paths.sysfs / "devices/virtual/mtty/mtty" / UUID
    path.mkdir()
    (path / "mdev_type").symlink_to("../mdev_supported_types/mtty-1")
    if character_device:
        (path / "vfio-dev/vfio0").mkdir(parents=True)
    kernel.paths.device(UUID).symlink_to(path)
    return path


def test_a_device_that_only_has_a_character_device_is_left_alone(kernel: SimulatedKernel) -> None:
    made_by_hand(kernel, character_device=True)
    for attempt in (vfio.remove_unused, vfio.is_held):
        with pytest.raises(HostError, match="can't be proved that nobody uses it"):
            attempt(kernel, UUID)


def test_a_device_that_no_driver_bound_can_be_removed(
    kernel: SimulatedKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_by_hand(kernel, character_device=False)
    written: list[tuple[Path, str]] = []
    monkeypatch.setattr(kernel, "write", lambda path, text: written.append((path, text)))
    assert vfio.remove_unused(kernel, UUID)
    assert written == [(kernel.paths.remove(UUID), "1")]


def test_no_claim_leaves_anything_open(kernel: SimulatedKernel, group: int) -> None:
    before = open_descriptors()
    holder = kernel.open_group(group)
    for _ in range(5):
        assert vfio.is_held(kernel, UUID)
    os.close(holder)
    for _ in range(5):
        assert not vfio.is_held(kernel, UUID)
    vfio.remove_unused(kernel, UUID)
    assert open_descriptors() == before


@pytest.mark.usefixtures("group")
def test_a_claim_ends_when_its_block_fails(kernel: SimulatedKernel) -> None:
    with pytest.raises(KeyError), vfio.claim(kernel, UUID):
        raise KeyError
    assert not vfio.is_held(kernel, UUID)


def test_what_is_no_group_of_a_simulated_node_proves_nothing(kernel: SimulatedKernel, group: int) -> None:
    kernel.paths.group(group).unlink()
    os.mkfifo(kernel.paths.group(group))
    with pytest.raises(HostError, match="not what this node has for a group"):
        vfio.remove_unused(kernel, UUID)
    assert exists(kernel)
