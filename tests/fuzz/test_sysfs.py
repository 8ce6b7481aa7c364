"""Whatever a driver, or somebody with a hand in sysfs, shows: the rest of the node is read as it is, and
nothing is written but inside sysfs."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deviceplugin.errors import HostError
from deviceplugin.handover import hand_over
from deviceplugin.host import mdev, vfio
from deviceplugin.host.kernel import LinuxKernel
from deviceplugin.host.paths import HostPaths
from deviceplugin.inventory.capacity import Capacity
from deviceplugin.inventory.offer import offer
from deviceplugin.inventory.resources import Discovery
from deviceplugin.inventory.snapshot import Snapshot
from deviceplugin.kubelet.translation import granted, offered
from tests.fuzz.examples import NASTY, fuzzed, texts

UUID = str(uuid.UUID(int=7))
OUTSIDE = "untouched"

names = st.one_of(
    st.sampled_from(["nvidia-1", "mdev_supported_types", "physfn", "driver", UUID, "mdev_type"]),
    st.sampled_from([os.fsencode(text) for text in NASTY if "\ud800" not in text]).map(os.fsdecode),
    st.binary(min_size=1, max_size=20).map(os.fsdecode),
).filter(
    lambda name: name not in {"", ".", ".."} and "/" not in name and "\0" not in name and len(name) < 200
)
contents = st.one_of(
    st.sampled_from([b"1\n", b"", b"-1\n", b"9" * 4000, b"0x10\n", b"1 2\n", b"\xff\xfe", b"1_000", b"\n\n"]),
    st.sampled_from(
        [b"num_heads=4, max_instance=4\n", b"max_instance=99999999999999999999999, max_instance=x"]
    ),
    st.binary(max_size=60),
    texts.map(lambda text: text.encode("utf-8", "surrogatepass")),
)
targets = st.one_of(
    st.sampled_from(
        ["..", ".", "/", "../../nowhere", "itself", "/etc/passwd", "../../../../outside", "x" * 200]
    ),
    names,
)
things: st.SearchStrategy[object] = st.one_of(
    contents,
    targets.map(lambda target: ("link", target)),
    st.just("pipe"),
    st.dictionaries(names, contents, max_size=3),
)
kinds = st.dictionaries(
    st.sampled_from(["available_instances", "name", "device_api", "description", "create"]) | names,
    things,
    max_size=5,
)
parents = st.fixed_dictionaries(
    {},
    optional={
        "mdev_supported_types": things | st.dictionaries(names, things | kinds, max_size=3),
        "numa_node": things,
        "vendor": things,
        "device": things,
        "physfn": things,
        "driver": things,
        UUID: things
        | st.dictionaries(
            st.sampled_from(["mdev_type", "iommu_group", "remove", "vfio-dev"]), things, max_size=4
        ),
    },
)
trees = st.dictionaries(names, things | parents, max_size=3)


@pytest.fixture
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Callable[[object], HostPaths]:
    home = tmp_path_factory.mktemp("fuzz")

    def build(tree: object) -> HostPaths:
        shutil.rmtree(home)
        root = home / "node"
        make(root / "sys/class/mdev_bus/sound/mdev_supported_types/fine", {"available_instances": b"3\n"})
        make(root / "sys/class/mdev_bus", tree)
        make(root / "sys/bus/mdev/devices", {})
        make(home / "outside", {"mdev_supported_types": {"nvidia-1": dict.fromkeys(FILES, OUTSIDE.encode())}})
        make(home / "outside", dict.fromkeys(("remove", "attribute"), OUTSIDE.encode()))
        return HostPaths(root)

    return build


FILES = ("available_instances", "create", "name")


def make(place: Path, thing: object) -> None:
    """Put something there, unless the file system does not let us."""
    with contextlib.suppress(OSError):
        match thing:
            case dict():
                place.mkdir(parents=True, exist_ok=True)
                for name, inner in thing.items():
                    make(place / name, inner)
            case bytes():
                place.write_bytes(thing)
            case ("link", str(target)):
                place.symlink_to(target)
            case _:
                os.mkfifo(place)


def every_text(snapshot: Snapshot) -> Iterator[str]:
    for parent in snapshot.parents:
        yield from (parent.address, parent.card, parent.driver)
        for kind in parent.types:
            yield from (kind.id, kind.name, kind.api, kind.description)
        for device in parent.devices:
            yield from (device.uuid, device.type, device.parent)


def look(paths: HostPaths) -> Snapshot:
    """What is seen; whatever else is there, the sound parent is seen as it is."""
    scan = mdev.scan(paths)
    sound = scan.snapshot.by_address["sound"]
    assert [(kind.id, kind.available) for kind in sound.types] == [("fine", 3)]
    for text in every_text(scan.snapshot):
        text.encode()
    for fault in scan.faults:
        str(fault).encode("utf-8", "surrogateescape")
    assert "sound" in mdev.cards(paths)
    return scan.snapshot


@fuzzed
@given(tree=trees)
@example(tree={"odd": ("link", "../../../../outside")})
@example(tree={"odd": {"mdev_supported_types": {"t": {"available_instances": "pipe"}}}})
@example(tree={"odd": {"mdev_supported_types": {}, "driver": ("link", "\udcff"), "physfn": ("link", "a\n")}})
@example(tree={"odd": {"mdev_supported_types": {}, UUID: {"mdev_type": ("link", "\udcff\n")}}})
@example(
    tree={
        "odd": {
            "mdev_supported_types": {},
            UUID: {"mdev_type": ("link", "t"), "iommu_group": ("link", "9" * 200)},
        }
    }
)
def test_whatever_a_parent_is_like(fresh: Callable[[object], HostPaths], tree: object) -> None:
    snapshot = look(fresh(tree))
    resources, _ = Discovery().discover(snapshot)
    for resource in resources:
        offered(offer(Capacity(snapshot), resource, node_name="n"))
    for device in snapshot.devices.values():
        granted(hand_over(HostPaths(), "vfio.dev/a", [device]))


@fuzzed
@given(tree=trees, attribute=texts, device=things | kinds)
@example(
    tree={"odd": ("link", "../../../../outside")}, attribute="../x", device=("link", "../../../../../outside")
)
@example(tree={}, attribute="attribute", device=("link", "../../../../../outside"))
def test_nothing_is_written_out_of_sysfs(
    fresh: Callable[[object], HostPaths], tree: object, attribute: str, device: object
) -> None:
    paths = fresh(tree)
    make(paths.devices / UUID, device)
    kernel = LinuxKernel(paths)
    for parent in look(paths).parents:
        for kind in parent.types:
            with contextlib.suppress(HostError):
                mdev.create(kernel, parent.address, kind.id, UUID)
    with contextlib.suppress(HostError):
        mdev.write_attribute(kernel, UUID, attribute, "x")
    with contextlib.suppress(HostError):
        vfio.remove_unused(kernel, UUID)
    outside = paths.root.parent / "outside"
    assert sorted(path.name for path in paths.root.parent.iterdir()) == ["node", "outside"]
    files = [path for path in outside.rglob("*") if path.is_file()]
    assert len(files) == len(FILES) + 2
    assert {path.read_text() for path in files} == {OUTSIDE}
