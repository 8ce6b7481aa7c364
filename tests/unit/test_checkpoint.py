"""What the kubelet remembers: its checkpoint, read, asked for afresh, and not understood."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.errors import KubeletError
from deviceplugin.kubelet import checkpoint, memory
from deviceplugin.kubelet.memory import KubeletMemory
from deviceplugin.kubelet.paths import KubeletPaths

ONE, TWO, THREE = (f"6d646576-0000-8000-800{n}-000000000000" for n in (1, 2, 3))
PATH = Path("/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint")


def response(*host_paths: str) -> str:
    message = pb.ContainerAllocateResponse(
        devices=[pb.DeviceSpec(container_path=path, host_path=path, permissions="mrw") for path in host_paths]
    )
    return base64.b64encode(message.SerializeToString()).decode()


RESOURCE = "vfio.dev/mtty-1"


def entry(ids: Any, answer: Any = "") -> dict[str, Any]:
    return {
        "PodUID": "b6b5c7c1",
        "ContainerName": "main",
        "ResourceName": RESOURCE,
        "DeviceIDs": ids,
        "AllocResp": answer,
    }


def written(*entries: Any) -> bytes:
    data = {"PodDeviceEntries": list(entries) or None, "RegisteredDevices": {"vfio.dev/mtty-1": [ONE]}}
    return json.dumps({"Data": data, "Checksum": 1742871238}).encode()


def test_devices_of_all_numa_nodes_and_containers_are_named() -> None:
    content = written(entry({"-1": [ONE], "0": [TWO]}), entry({"1": [THREE]}))
    assert checkpoint.parse(content, PATH).keys() == {ONE, TWO, THREE}


def paths(content: bytes) -> dict[str, list[set[str]]]:
    """The host paths of each container that has a device."""
    found = checkpoint.parse(content, PATH)
    return {uuid: [set(holding.paths) for holding in holdings] for uuid, holdings in found.items()}


def test_each_device_comes_with_the_host_paths_of_its_container() -> None:
    content = written(
        entry({"-1": [ONE, TWO]}, response("/dev/vfio/vfio", "/dev/vfio/7")),
        entry({"-1": [TWO]}, response("/dev/vfio/9")),
    )
    assert paths(content) == {
        ONE: [{"/dev/vfio/vfio", "/dev/vfio/7"}],
        TWO: [{"/dev/vfio/vfio", "/dev/vfio/7"}, {"/dev/vfio/9"}],
    }


@pytest.mark.parametrize("ids", [[ONE], {"0": [ONE]}, {"0": None, "1": [ONE]}])
def test_kubelets_old_and_new_are_understood(ids: Any) -> None:
    assert paths(written(entry(ids))) == {ONE: [set()]}


@pytest.mark.parametrize("ids", [None, {}, [], {"0": None}, {"0": []}])
def test_an_entry_without_devices_names_none(ids: Any) -> None:
    assert checkpoint.parse(written(entry(ids)), PATH) == {}


def test_a_registered_device_is_not_one_that_a_container_has() -> None:
    assert checkpoint.parse(written(), PATH) == {}


def test_an_entry_without_an_answer_names_its_devices_all_the_same() -> None:
    assert paths(written(entry([ONE], None))) == {ONE: [set()]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"{}",
        b'{"Data": null}',
        b'{"Data": {}}',
        b'{"Data": {"PodDeviceEntries": {}}}',
        b'{"Data": {"PodDeviceEntries": [null]}}',
        b'{"Data": {"PodDeviceEntries": [{}]}}',
        b"\xff\xfe",
        b"[" * 100_000,
        written(entry("text")),
        written(entry([5])),
        written(entry([ONE], 5)),
        written(entry([ONE], "x")),
        written(entry([ONE], "äöü")),
        written(entry([ONE], base64.b64encode(b"\xff" * 9).decode())),
        written(entry([ONE], base64.b64encode(b"\x1a\x03\x12\x01\xff").decode())),
    ],
)
def test_a_checkpoint_that_is_not_understood_is_no_proof_of_anything(content: bytes) -> None:
    with pytest.raises(KubeletError, match="kubelet_internal_checkpoint can't be understood"):
        checkpoint.parse(content, PATH)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
answers = (
    st.none() | st.text(max_size=12) | st.binary(max_size=20).map(lambda raw: base64.b64encode(raw).decode())
)
entries = st.builds(
    entry, st.lists(st.text(max_size=5)) | st.dictionaries(st.text(max_size=2), json_values), answers
)


@given(
    st.binary(max_size=80)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.lists(entries | json_values, max_size=3).map(lambda some: written(*some))
)
@example(written(entry(["\ud800"])))
@settings(max_examples=500)
def test_no_content_whatever_raises_anything_but_a_kubelet_error(content: bytes) -> None:
    try:
        found = checkpoint.parse(content, PATH)
    except KubeletError:
        return
    assert all(isinstance(uuid, str) for uuid in found)


def test_a_kubelet_that_never_wrote_a_checkpoint_remembers_nothing(tmp_path: Path) -> None:
    assert checkpoint.read(tmp_path / "none") is None
    assert checkpoint.version(tmp_path / "none") is None


def test_a_checkpoint_that_can_not_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KubeletError, match="can't be read"):
        checkpoint.read(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(KubeletError, match="can't be read"):
        checkpoint.read(tmp_path / "file" / "checkpoint")
    with pytest.raises(KubeletError, match="can't be examined"):
        checkpoint.version(tmp_path / "file" / "checkpoint")


def test_what_is_no_file_is_not_taken_for_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b'{"Data": {"PodDeviceEntries": null}}')
    assert checkpoint.read(tmp_path / "file") is not None
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "."):
        with pytest.raises(KubeletError, match=r"can't be read|is not a file"):
            checkpoint.read(tmp_path / name)


def test_a_checkpoint_of_any_size_is_not_read_to_its_end(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(KubeletError, match="larger than 16 MiB"):
        checkpoint.read(tmp_path / "huge")


def test_more_devices_than_a_node_has_are_not_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_MAX_DEVICES", 2)
    assert len(checkpoint.parse(written(entry([ONE, TWO])), PATH)) == 2
    with pytest.raises(KubeletError, match="names more than 2 devices"):
        checkpoint.parse(written(entry([ONE]), entry([TWO]), entry([THREE])), PATH)


def test_a_checkpoint_of_the_largest_size_takes_a_bounded_share_of_memory(tmp_path: Path) -> None:
    """Measured in a process of its own, whose peak is nobody else's."""
    file = tmp_path / "checkpoint"
    one = json.dumps(entry({"-1": ["%036d"]}, response("/dev/vfio/vfio", "/dev/vfio/%08d"))).replace(
        "%", "%%"
    )
    one = one.replace("%%036d", "%036d")
    count = checkpoint._MAX_BYTES // (len(one) + 35)
    file.write_text('{"Data": {"PodDeviceEntries": [' + ",".join(one % n for n in range(count)) + "]}}")
    assert checkpoint._MAX_BYTES * 0.9 < file.stat().st_size <= checkpoint._MAX_BYTES
    code = (
        "import resource, sys, pathlib\n"
        "from deviceplugin.kubelet import checkpoint\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "found = checkpoint.read(pathlib.Path(sys.argv[1]))\n"
        "print(len(found.devices), peak() - before)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=True)
    devices, kibibytes = map(int, ran.stdout.split())
    assert devices == count
    assert kibibytes < 120 << 10


def test_every_writing_of_the_file_is_told_from_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    seen = set()
    for number in range(20):
        aside = tmp_path / f"aside{number}"
        aside.write_bytes(written())
        aside.replace(path)
        seen.add(checkpoint.version(path))
    assert len(seen) == 20
    read = checkpoint.read(path)
    assert read is not None
    assert read.version == checkpoint.version(path)


# The memory of a kubelet that is asked.


class Line:
    """An endpoint whose kubelet does something when it gets a list."""

    def __init__(self, on_list: Callable[[], None] = lambda: None, *, connected: bool = True) -> None:
        self.connected = connected
        self.lists = 0
        self._on_list = on_list

    def resend(self) -> None:
        self.lists += 1
        self._on_list()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Kubelet:
    """The kubelet's directory."""

    def __init__(self, root: Path) -> None:
        self.paths = KubeletPaths(root)
        self.paths.plugins.mkdir(parents=True)
        self.clock = Clock()

    def write(self, content: bytes) -> None:
        aside = self.paths.plugins / "aside"
        aside.write_bytes(content)
        aside.replace(self.paths.checkpoint)

    def memory(self, *lines: Line) -> KubeletMemory:
        return KubeletMemory(self.paths, {f"r{n}": line for n, line in enumerate(lines)}, self.clock)


@pytest.fixture
def kubelet(tmp_path: Path) -> Kubelet:
    return Kubelet(tmp_path)


async def test_the_devices_of_now_come_from_a_checkpoint_that_was_asked_for(kubelet: Kubelet) -> None:
    kubelet.write(written(entry([ONE])))
    line = Line(lambda: kubelet.write(written(entry([TWO]))))
    assert (await kubelet.memory(line).devices_now()).devices == {TWO: RESOURCE}
    assert line.lists == 1


async def test_a_kubelet_that_had_no_checkpoint_yet_is_waited_for(kubelet: Kubelet) -> None:
    loop = asyncio.get_running_loop()

    def write_soon() -> None:
        loop.call_soon(kubelet.write, written(entry([TWO])))

    line = Line(write_soon)
    assert (await kubelet.memory(line).devices_now()).devices == {TWO: RESOURCE}


async def test_the_list_is_resent_on_a_stream_that_is_up(kubelet: Kubelet) -> None:
    down = Line(connected=False)
    up = Line(lambda: kubelet.write(written()))
    assert (await kubelet.memory(down, up).devices_now()).devices == {}
    assert (down.lists, up.lists) == (0, 1)


async def test_a_checkpoint_that_stays_as_it_was_is_no_proof(
    kubelet: Kubelet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "REWRITE_DEADLINE", 0.05)
    kubelet.write(written(entry([ONE])))
    with pytest.raises(KubeletError, match="did not rewrite"):
        await kubelet.memory(Line()).devices_now()


async def test_a_checkpoint_that_vanished_is_no_proof(
    kubelet: Kubelet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "REWRITE_DEADLINE", 0.05)
    kubelet.write(written(entry([ONE])))
    with pytest.raises(KubeletError, match="did not rewrite"):
        await kubelet.memory(Line(kubelet.paths.checkpoint.unlink)).devices_now()


async def test_without_a_stream_there_is_no_proof(kubelet: Kubelet) -> None:
    kubelet.write(written(entry([ONE])))
    for lines in ((), (Line(connected=False),)):
        with pytest.raises(KubeletError, match="no stream to the kubelet is up"):
            await kubelet.memory(*lines).devices_now()


async def test_an_unreadable_checkpoint_written_anew_is_no_proof(kubelet: Kubelet) -> None:
    with pytest.raises(KubeletError, match="can't be understood"):
        await kubelet.memory(Line(lambda: kubelet.write(b"{"))).devices_now()


def test_each_resource_is_calm_once_its_stream_was_up_for_a_while(kubelet: Kubelet) -> None:
    one, two = Line(), Line()
    asked = kubelet.memory(one, two)
    for resource in ("r0", "r1"):
        asked.disturb(resource)
    kubelet.clock.now += 5
    assert asked.calm_for("r0") == asked.calm_for("r1") == 5
    two.connected = False
    assert asked.calm_for("r1") == 0
    two.connected = True
    asked.disturb("r1")
    kubelet.clock.now += 2
    assert (asked.calm_for("r0"), asked.calm_for("r1")) == (7, 2)


def test_a_device_of_no_resource_is_judged_by_the_calmest_stream(kubelet: Kubelet) -> None:
    asked = kubelet.memory(Line(), Line())
    asked.disturb("r0")
    kubelet.clock.now += 3
    asked.disturb("r1")
    assert asked.calm_for(None) == 3


def test_an_agent_without_endpoints_has_no_calm_kubelet(kubelet: Kubelet) -> None:
    asked = kubelet.memory()
    kubelet.clock.now += 100
    assert asked.calm_for(None) == asked.calm_for("r0") == 0


async def test_what_is_remembered_needs_no_stream(kubelet: Kubelet) -> None:
    asked = kubelet.memory()
    assert (await asked.remembered_devices()).devices == {}
    kubelet.write(written(entry([ONE], response("/dev/vfio/7"))))
    assert (await asked.remembered_devices()).devices == {ONE: RESOURCE}
    assert await asked.remembered_nodes(ONE) == (frozenset({"/dev/vfio/7"}),)


@pytest.mark.parametrize("content", [None, b"{", written(), written(entry([TWO], response("/dev/vfio/8")))])
async def test_a_checkpoint_that_tells_nothing_of_a_device_is_written_anew_before_paths_are_compared(
    kubelet: Kubelet, content: bytes | None
) -> None:
    if content is not None:
        kubelet.write(content)
    line = Line(lambda: kubelet.write(written(entry([ONE], response("/dev/vfio/7")))))
    assert await kubelet.memory(line).remembered_nodes(ONE) == (frozenset({"/dev/vfio/7"}),)


async def test_a_checkpoint_that_goes_on_telling_nothing_of_a_device_is_no_leave_to_start(
    kubelet: Kubelet,
) -> None:
    with pytest.raises(KubeletError, match="does not say what the containers get"):
        await kubelet.memory(Line(lambda: kubelet.write(written()))).remembered_nodes(ONE)
    with pytest.raises(KubeletError, match="no stream to the kubelet is up"):
        await kubelet.memory().remembered_nodes(ONE)


async def test_a_checkpoint_that_stays_damaged_is_told(kubelet: Kubelet) -> None:
    kubelet.write(b"{")
    with pytest.raises(KubeletError):
        await kubelet.memory(Line(lambda: kubelet.write(b"{"))).remembered_nodes(ONE)
