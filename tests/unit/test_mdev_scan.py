"""Reading mediated devices from sysfs: what is there, and what can't be understood."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deviceplugin.errors import DeviceGone, HostError, in_words
from deviceplugin.host import mdev
from deviceplugin.host.paths import HostPaths
from deviceplugin.inventory.snapshot import Device, PciId, Snapshot
from deviceplugin.simulator.node.description import load
from deviceplugin.simulator.node.kernel import SimulatedKernel

UUID = "6d646576-0000-8000-8000-000000000001"


@pytest.fixture
def samples(tmp_path: Path) -> SimulatedKernel:
    return SimulatedKernel.build(tmp_path / "samples", load("samples"))


class Sysfs:
    """A tree made by hand, with whatever a driver might put in it."""

    def __init__(self, root: Path) -> None:
        self.paths = HostPaths(root)
        self.paths.parents.mkdir(parents=True)
        self.paths.devices.mkdir(parents=True)

    def parent(self, address: str = "card") -> Path:
        path = self.paths.sysfs / "devices" / address
        (path / "mdev_supported_types").mkdir(parents=True)
        (self.paths.parents / address).symlink_to(path)
        return path

    def type(
        self, parent: Path, type_id: str = "t-1", *, count: bytes | None = b"4\n", **files: bytes | None
    ) -> Path:
        path = parent / "mdev_supported_types" / type_id
        path.mkdir()
        for name, content in {"available_instances": count, **files}.items():
            if content is not None:
                (path / name).write_bytes(content)
        return path

    def device(self, parent: Path, device: str = UUID, *, kind: str = "t-1", group: str | None = "7") -> Path:
        path = parent / device
        path.mkdir()
        (path / "mdev_type").symlink_to(f"../mdev_supported_types/{kind}")
        if group is not None:
            (path / "iommu_group").symlink_to(f"../../../kernel/iommu_groups/{group}")
        (self.paths.devices / device).symlink_to(path)
        return path

    def scan(self) -> mdev.Scan:
        return mdev.scan(self.paths)

    def types(self) -> dict[str, int]:
        (parent,) = self.scan().snapshot.parents
        return {entry.id: entry.available for entry in parent.types}


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    return Sysfs(tmp_path)


# What is there.


def test_the_sample_drivers_are_seen_as_they_are(samples: SimulatedKernel) -> None:
    scan = mdev.scan(samples.paths)
    assert scan.faults == ()
    by_address = scan.snapshot.by_address
    assert list(by_address) == ["mbochs", "mdpy", "mtty"]
    mtty = by_address["mtty"]
    assert (mtty.card, mtty.numa_node, mtty.pci, mtty.devices) == ("mtty", None, None, ())
    assert [(entry.id, entry.name, entry.api, entry.available) for entry in mtty.types] == [
        ("mtty-1", "Single port serial", "vfio-pci", 24),
        ("mtty-2", "Dual port serial", "vfio-pci", 12),
    ]


def test_a_virtual_function_belongs_to_the_card_of_its_physical_one(tmp_path: Path) -> None:
    kernel = SimulatedKernel.build(tmp_path / "node", load("nvidia-a2"))
    snapshot = mdev.scan(kernel.paths).snapshot
    assert list(snapshot.cards) == ["0000:41:00.0"]
    assert len(snapshot.parents) == 16
    vf = snapshot.parents[0]
    assert (vf.driver, vf.numa_node, vf.pci) == ("nvidia", 0, PciId(0x10DE, 0x25B6))


@pytest.mark.parametrize("name", ["big", "intel-gvtg", "nvidia-a2", "nvidia-t4", "s390", "samples"])
def test_no_node_of_the_package_has_anything_to_complain_of(tmp_path: Path, name: str) -> None:
    kernel = SimulatedKernel.build(tmp_path / "node", load(name))
    scan = mdev.scan(kernel.paths)
    assert scan.faults == ()
    assert len(scan.snapshot.parents) == len(kernel.node.card_of)


def test_a_device_that_was_made_is_found_with_its_group(samples: SimulatedKernel) -> None:
    made = mdev.create(samples, "mtty", "mtty-2", UUID)
    assert made == Device(UUID, "mtty-2", "mtty", made.group)
    assert made.group is not None
    assert samples.paths.group(made.group).exists()
    assert mdev.find(samples.paths, UUID) == made
    assert mdev.scan(samples.paths).snapshot.devices == {UUID: made}


def test_foreign_devices_are_seen_like_our_own(samples: SimulatedKernel) -> None:
    foreign = str(uuid.uuid4())
    samples.write(samples.paths.create("mdpy", "mdpy-hd"), foreign)
    assert list(mdev.scan(samples.paths).snapshot.devices) == [foreign]


def test_a_node_without_the_mdev_core_has_no_parents(tmp_path: Path) -> None:
    assert mdev.scan(HostPaths(tmp_path)) == mdev.Scan(Snapshot(), ())


def test_a_sysfs_that_can_not_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "sys/class").mkdir(parents=True)
    (tmp_path / "sys/class/mdev_bus").touch()
    with pytest.raises(HostError, match=r"sys/class/mdev_bus can't be read: ENOTDIR"):
        mdev.scan(HostPaths(tmp_path))


def test_a_parent_that_left_during_the_scan_is_no_fault(sysfs: Sysfs) -> None:
    sysfs.parent("stays")
    assert mdev.scan(sysfs.paths, ["left", "stays"]).faults == ()


def test_a_look_at_some_parents_reads_no_others(sysfs: Sysfs) -> None:
    for address in ("a", "b"):
        sysfs.type(sysfs.parent(address))
    assert [parent.address for parent in mdev.scan(sysfs.paths, ["b"]).snapshot.parents] == ["b"]


def test_a_second_look_takes_texts_from_the_first_and_counts_from_the_node(sysfs: Sysfs) -> None:
    path = sysfs.type(sysfs.parent(), name=b"One\n")
    first = sysfs.scan().snapshot
    (path / "name").write_text("changed")
    (path / "available_instances").write_text("3\n")
    (parent,) = mdev.scan(sysfs.paths, ["card"], known=first).snapshot.parents
    assert [(entry.name, entry.available) for entry in parent.types] == [("One", 3)]


def test_a_second_look_finds_types_and_devices_that_came_and_went(sysfs: Sysfs) -> None:
    parent = sysfs.parent()
    gone = sysfs.type(parent, "t-1")
    first = sysfs.scan().snapshot
    shutil.rmtree(gone)
    sysfs.type(parent, "t-2", name=b"Two")
    sysfs.device(parent, kind="t-2")
    (after,) = mdev.scan(sysfs.paths, ["card"], known=first).snapshot.parents
    assert [(entry.id, entry.name) for entry in after.types] == [("t-2", "Two")]
    assert [device.uuid for device in after.devices] == [UUID]


# What can't be understood.


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"many\n", "a count was expected"),
        (b"-1\n", "a count was expected"),
        (b"1.5\n", "a count was expected"),
        (b"1 2\n", "a count was expected"),
        (b"0x10\n", "a count was expected"),
        (b"1_000\n", "a count was expected"),
        (b"\xff\xfe\n", "a count was expected"),
        ("\u0663".encode(), "a count was expected"),
        (b"9" * 5000, "a count was expected"),
        (b"\x00", "a count was expected"),
        (None, "ENOENT"),
    ],
)
def test_a_type_whose_count_makes_no_sense_is_left_out_alone(
    sysfs: Sysfs, content: bytes | None, reason: str
) -> None:
    parent = sysfs.parent()
    sysfs.type(parent, "bad", count=content)
    sysfs.type(parent, "good")
    assert sysfs.types() == {"good": 4}
    (fault,) = sysfs.scan().faults
    assert fault.path.endswith("/bad/available_instances")
    assert fault.reason.startswith(reason)


@pytest.mark.parametrize(("content", "count"), [(b"0", 0), (b"  7 \n", 7), (b"65536\n", 65536), (b"007", 7)])
def test_a_count_may_be_written_in_any_plain_way(sysfs: Sysfs, content: bytes, count: int) -> None:
    sysfs.type(sysfs.parent(), count=content)
    assert sysfs.types() == {"t-1": count}


def test_a_type_without_texts_is_a_type(sysfs: Sysfs) -> None:
    sysfs.type(sysfs.parent())
    scan = sysfs.scan()
    (entry,) = scan.snapshot.parents[0].types
    assert (entry.name, entry.api, entry.description, scan.faults) == ("", "", "", ())


def test_a_text_that_is_not_utf_8_is_taken_as_missing_and_told(sysfs: Sysfs) -> None:
    sysfs.type(sysfs.parent(), name=b"GRID \xff", description=b"fine\n")
    scan = sysfs.scan()
    (entry,) = scan.snapshot.parents[0].types
    assert (entry.name, entry.description) == ("", "fine")
    assert [fault.reason for fault in scan.faults] == ["is not UTF-8 and is taken as missing"]


def test_a_file_that_is_a_directory_is_told(sysfs: Sysfs) -> None:
    path = sysfs.type(sysfs.parent())
    (path / "name").mkdir()
    scan = sysfs.scan()
    assert [entry.name for entry in scan.snapshot.parents[0].types] == [""]
    assert [fault.reason.split()[0] for fault in scan.faults] == ["EISDIR"]


def test_a_parent_without_types_takes_no_other_along(sysfs: Sysfs) -> None:
    sysfs.type(sysfs.parent("good"))
    (sysfs.paths.sysfs / "devices/bad").mkdir()
    (sysfs.paths.parents / "bad").symlink_to(sysfs.paths.sysfs / "devices/bad")
    scan = sysfs.scan()
    assert [parent.address for parent in scan.snapshot.parents] == ["good"]
    assert [str(fault) for fault in scan.faults] == [
        f"{sysfs.paths.parents}/bad: ENOENT (No such file or directory)"
    ]


def test_a_type_whose_name_can_not_be_printed_is_left_out(sysfs: Sysfs) -> None:
    parent = sysfs.parent()
    sysfs.type(parent, "good")
    sysfs.type(parent, os.fsdecode(b"bad\xff"))
    assert sysfs.types() == {"good": 4}
    (fault,) = sysfs.scan().faults
    str(fault).encode()


def test_a_parent_whose_name_can_not_be_printed_is_left_out(sysfs: Sysfs) -> None:
    sysfs.type(sysfs.parent("good"))
    sysfs.type(sysfs.parent(os.fsdecode(b"bad\xff")))
    scan = sysfs.scan()
    assert [parent.address for parent in scan.snapshot.parents] == ["good"]
    assert len(scan.faults) == 1
    str(scan.faults[0]).encode()


@pytest.mark.parametrize(
    ("content", "node"),
    [(b"-1\n", None), (b"0\n", 0), (b"3", 3), (b"", None), (b"x", None), (b"99999", None)],
)
def test_a_numa_node_that_is_none_is_none(sysfs: Sysfs, content: bytes, node: int | None) -> None:
    (sysfs.parent() / "numa_node").write_bytes(content)
    assert sysfs.scan().snapshot.parents[0].numa_node == node


def test_a_half_pci_identity_is_none(sysfs: Sysfs) -> None:
    (sysfs.parent() / "vendor").write_text("0x10de\n")
    assert sysfs.scan().snapshot.parents[0].pci is None


def test_a_device_on_its_way_is_not_there_yet(sysfs: Sysfs) -> None:
    (sysfs.parent() / UUID).mkdir()
    assert sysfs.scan().snapshot.devices == {}


def test_a_parent_that_is_read_again_has_each_of_its_faults_told_once(sysfs: Sysfs) -> None:
    parent = sysfs.parent()
    (parent / UUID).mkdir()
    sysfs.type(parent, "t-1", count=b"many", name=b"\xff")
    sysfs.type(parent, "t-2", name=b"\xff")
    sysfs.type(sysfs.parent("other"), "t-1", count=b"many")
    assert [fault.path.removeprefix(f"{sysfs.paths.sysfs}/devices/") for fault in sysfs.scan().faults] == [
        "card/mdev_supported_types/t-1/available_instances",
        "card/mdev_supported_types/t-2/name",
        "other/mdev_supported_types/t-1/available_instances",
    ]


def test_what_is_right_at_a_second_look_at_a_parent_is_no_fault(
    sysfs: Sysfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = sysfs.parent()
    (parent / UUID).mkdir()
    path = sysfs.type(parent, count=b"")
    monkeypatch.setattr(time, "sleep", lambda _: (path / "available_instances").write_text("2\n"))
    assert sysfs.scan().faults == ()
    assert sysfs.types() == {"t-1": 2}


@pytest.mark.parametrize("group", ["noise", "", "-1", "\u0663", None])
def test_a_device_whose_group_is_unknown_has_none(sysfs: Sysfs, group: str | None) -> None:
    sysfs.device(sysfs.parent(), group=group)
    assert sysfs.scan().snapshot.devices[UUID].group is None


def test_what_only_looks_like_a_device_is_none(sysfs: Sysfs) -> None:
    parent = sysfs.parent()
    (parent / UUID).write_text("a file")
    (parent / UUID.upper()).mkdir()
    assert sysfs.scan().snapshot.devices == {}


def test_a_device_that_is_not_there_is_not_found(sysfs: Sysfs) -> None:
    assert mdev.find(sysfs.paths, UUID) is None


def test_a_device_that_can_not_be_looked_up_is_an_error_and_not_absent(sysfs: Sysfs) -> None:
    path = sysfs.device(sysfs.parent())
    (path / "mdev_type").unlink()
    (path / "mdev_type").write_text("not a link")
    with pytest.raises(HostError, match="can't be looked up: EINVAL"):
        mdev.find(sysfs.paths, UUID)


FILES = (
    "available_instances", "name", "device_api", "description", "mdev_supported_types", "t-1", "numa_node",
    "vendor", "device", "driver", "physfn", "mdev_type", "iommu_group", "card", "..", UUID,
)  # fmt: skip
names = st.sampled_from(FILES) | st.binary(min_size=1, max_size=6).map(os.fsdecode).filter(
    lambda name: "/" not in name and "\0" not in name and name not in {".", ".."}
)
contents = st.binary(max_size=30).map(lambda raw: ("file", raw)) | st.lists(
    names, min_size=1, max_size=4
).map(lambda way: ("link", "/".join(way)))
trees = st.recursive(
    st.dictionaries(names, contents, max_size=4),
    lambda inner: st.dictionaries(names, contents | inner, max_size=5),
    max_leaves=15,
)


def plant(directory: Path, tree: dict[str, object]) -> None:
    directory.mkdir(exist_ok=True)
    for name, entry in tree.items():
        path = directory / name
        if name == ".." or os.path.lexists(path):
            continue
        if isinstance(entry, dict):
            plant(path, entry)
        elif isinstance(entry, tuple) and entry[0] == "file":
            path.write_bytes(entry[1])
        elif isinstance(entry, tuple):
            path.symlink_to(entry[1])


@given(trees, trees, trees)
@settings(max_examples=300, deadline=None)
def test_no_tree_whatever_stops_a_scan(
    parents: dict[str, object], card: dict[str, object], types: dict[str, object]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        sysfs = Sysfs(Path(directory))
        plant(sysfs.paths.parents, parents)
        if not os.path.lexists(sysfs.paths.parents / "card"):
            plant(sysfs.parent(), card)
            target = sysfs.paths.sysfs / "devices/card/mdev_supported_types"
            plant(target, types)
        first = sysfs.scan()
        again = mdev.scan(sysfs.paths, known=first.snapshot)
        assert again.snapshot == first.snapshot
        for parent in first.snapshot.parents:
            assert all(entry.available >= 0 for entry in parent.types)
        # Whatever is not a parent in full is told.
        told = {fault.path for fault in first.faults}
        seen = set(first.snapshot.by_address)
        for name in [path.name for path in sysfs.paths.parents.iterdir()]:
            assert name in seen or any(name in path or ascii(name)[1:-1] in path for path in told)


@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=40))
@settings(max_examples=300, deadline=None)
def test_a_type_is_either_offered_or_told(count: bytes, name: bytes, description: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        sysfs = Sysfs(Path(directory))
        sysfs.type(sysfs.parent(), count=count, name=name, description=description)
        scan = sysfs.scan()
        understood = count.strip().isdigit() and len(count.strip()) <= 20
        assert len(scan.snapshot.parents[0].types) == understood
        assert understood or any(fault.path.endswith("available_instances") for fault in scan.faults)


# Making.


@pytest.mark.parametrize(
    ("parent", "type_id", "device", "code"),
    [
        ("mtty", "mtty-1", "not a uuid", "EINVAL"),
        ("mtty", "mtty-9", UUID, "ENOENT"),
        ("absent", "mtty-1", UUID, "ENOENT"),
    ],
)
def test_a_refusal_names_the_parent_and_the_errno(
    samples: SimulatedKernel, parent: str, type_id: str, device: str, code: str
) -> None:
    with pytest.raises(HostError, match=f"^{parent}: {code} ") as caught:
        mdev.create(samples, parent, type_id, device)
    assert isinstance(caught.value.__cause__, OSError)
    assert "\n" not in str(caught.value)


def test_a_uuid_that_exists_is_told_from_a_full_card(samples: SimulatedKernel) -> None:
    mdev.create(samples, "mtty", "mtty-1", UUID)
    with pytest.raises(HostError) as caught:
        mdev.create(samples, "mtty", "mtty-1", UUID)
    assert isinstance(caught.value.__cause__, FileExistsError)
    for _ in range(4):
        mdev.create(samples, "mdpy", "mdpy-vga", str(uuid.uuid4()))
    with pytest.raises(HostError, match=r"^mdpy: EUSERS "):
        mdev.create(samples, "mdpy", "mdpy-vga", str(uuid.uuid4()))


def test_a_device_that_vanished_at_once_is_gone(
    samples: SimulatedKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "write", lambda _path, _text: None)
    with pytest.raises(DeviceGone, match="vanished at once"):
        mdev.create(samples, "mtty", "mtty-1", UUID)


def test_an_attribute_is_written_with_the_newline_that_drivers_count_on(tmp_path: Path) -> None:
    kernel = SimulatedKernel.build(tmp_path / "node", load("nvidia-t4"))
    device = mdev.create(kernel, "0000:3b:00.0", "nvidia-230", UUID)
    mdev.write_attribute(kernel, device.uuid, "nvidia/vgpu_params", "frame_rate_limiter=0")
    assert (kernel.paths.device(UUID) / "nvidia/vgpu_params").read_text() == "frame_rate_limiter=0\n"


@pytest.mark.parametrize(
    "attribute",
    ["../mtty-1", "/etc/passwd", "..", ".", "", "mdev_type/create", "driver/unbind", "subsystem/uevent"],
)
def test_an_attribute_outside_the_device_is_never_written(
    samples: SimulatedKernel, monkeypatch: pytest.MonkeyPatch, attribute: str
) -> None:
    mdev.create(samples, "mtty", "mtty-1", UUID)
    own = samples.paths.device(UUID).resolve()

    def refuse(path: Path, _text: str) -> None:
        assert own in path.parents, f"{path} is written, whatever the kernel says to it"
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))

    monkeypatch.setattr(samples, "write", refuse)
    with pytest.raises(HostError):
        mdev.write_attribute(samples, UUID, attribute, "1")


def test_an_attribute_that_is_not_there_is_told(samples: SimulatedKernel) -> None:
    mdev.create(samples, "mtty", "mtty-1", UUID)
    with pytest.raises(HostError, match=r"'nvidia/vgpu_params' refused 'x=1': ENOENT"):
        mdev.write_attribute(samples, UUID, "nvidia/vgpu_params", "x=1")


def test_a_count_that_goes_odd_takes_only_that_type_along(samples: SimulatedKernel) -> None:
    samples.fault("odd-count", parent="mtty", type="mtty-1", content=b"\xff")
    scan = mdev.scan(samples.paths)
    assert [entry.id for entry in scan.snapshot.by_address["mtty"].types] == ["mtty-2"]
    assert len(scan.snapshot.by_address["mdpy"].types) == 3
    assert len(scan.faults) == 1
    samples.clear_faults()
    assert mdev.scan(samples.paths).faults == ()


def test_errors_are_told_by_name_and_in_the_words_they_have() -> None:
    assert in_words(OSError("torn")) == "torn"
    assert in_words(OSError()) == "unknown error"
    assert in_words(OSError(errno.EUSERS, "x")) == "EUSERS (x)"
    assert in_words(OSError(-2, "Name or service not known")) == "Name or service not known"
    assert in_words(errno.EUSERS) == f"EUSERS ({os.strerror(errno.EUSERS)})"


def test_a_device_that_goes_while_its_link_is_followed_is_not_there(
    sysfs: Sysfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanished(_path: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(os.path, "realpath", vanished)
    assert mdev.find(sysfs.paths, UUID) is None


# Counts and devices of one moment.


class Amid:
    """Something that happens on the node while a count is being read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *happens: Callable[[], None]) -> None:
        self._read = mdev._read
        self._happens = list(happens)
        monkeypatch.setattr(mdev, "_read", self)
        monkeypatch.setattr(time, "sleep", lambda _: None)

    def __call__(self, path: str) -> bytes:
        content = self._read(path)
        if path.endswith("available_instances") and self._happens:
            self._happens.pop(0)()
        return content


def total(sysfs: Sysfs) -> int:
    """How many devices of the type a look shows: those there are, and those that could be made."""
    (parent,) = mdev.scan(sysfs.paths).snapshot.parents
    return len(parent.devices) + parent.types[0].available


def test_a_device_that_is_finished_while_its_count_is_read_is_not_counted_twice(
    sysfs: Sysfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = sysfs.parent()
    kind = sysfs.type(parent, count=b"4\n")
    (parent / UUID).mkdir()  # The kernel shows a directory before the driver counts the device.

    def finish() -> None:
        (parent / UUID).rmdir()
        (kind / "available_instances").write_bytes(b"3\n")
        sysfs.device(parent)

    Amid(monkeypatch, finish)
    assert total(sysfs) == 4


def test_devices_that_come_and_go_all_the_time_are_never_counted_twice(
    sysfs: Sysfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = sysfs.parent()
    kind = sysfs.type(parent, count=b"4\n")

    def come() -> None:
        sysfs.device(parent)
        (kind / "available_instances").write_bytes(b"3\n")

    def go() -> None:
        shutil.rmtree(parent / UUID)
        (sysfs.paths.devices / UUID).unlink()
        (kind / "available_instances").write_bytes(b"4\n")

    for first, second in ((come, go), (go, come)):
        with monkeypatch.context() as patch:
            Amid(patch, *[first, second] * 10)
            assert total(sysfs) <= 4
        if second is go:
            come()


def test_a_device_that_leaves_a_function_while_the_next_is_read_is_not_counted_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = SimulatedKernel.build(tmp_path / "node", load("nvidia-a2"))
    addresses = sorted(mdev.scan(kernel.paths).snapshot.by_address)
    mdev.create(kernel, addresses[0], "nvidia-748", UUID)  # It takes the whole card.
    last = f"/{addresses[1]}/"
    real = mdev._read
    left: list[str] = []

    def read(path: str) -> bytes:
        if last in f"{path}/" and not left:
            left.append(path)
            kernel.write(kernel.paths.remove(UUID), "1")
        return real(path)

    monkeypatch.setattr(mdev, "_read", read)
    first, second, *_ = mdev.scan(kernel.paths, addresses[:2]).snapshot.parents
    assert left
    entry = second.type("nvidia-748")
    assert entry is not None
    assert (entry.available, first.devices) == (1, ())


# Functions of one card.


def test_what_a_type_says_of_itself_is_read_of_one_function_of_a_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = SimulatedKernel.build(tmp_path / "node", load("nvidia-a2"))
    read: list[str] = []
    real = mdev._read

    def noting(path: str) -> bytes:
        read.append(path.rpartition("/")[2])
        return real(path)

    monkeypatch.setattr(mdev, "_read", noting)
    found = mdev.scan(kernel.paths).snapshot
    assert (read.count("available_instances"), read.count("description")) == (16 * 15, 15)
    assert {parent.types[0].description for parent in found.parents} == {
        found.parents[0].types[0].description
    }
    assert found.parents[0].types[0].description
