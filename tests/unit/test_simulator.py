"""The simulated node beyond what any kernel does: other hardware, several processes, killed ones, faults."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deviceplugin.errors import ConfigError, HostError
from deviceplugin.host.kernel import UeventsLost
from deviceplugin.simulator.node import devicenodes, eventlog
from deviceplugin.simulator.node.description import load
from deviceplugin.simulator.node.journal import Journal
from deviceplugin.simulator.node.kernel import SimulatedKernel
from deviceplugin.simulator.node.tree import Tree
from deviceplugin.simulator.node.vm import VirtualMachine, hold

Build = Callable[[str], SimulatedKernel]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    return lambda name: SimulatedKernel.build(tmp_path / name, load(name))


@pytest.fixture(params=["files", "device nodes"])
def samples(tmp_path: Path, request: pytest.FixtureRequest) -> SimulatedKernel:
    """The sample drivers, on a node of either kind."""
    nodes = request.param == "device nodes"
    if nodes:
        request.getfixturevalue("capable")
    return SimulatedKernel.build(tmp_path / "samples", load("samples"), device_nodes=nodes)


@pytest.fixture
def capable(tmp_path: Path) -> None:
    """Skip where this process may not make device nodes."""
    try:
        devicenodes.prove(tmp_path / "proof")
    except HostError as error:
        pytest.skip(str(error))


def create(kernel: SimulatedKernel, parent: str, type_id: str) -> str:
    device = str(uuid.uuid4())
    kernel.write(kernel.paths.create(parent, type_id), device)
    return device


def remove(kernel: SimulatedKernel, device: str) -> None:
    kernel.write(kernel.paths.remove(device), "1")


def counts(kernel: SimulatedKernel, parent: str) -> dict[str, int]:
    types = (kernel.paths.parent(parent) / "mdev_supported_types").iterdir()
    return {path.name: int((path / "available_instances").read_text()) for path in types}


def group_of(kernel: SimulatedKernel, device: str) -> int:
    return int((kernel.paths.device(device) / "iommu_group").readlink().name)


def devices(kernel: SimulatedKernel) -> set[str]:
    return {path.name for path in kernel.paths.devices.iterdir()}


def pictured(root: Path) -> dict[str, str]:
    """A node's whole tree: each path with what it reads or where it leads."""
    picture = {}
    for top in ("sys", "dev"):
        for path in sorted((root / top).rglob("*")):
            picture[str(path.relative_to(root))] = (
                f"-> {path.readlink()}"
                if path.is_symlink()
                else "/"
                if path.is_dir()
                else "a device node"
                if path.is_char_device()
                else path.read_text()
                if os.access(path, os.R_OK)
                else "for writing only"
            )
    return picture


@contextmanager
def refused(*codes: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at right here
        yield
    assert caught.value.errno in codes


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come about within 10 seconds"
        time.sleep(0.005)


@contextmanager
def process(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python process that is killed in the end, if it still lives."""
    command = [sys.executable, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


WRITER = """
import sys
from pathlib import Path
from deviceplugin.simulator.node.kernel import SimulatedKernel
kernel = SimulatedKernel(Path(sys.argv[1]))
print("open", flush=True)
kernel.write(Path(sys.argv[2]), sys.argv[3])
"""


# Hardware


def test_an_a2_counts_as_the_real_one_did(build: Build) -> None:
    kernel = build("nvidia-a2")
    create(kernel, "0000:41:00.4", "nvidia-746")
    assert set(counts(kernel, "0000:41:00.4").values()) == {0}
    for parent in ("0000:41:00.5", "0000:41:02.3"):
        assert {kind for kind, left in counts(kernel, parent).items() if left == 1} == {
            "nvidia-746",
            "nvidia-751",
            "nvidia-754",
        }
        assert set(counts(kernel, parent).values()) == {0, 1}


def test_virtual_functions_overstate_what_their_card_fits(build: Build) -> None:
    kernel = build("nvidia-a2")
    parents = list(kernel.node.card_of)
    assert sum(counts(kernel, parent)["nvidia-746"] for parent in parents) == 16
    for parent in parents[:4]:
        create(kernel, parent, "nvidia-746")
    assert {counts(kernel, parent)["nvidia-746"] for parent in parents} == {0}
    with refused(errno.ENOSPC):
        create(kernel, parents[4], "nvidia-746")


def test_a_virtual_function_leads_to_its_card(build: Build) -> None:
    kernel = build("nvidia-a2")
    parent = kernel.paths.parent("0000:41:00.4")
    assert (parent / "physfn").resolve().name == "0000:41:00.0"
    assert (parent / "physfn/virtfn0").resolve() == parent.resolve()
    assert (parent / "physfn/sriov_numvfs").read_text() == "16\n"
    assert (parent / "vendor").read_text() == "0x10de\n"
    assert (parent / "device").read_text() == "0x25b6\n"
    assert (parent / "numa_node").read_text() == "0\n"
    assert (parent / "driver").readlink().name == "nvidia"
    assert not kernel.paths.parent("0000:41:00.0").exists()


def test_a_t4_carries_one_type_at_a_time(build: Build) -> None:
    kernel = build("nvidia-t4")
    first, second = kernel.node.card_of
    before = counts(kernel, first)
    assert before["nvidia-230"] == 16
    device = create(kernel, first, "nvidia-231")
    assert {kind: left for kind, left in counts(kernel, first).items() if left} == {"nvidia-231": 7}
    assert counts(kernel, second) == before
    remove(kernel, device)
    assert counts(kernel, first) == before


def test_the_scarcest_of_three_resources_limits_gvtg(build: Build) -> None:
    kernel = build("intel-gvtg")
    gpu = "0000:00:02.0"
    assert counts(kernel, gpu) == {"i915-GVTg_V5_8": 6, "i915-GVTg_V5_4": 3, "i915-GVTg_V5_2": 1}
    create(kernel, gpu, "i915-GVTg_V5_2")
    assert counts(kernel, gpu) == {"i915-GVTg_V5_8": 2, "i915-GVTg_V5_4": 1, "i915-GVTg_V5_2": 0}


def test_s390_has_a_matrix_and_many_subchannels(build: Build) -> None:
    kernel = build("s390")
    assert counts(kernel, "matrix") == {"vfio_ap-passthrough": 65536}
    device = create(kernel, "matrix", "vfio_ap-passthrough")
    attribute = kernel.paths.device(device) / "assign_adapter"
    for written in ("0x4", "0x5"):
        kernel.write(attribute, written)
    attribute.chmod(0o600)
    assert attribute.read_text() == "0x5"
    create(kernel, "0.0.0100", "vfio_ccw-io")
    assert counts(kernel, "0.0.0100") == {"vfio_ccw-io": 0}
    assert counts(kernel, "0.0.0101") == {"vfio_ccw-io": 1}
    with refused(errno.EUSERS):
        create(kernel, "0.0.0100", "vfio_ccw-io")


def test_nvidia_drops_the_last_character_of_a_parameter(build: Build) -> None:
    kernel = build("nvidia-t4")
    device = create(kernel, "0000:3b:00.0", "nvidia-230")
    attribute = kernel.paths.device(device) / "nvidia/vgpu_params"
    kernel.write(attribute, "frame_rate_limiter=0\n")
    assert attribute.read_text() == "frame_rate_limiter=0\n"
    kernel.write(attribute, "frame_rate_limiter=0")
    assert attribute.read_text() == "frame_rate_limiter="


def test_a_create_on_the_big_node_is_quick(build: Build) -> None:
    kernel = build("big")
    parents = [parent for card in kernel.node.cards for parent in card.parents]
    took = []
    for parent in parents[:20]:
        before = time.process_time()
        create(kernel, parent, "nvidia-902")
        took.append(time.process_time() - before)
    assert sorted(took)[10] < 0.02, "the median create took more than 20 ms of CPU time"


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(["samples", "intel-gvtg", "nvidia-t4"]),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 999)), max_size=12),
)
def test_whatever_is_made_and_removed_the_tree_is_as_if_made_anew(
    tmp_path_factory: pytest.TempPathFactory, name: str, steps: list[tuple[bool, int]]
) -> None:
    kernel = SimulatedKernel.build(tmp_path_factory.mktemp("node") / "a", load(name))
    offers = [(parent, kind) for parent, card in kernel.node.card_of.items() for kind in card.model.offered]
    alive: list[str] = []
    for removes, number in steps:
        parent, kind = offers[number % len(offers)]
        if removes and alive:
            remove(kernel, alive.pop(number % len(alive)))
        elif counts(kernel, parent)[kind]:
            alive.append(create(kernel, parent, kind))
        else:
            with refused(errno.ENOSPC, errno.EUSERS):
                create(kernel, parent, kind)
    assert devices(kernel) == set(alive)
    state = Journal(kernel.paths.root).load()
    other = SimulatedKernel.build(kernel.paths.root.with_name("b"), load(name))
    with other.journal.session() as session:
        session.commit(state, touched=tuple(card.address for card in other.node.cards))
    assert pictured(kernel.paths.root) == pictured(other.paths.root)


# Processes


def test_a_removal_waits_for_the_vm_and_takes_room_meanwhile(samples: SimulatedKernel) -> None:
    device = create(samples, "mbochs", "mbochs-large")
    machine = VirtualMachine(samples, device)
    writer = threading.Thread(target=remove, args=(samples, device))
    writer.start()
    until(lambda: device not in devices(samples))
    assert writer.is_alive()
    assert counts(samples, "mbochs")["mbochs-large"] == 3
    with refused(errno.EEXIST):
        samples.write(samples.paths.create("mtty", "mtty-1"), device)
    with refused(errno.ENOENT):
        remove(samples, device)
    machine.stop()
    writer.join(10)
    assert not writer.is_alive()
    assert counts(samples, "mbochs")["mbochs-large"] == 4


def test_a_removal_whose_writer_was_killed_completes_when_the_vm_lets_go(samples: SimulatedKernel) -> None:
    device = create(samples, "mtty", "mtty-1")
    machine = VirtualMachine(samples, device)
    with process("-c", WRITER, samples.paths.root, samples.paths.remove(device), "1") as writer:
        until(lambda: device not in devices(samples))
        writer.kill()
    assert counts(samples, "mtty")["mtty-1"] == 23
    machine.stop()
    assert counts(samples, "mtty")["mtty-1"] == 24
    assert not samples.paths.group(machine.group).exists()


def test_a_vm_of_its_own_holds_until_it_is_told(samples: SimulatedKernel) -> None:
    device = create(samples, "mtty", "mtty-1")
    group = group_of(samples, device)
    for end in (signal.SIGTERM, signal.SIGKILL, None):
        with process("-m", "deviceplugin.simulator.node.vm", samples.paths.root, device) as child:
            assert child.stdout is not None
            assert child.stdin is not None
            assert child.stdout.readline() == f"holding {device}\n"
            with refused(errno.EBUSY):
                samples.open_group(group)
            if end is None:
                child.stdin.close()
            else:
                child.send_signal(end)
            child.wait(10)
        os.close(samples.open_group(group))


def test_a_vm_that_finds_its_device_taken_says_so(samples: SimulatedKernel) -> None:
    device = create(samples, "mtty", "mtty-1")
    with hold(samples, device):
        done = subprocess.run(
            [sys.executable, "-m", "deviceplugin.simulator.node.vm", str(samples.paths.root), device],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "busy" in done.stderr


def test_a_vm_that_was_killed_lets_a_removal_complete_when_the_node_is_opened(
    samples: SimulatedKernel,
) -> None:
    device = create(samples, "mtty", "mtty-1")
    with process("-m", "deviceplugin.simulator.node.vm", samples.paths.root, device) as machine:
        assert machine.stdout is not None
        machine.stdout.readline()
        with process("-c", WRITER, samples.paths.root, samples.paths.remove(device), "1") as writer:
            until(lambda: device not in devices(samples))
            writer.kill()
        machine.kill()
    SimulatedKernel(samples.paths.root)
    assert counts(samples, "mtty")["mtty-1"] == 24


def test_processes_that_create_at_once_get_what_there_is_and_no_more(samples: SimulatedKernel) -> None:
    work = """
import sys, uuid
from pathlib import Path
from deviceplugin.simulator.node.kernel import SimulatedKernel
kernel = SimulatedKernel(Path(sys.argv[1]))
made = 0
for _ in range(10):
    try:
        kernel.write(kernel.paths.create("mtty", "mtty-1"), str(uuid.uuid4()))
        made += 1
    except OSError:
        pass
print(made)
"""
    children = [
        subprocess.Popen([sys.executable, "-c", work, str(samples.paths.root)], stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    made = sum(int(child.communicate()[0]) for child in children)
    assert made == 24
    assert len(devices(samples)) == 24
    assert len({group_of(samples, device) for device in devices(samples)}) == 24


# Killed writers


class Killed(BaseException):
    """The end of a writer, wherever it was."""


STEPS = [(Journal, "save"), (Tree, "sync"), (eventlog.EventLog, "append"), (Journal, "followed")]


@pytest.mark.parametrize("step", range(len(STEPS)))
@pytest.mark.parametrize("late", [False, True])
def test_a_writer_killed_at_any_step_leaves_all_or_nothing(
    samples: SimulatedKernel, monkeypatch: pytest.MonkeyPatch, step: int, *, late: bool
) -> None:
    kept = create(samples, "mtty", "mtty-2")
    source = samples.uevents()
    device = str(uuid.uuid4())
    owner, name = STEPS[step]
    original = getattr(owner, name)

    def killed(*arguments: object) -> None:
        if late:
            original(*arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        with pytest.raises(Killed):
            samples.write(samples.paths.create("mtty", "mtty-1"), device)
    kernel = SimulatedKernel(samples.paths.root)
    happened = (step, late) != (0, False)
    assert devices(kernel) == ({kept, device} if happened else {kept})
    assert counts(kernel, "mtty")["mtty-1"] == (21 if happened else 22)
    assert [event.action for event in source.receive()] == (["add", "add", "add", "bind"] if happened else [])
    source.close()


@pytest.mark.parametrize("call", range(40))
def test_a_tree_left_at_any_point_is_completed(
    samples: SimulatedKernel, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    gone = create(samples, "mbochs", "mbochs-large")
    calls = iter(range(1000))

    def stumble(function: Callable[..., object]) -> Callable[..., object]:
        def stumbling(*arguments: object, **options: object) -> object:
            if next(calls) == call:
                raise Killed
            return function(*arguments, **options)

        return stumbling

    for change in (lambda: remove(samples, gone), lambda: create(samples, "mbochs", "mbochs-small")):
        with monkeypatch.context() as patch:
            for name in ("rename", "link", "symlink", "mkdir", "unlink", "rmdir", "mknod"):
                patch.setattr(os, name, stumble(getattr(os, name)))
            try:
                change()
            except Killed:
                break
    kernel = SimulatedKernel(samples.paths.root)
    with kernel.journal.session() as session:
        state = session.state
    assert devices(kernel) == set(state.devices)
    before = pictured(kernel.paths.root)
    kernel.journal.tree.repair(state, kernel.node.cards)
    assert pictured(kernel.paths.root) == before
    assert len([path for path in before if path.startswith("dev/vfio/")]) == 1 + len(state.devices)


def test_a_create_killed_while_the_driver_is_slow_comes_to_nothing(samples: SimulatedKernel) -> None:
    samples.fault("slow-create", seconds=60, parent="mtty")
    device = str(uuid.uuid4())
    with process("-c", WRITER, samples.paths.root, samples.paths.create("mtty", "mtty-1"), device) as writer:
        until(lambda: counts(samples, "mtty")["mtty-1"] == 23)
        with refused(errno.EEXIST):
            samples.write(samples.paths.create("mdpy", "mdpy-hd"), device)
        create(samples, "mdpy", "mdpy-hd")
        writer.kill()
    samples.settle()
    assert counts(samples, "mtty")["mtty-1"] == 24
    samples.write(samples.paths.create("mdpy", "mdpy-hd"), device)


# Parents that come and go


def test_a_parent_leaves_with_its_devices_and_returns_without(samples: SimulatedKernel) -> None:
    device = create(samples, "mdpy", "mdpy-hd")
    source = samples.uevents()
    samples.unregister("mdpy")
    assert device not in devices(samples)
    assert not samples.paths.parent("mdpy").exists()
    *before, last = source.receive()
    assert [event.action for event in before] == ["remove", "remove", "unbind", "remove"]
    assert (last.action, last.devpath, last.subsystem) == ("change", "/devices/virtual/mdpy/mdpy", "mdpy")
    assert last.properties == {"MDEV_STATE": "unregistered"}
    with refused(errno.ENOENT):
        create(samples, "mdpy", "mdpy-hd")
    samples.register("mdpy")
    assert counts(samples, "mdpy") == {"mdpy-vga": 4, "mdpy-xga": 4, "mdpy-hd": 4}
    assert (samples.paths.type("mdpy", "mdpy-hd") / "name").read_text() == "mdpy-hd\n"
    assert [event.properties for event in source.receive()] == [{"MDEV_STATE": "registered"}]
    source.close()


def test_a_parent_that_is_leaving_takes_no_device(samples: SimulatedKernel) -> None:
    device = create(samples, "mdpy", "mdpy-hd")
    path = samples.paths.create("mdpy", "mdpy-hd").resolve()
    with hold(samples, device):
        samples.unregister("mdpy", wait=False)
        with refused(errno.ENODEV):
            samples.write(path, str(uuid.uuid4()))
        assert not samples.paths.parent("mdpy").exists()
    assert not path.exists()


def test_a_reboot_leaves_no_device_and_numbers_groups_anew(samples: SimulatedKernel) -> None:
    device = create(samples, "mdpy", "mdpy-hd")
    source = samples.uevents()
    samples.reboot()
    assert devices(samples) == set()
    assert counts(samples, "mdpy")["mdpy-hd"] == 4
    assert source.receive() == []
    samples.write(samples.paths.create("mdpy", "mdpy-hd"), device)
    assert group_of(samples, device) == 16
    source.close()


# Faults


def test_a_create_fails_as_often_as_asked(samples: SimulatedKernel) -> None:
    samples.fault("fail-create", type="mdpy-hd", errno=errno.EIO, times=2)
    create(samples, "mdpy", "mdpy-vga")
    for _ in range(2):
        with refused(errno.EIO):
            create(samples, "mdpy", "mdpy-hd")
    create(samples, "mdpy", "mdpy-hd")


def test_a_driver_may_remove_a_device_itself(samples: SimulatedKernel) -> None:
    device = create(samples, "mdpy", "mdpy-hd")
    samples.fault("fail-remove", errno=errno.ENODEV)
    with refused(errno.ENODEV):
        remove(samples, device)
    assert devices(samples) == set()


def test_a_vm_may_fail_to_open_its_device(samples: SimulatedKernel) -> None:
    device = create(samples, "mdpy", "mdpy-hd")
    samples.fault("fail-attach", errno=errno.EIO, times=1)
    with refused(errno.EIO):
        VirtualMachine(samples, device)
    with hold(samples, device):
        pass


@pytest.mark.parametrize("content", [b"", b"garbage\n", b"\xff\xfe\n", b"-1\n", None])
def test_a_count_may_be_unreadable(samples: SimulatedKernel, content: bytes | None) -> None:
    path = samples.paths.type("mtty", "mtty-1") / "available_instances"
    samples.fault("odd-count", type="mtty-1", content=content)
    assert (path.read_bytes() if path.exists() else None) == content
    create(samples, "mtty", "mtty-2")
    assert (path.read_bytes() if path.exists() else None) == content
    samples.clear_faults()
    assert path.read_text() == "22\n"


def test_a_name_may_be_missing(samples: SimulatedKernel) -> None:
    path = samples.paths.type("mtty", "mtty-1") / "name"
    samples.fault("no-name", parent="mtty")
    assert not path.exists()
    samples.clear_faults()
    assert path.read_text() == "Single port serial\n"


# Events


def test_lost_events_are_told_once(samples: SimulatedKernel) -> None:
    source = samples.uevents()
    create(samples, "mtty", "mtty-1")
    samples.lose_events()
    assert select.select([source.fileno()], [], [], 5)[0]
    with pytest.raises(UeventsLost):
        source.receive()
    assert source.receive() == []
    assert not select.select([source.fileno()], [], [], 0)[0]
    create(samples, "mtty", "mtty-1")
    assert len(source.receive()) == 4
    source.close()


def test_a_log_begun_anew_loses_nothing_for_who_keeps_up(
    samples: SimulatedKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eventlog, "LIMIT", 2000)
    keen, lazy = samples.uevents(), samples.uevents()
    told = []
    for _ in range(12):
        create(samples, "mtty", "mtty-1")
        told += keen.receive()
    assert len(told) == 48
    with pytest.raises(UeventsLost):
        lazy.receive()
    create(samples, "mtty", "mtty-1")
    assert len(lazy.receive()) == 4
    keen.close()
    lazy.close()


def test_half_a_line_of_a_killed_writer_is_cut_off(samples: SimulatedKernel) -> None:
    source = samples.uevents()
    log = samples.paths.root / ".node/events"
    with log.open("a") as file:
        file.write('{"sequence": 1, "act')
    assert source.receive() == []
    create(samples, "mtty", "mtty-1")
    assert len(source.receive()) == 4
    source.close()


# The node itself


def test_a_node_is_made_once(samples: SimulatedKernel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds a simulated node already"):
        SimulatedKernel.build(samples.paths.root, load("samples"))
    with pytest.raises(ConfigError, match="holds no simulated node"):
        SimulatedKernel(tmp_path)


def test_of_builders_at_once_one_makes_the_node(tmp_path: Path) -> None:
    work = """
import sys
from pathlib import Path
from deviceplugin.errors import ConfigError
from deviceplugin.simulator.node.description import load
from deviceplugin.simulator.node.kernel import SimulatedKernel
description = load("samples")
print("ready", flush=True)
sys.stdin.readline()
try:
    SimulatedKernel.build(Path(sys.argv[1]), description)
    print("made")
except ConfigError as error:
    print(str(error).rpartition(" ")[2])
"""
    target = tmp_path / "new/node"
    command = [sys.executable, "-c", work, str(target)]
    builders = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for builder in builders:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "ready\n"
    for builder in builders:
        assert builder.stdin is not None
        builder.stdin.write("go\n")
        builder.stdin.flush()
    assert sorted(builder.communicate()[0] for builder in builders) == ["already.\n", "already.\n", "made\n"]
    assert counts(SimulatedKernel(target), "mtty")["mtty-1"] == 24


@pytest.mark.parametrize("call", [0, 1, 5, 20, 60, 120])
def test_a_node_whose_builder_was_killed_is_none_and_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    calls = iter(range(1000))

    def stumble(function: Callable[..., object]) -> Callable[..., object]:
        def stumbling(*arguments: object, **options: object) -> object:
            if next(calls) == call:
                raise Killed
            return function(*arguments, **options)

        return stumbling

    target = tmp_path / "node"
    with monkeypatch.context() as patch:
        for name in ("rename", "link", "symlink", "mkdir", "unlink"):
            patch.setattr(os, name, stumble(getattr(os, name)))
        with pytest.raises(Killed):
            SimulatedKernel.build(target, load("nvidia-t4"))
    assert not Journal.exists(target)
    assert Journal.is_vacant(target)
    with pytest.raises(ConfigError, match=r"holds no simulated node|was never completed"):
        SimulatedKernel(target)
    made = SimulatedKernel.build(target, load("samples"))
    fresh = SimulatedKernel.build(tmp_path / "fresh", load("samples"))
    assert pictured(made.paths.root) == pictured(fresh.paths.root)
    create(made, "mtty", "mtty-1")


def test_a_directory_of_somebody_elses_is_not_vacant(tmp_path: Path) -> None:
    assert Journal.is_vacant(tmp_path)
    (tmp_path / ".node").mkdir()
    assert Journal.is_vacant(tmp_path)
    (tmp_path / ".node/theirs").touch()
    assert not Journal.is_vacant(tmp_path)


def test_a_tree_that_is_far_behind_is_made_anew(samples: SimulatedKernel) -> None:
    device = create(samples, "mtty", "mtty-1")
    journal = samples.journal
    journal.save(replace(journal.load(), generation=17, touched=()))
    samples.paths.device(device).unlink()
    SimulatedKernel(samples.paths.root)
    assert devices(samples) == {device}


# Device nodes


def device_node(path: Path) -> tuple[bool, int, tuple[int, int]]:
    found = path.lstat()
    number = os.major(found.st_rdev), os.minor(found.st_rdev)
    return stat.S_ISCHR(found.st_mode), stat.S_IMODE(found.st_mode), number


NULL = (True, 0o600, (1, 3))


@pytest.fixture
def nodes(tmp_path: Path, request: pytest.FixtureRequest) -> SimulatedKernel:
    request.getfixturevalue("capable")
    return SimulatedKernel.build(tmp_path / "nodes", load("samples"), device_nodes=True)


def incapable(*command: object) -> subprocess.CompletedProcess[str]:
    """Run Python as a process that may not make device nodes."""
    drop = ["setpriv", "--bounding-set=-mknod"] if os.geteuid() == 0 else []
    return subprocess.run(
        [*drop, sys.executable, *map(str, command)], capture_output=True, text=True, check=False
    )


def test_vfio_files_are_plain_files_unless_asked_otherwise(build: Build) -> None:
    kernel = build("samples")
    create(kernel, "mtty", "mtty-1")
    assert not kernel.device_nodes
    assert [path.is_file() for path in kernel.paths.vfio.iterdir()] == [True, True]


def test_device_nodes_are_such_as_any_container_may_open(nodes: SimulatedKernel) -> None:
    create(nodes, "mtty", "mtty-1")
    assert nodes.device_nodes
    assert {path.name: device_node(path) for path in nodes.paths.vfio.iterdir()} == {"vfio": NULL, "0": NULL}


def test_a_node_remembers_that_it_has_device_nodes(nodes: SimulatedKernel) -> None:
    device = str(uuid.uuid4())
    with process("-c", WRITER, nodes.paths.root, nodes.paths.create("mtty", "mtty-1"), device) as writer:
        writer.wait(10)
    assert device_node(nodes.paths.group(group_of(nodes, device))) == NULL
    nodes.reboot()
    assert [path.name for path in nodes.paths.vfio.iterdir()] == ["vfio"]
    again = SimulatedKernel(nodes.paths.root)
    again.unregister("mtty")
    again.register("mtty")
    assert device_node(nodes.paths.group(group_of(nodes, create(again, "mtty", "mtty-1")))) == NULL


def test_each_device_node_is_held_for_itself_by_whatever_process(nodes: SimulatedKernel) -> None:
    held, other = create(nodes, "mtty", "mtty-1"), create(nodes, "mtty", "mtty-1")
    with process("-m", "deviceplugin.simulator.node.vm", nodes.paths.root, held) as machine:
        assert machine.stdout is not None
        assert machine.stdout.readline() == f"holding {held}\n"
        with refused(errno.EBUSY):
            nodes.open_group(group_of(nodes, held))
        os.close(nodes.open_group(group_of(nodes, other)))
        machine.kill()
        machine.wait(10)
    os.close(nodes.open_group(group_of(nodes, held)))


def test_another_node_of_the_same_number_holds_nothing(nodes: SimulatedKernel, tmp_path: Path) -> None:
    group = group_of(nodes, create(nodes, "mtty", "mtty-1"))
    copy = tmp_path / "in-a-container"
    devicenodes.make(copy)
    fd = os.open(copy, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(nodes.open_group(group))
    os.close(fd)


BUILDER = """
import sys
from pathlib import Path
from deviceplugin.simulator.node.description import load
from deviceplugin.simulator.node.kernel import SimulatedKernel
SimulatedKernel.build(Path(sys.argv[1]), load("samples"), device_nodes=True)
"""


def test_without_the_capability_no_node_is_made(tmp_path: Path) -> None:
    done = incapable("-c", BUILDER, tmp_path / "new/node")
    assert "HostError: no device node can be made in" in done.stderr
    assert "MKNOD" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_the_capability_no_device_is_made(nodes: SimulatedKernel) -> None:
    before = pictured(nodes.paths.root)
    target = nodes.paths.create("mtty", "mtty-1")
    done = incapable("-c", WRITER, nodes.paths.root, target, uuid.uuid4())
    assert "HostError: mtty: no device node can be made in" in done.stderr
    assert pictured(nodes.paths.root) == before
    assert nodes.state.devices == {}
    create(nodes, "mtty", "mtty-1")


def test_without_the_capability_everything_else_is_done(nodes: SimulatedKernel) -> None:
    device = create(nodes, "mtty", "mtty-1")
    assert incapable("-c", WRITER, nodes.paths.root, nodes.paths.remove(device), "1").stderr == ""
    assert devices(nodes) == set()


def test_a_device_that_was_left_half_made_waits_for_who_can_finish_it(
    nodes: SimulatedKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = str(uuid.uuid4())

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Tree, "sync", killed)
        with pytest.raises(Killed):
            nodes.write(nodes.paths.create("mtty", "mtty-1"), device)
    looked = incapable("-m", "deviceplugin", "types", "--simulated", nodes.paths.root)
    assert "mdev-device-plugin: no device node can be made in" in looked.stderr
    kernel = SimulatedKernel(nodes.paths.root)
    assert device_node(kernel.paths.group(group_of(kernel, device))) == NULL


@pytest.mark.usefixtures("capable")
def test_where_device_nodes_can_not_be_opened_no_node_is_made(tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o nodev none "$1" && "$2" -c "$3" "$1/node"; ls -A "$1"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path), sys.executable, BUILDER]
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare to mount something with")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "mount: " in done.stderr or "unshare: " in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr}")
    assert "can't be opened: EACCES" in done.stderr
    assert "nodev" in done.stderr
    assert done.stdout == ""
