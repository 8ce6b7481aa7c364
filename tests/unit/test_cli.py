"""The commands, as a person or a program meets them: output, errors and exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any, get_args

import jsonschema  # type: ignore[import-untyped]
import pytest

from deviceplugin.cli import COMMANDS, main
from deviceplugin.cli.look import NO_BUS, NO_TYPES
from deviceplugin.cli.refused import Refused
from deviceplugin.cli.tables import table
from deviceplugin.host import mdev
from deviceplugin.host.paths import HostPaths
from deviceplugin.inventory.slots import SlotId, resource_hash
from deviceplugin.kubelet.paths import KubeletPaths
from deviceplugin.simulator.kubelet.checkpointfile import CheckpointFile, Entry
from deviceplugin.simulator.kubelet.kubelet import ContainerSpec, Pod, PodSpec, SimulatedKubelet
from deviceplugin.simulator.node import description
from deviceplugin.simulator.node.journal import Journal
from deviceplugin.simulator.node.kernel import SimulatedKernel
from deviceplugin.simulator.node.state import FaultKind
from deviceplugin.simulator.node.vm import hold

FOREIGN = "11111111-2222-4333-8444-555555555555"


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def fails(self, code: int, *words: str) -> None:
        """It says one line on standard error, with these words, and nothing else."""
        assert self.code == code
        assert self.out == ""
        assert self.err.startswith("mdev-device-plugin: ")
        assert self.err.count("\n") == 1
        assert [word for word in words if word not in self.err] == []


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    for name in tuple(os.environ):
        if name.startswith("MDEV_") or name == "NODE_NAME":
            monkeypatch.delenv(name)

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["mdev-device-plugin", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Result(int(ended.value.code or 0), out, err)

    return run


@pytest.fixture
def node(tmp_path: Path) -> Callable[[str], SimulatedKernel]:
    return lambda name: SimulatedKernel.build(tmp_path / name, description.load(name))


Node = Callable[[str], SimulatedKernel]


def lines(text: str) -> str:
    return dedent(text).lstrip("\n")


def remember(kubelet_root: Path, uuid: str) -> None:
    """A kubelet's checkpoint in which a container has a device."""
    path = KubeletPaths(kubelet_root).checkpoint
    path.parent.mkdir(exist_ok=True)
    entry = Entry(pod_uid="u", container="c", resource="example.com/serial", devices={uuid: ()}, response=b"")
    CheckpointFile(path).write([entry], {})


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(lines(text))
    return path


class TestTypes:
    def test_shows_what_each_card_offers(self, run: Run, node: Node) -> None:
        kernel = node("nvidia-a2")
        mdev.create(kernel, "0000:41:00.4", "nvidia-745", FOREIGN)
        result = run("types", "--simulated", kernel.paths.root)
        assert (result.code, result.err) == (0, "")
        assert "".join(result.out.splitlines(keepends=True)[:8]) == lines("""
            CARD          TYPE        NAME           API       AVAIL  ROOM  HAVE  TAKES  NUMA  RESOURCES
            0000:41:00.0  nvidia-742  NVIDIA A2-1B   vfio-pci      0     0     0  1/16      0  vfio.dev/nvidia-742
            0000:41:00.0  nvidia-743  NVIDIA A2-2B   vfio-pci     15     7     0  1/8       0  vfio.dev/nvidia-743
            0000:41:00.0  nvidia-744  NVIDIA A2-1Q   vfio-pci      0     0     0  1/16      0  vfio.dev/nvidia-744
            0000:41:00.0  nvidia-745  NVIDIA A2-2Q   vfio-pci     15     7     1  1/8       0  vfio.dev/nvidia-745
            0000:41:00.0  nvidia-746  NVIDIA A2-4Q   vfio-pci      0     0     0  1/4       0  vfio.dev/nvidia-746
            0000:41:00.0  nvidia-747  NVIDIA A2-8Q   vfio-pci      0     0     0  1/2       0  vfio.dev/nvidia-747
            0000:41:00.0  nvidia-748  NVIDIA A2-16Q  vfio-pci      0     0     0  1/1       0  vfio.dev/nvidia-748
        """)

    def test_shows_what_the_agent_says_that_a_card_refuses(
        self, run: Run, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []

        def refused(address: str | None) -> dict[tuple[str, str], Refused]:
            asked.append(address)
            return {("mtty", "mtty-2"): Refused("2023-11-14T22:13:20+00:00", "EIO")}

        monkeypatch.setattr("deviceplugin.cli.types.refused", refused)
        kernel = node("samples")
        monkeypatch.setenv("MDEV_HTTP", ":8080")
        out = run("types", "--simulated", kernel.paths.root).out
        assert re.findall(r"(mtty-\d) .* (since 2023-11-1\d \d\d:\d\d \(EIO\))", out)[0][0] == "mtty-2"
        assert out.count("since") == 1
        found = json.loads(run("types", "--simulated", kernel.paths.root, "-o", "json").out)
        marks = {entry["type"]: entry["refused"] for entry in found["types"]}
        assert marks["mtty-2"] == {"since": "2023-11-14T22:13:20+00:00", "errno": "EIO"}
        assert marks["mtty-1"] is None
        assert asked == [":8080", ":8080"]

    def test_shows_a_dash_for_what_a_driver_does_not_say(self, run: Run, node: Node) -> None:
        kernel = node("samples")
        mdev.create(kernel, "mtty", "mtty-1", FOREIGN)
        out = run("types", "--simulated", kernel.paths.root).out
        assert out.splitlines()[-2:] == [
            "mtty    mtty-1         Single port serial  vfio-pci     23    23     1  1/24      -  vfio.dev/mtty-1",
            "mtty    mtty-2         Dual port serial    vfio-pci     11    11     0  -         -  vfio.dev/mtty-2",
        ]

    def test_cards_alike_teach_what_one_more_takes_of_the_others(self, run: Run, tmp_path: Path) -> None:
        types = "[{id: small, takes: {memory: 1}}, {id: large, takes: {memory: 2}}]"
        text = f"""
            models: {{card: {{driver: d, pools: {{memory: 8}}, types: {types}}}}}
            cards: [{{model: card, address: c0, repeat: 2}}]
        """
        root = SimulatedKernel.build(tmp_path / "two", description.parse(text, origin="two")).paths.root
        for parent, type_id in (("c0", "large"), ("c1", "large"), ("c1", "small")):
            run("simulate", root, "create", type_id, "--parent", parent)
        assert [line.split()[6:8] for line in run("types", "--simulated", root).out.splitlines()[1:3]] == [
            ["1", "1/4"],
            ["0", "1"],
        ]
        result = run("types", "--simulated", root, "-o", "json").json
        told = {(entry["card"], entry["type"]): (entry["part"], entry["takes"]) for entry in result["types"]}
        assert told["c0", "small"] == (None, {"large": 1})

    def test_leaves_the_usual_api_out_where_the_terminal_is_narrow(
        self, run: Run, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("deviceplugin.cli.types.screen_width", lambda: 100)
        narrow = run("types", "--simulated", node("nvidia-a2").paths.root).out
        assert "vfio-pci" not in narrow
        assert "NVIDIA A2-16Q" in narrow
        assert max(map(len, narrow.splitlines())) <= 100
        assert " vfio-ap " in run("types", "--simulated", node("s390").paths.root).out

    def test_names_every_resource_that_takes_a_type(self, run: Run, node: Node, tmp_path: Path) -> None:
        config = write(
            tmp_path,
            """
            version: v1
            discovery: {exclude: [mdpy-*, mbochs-*, mtty-2]}
            resources:
            - {name: example.com/serial, types: [mtty-*]}
            - {name: example.com/elsewhere, types: [mtty-1], parents: {addresses: [other]}}
            """,
        )
        result = run("types", "--simulated", node("samples").paths.root, "--config", config, "-o", "json")
        offered = {entry["type"]: entry["resources"] for entry in result.json["types"]}
        assert offered["mtty-1"] == ["example.com/serial", "vfio.dev/mtty-1"]
        assert offered["mtty-2"] == ["example.com/serial"]
        assert offered["mdpy-hd"] == []

    def test_tells_programs_the_same(self, run: Run, node: Node) -> None:
        result = run("types", "--simulated", node("nvidia-t4").paths.root, "-o", "json")
        assert result.json["version"] == 1
        assert result.json["types"][8] == {
            "card": "0000:3b:00.0",
            "type": "nvidia-230",
            "name": "GRID T4-1Q",
            "api": "vfio-pci",
            "available": 16,
            "room": 16,
            "existing": 0,
            "max": 16,
            "part": "1/16",
            "takes": None,
            "numa_node": 0,
            "refused": None,
            "resources": ["vfio.dev/nvidia-230"],
        }
        assert result.json["cards"][0] == {
            "card": "0000:3b:00.0",
            "driver": "nvidia",
            "pci": "10de:1eb8",
            "numa_node": 0,
            "parents": ["0000:3b:00.0"],
            "existing": 0,
        }
        assert result.json["resources"][8] == {
            "resource": "vfio.dev/nvidia-230",
            "types": ["nvidia-230"],
            "devices": 32,
            "adopted": 0,
            "room": 32,
            "numa_nodes": [{"numa_node": 0, "devices": 16}, {"numa_node": 1, "devices": 16}],
        }

    def test_says_on_one_line_of_standard_error_what_had_to_be_left_out(self, run: Run, node: Node) -> None:
        kernel = node("samples")
        kernel.fault("odd-count", type="mtty-1", content=b"many\n")
        result = run("types", "--simulated", kernel.paths.root)
        assert result.code == 0
        assert "mtty-1" not in result.out
        assert result.err.count("\n") == 1
        assert "mtty-1/available_instances: a count was expected" in result.err

    def test_says_why_there_may_be_no_types_and_what_to_do(self, run: Run, tmp_path: Path) -> None:
        bare, loaded = tmp_path / "bare", tmp_path / "loaded"
        bare.mkdir()
        (loaded / "sys/class/mdev_bus").mkdir(parents=True)
        run("types", "--host-root", bare).fails(0, NO_BUS)
        run("types", "--host-root", loaded).fails(0, NO_TYPES, "sriov-manage")
        assert run("types", "--host-root", bare, "-o", "json").json == {
            "version": 1,
            "types": [],
            "cards": [],
            "resources": [],
        }


class TestDevices:
    def test_tells_whose_they_are_and_whether_they_are_in_use(self, run: Run, node: Node) -> None:
        kernel = node("nvidia-t4")
        ours = str(SlotId(0, 5, resource_hash("worker", "vfio.dev/nvidia-230")))
        others = str(SlotId(1, 0, resource_hash("before-it-was-renamed", "vfio.dev/nvidia-234")))
        mdev.create(kernel, "0000:3b:00.0", "nvidia-230", ours)
        mdev.create(kernel, "0000:3b:00.0", "nvidia-230", FOREIGN)
        mdev.create(kernel, "0000:af:00.0", "nvidia-234", others)
        with hold(kernel, ours):
            result = run("devices", "--simulated", kernel.paths.root, "--node-name", "worker")
        assert (result.code, result.err) == (0, "")
        assert [re.split(r"\s{2,}", line) for line in result.out.splitlines()] == [
            ["UUID", "TYPE", "PARENT", "GROUP", "USE", "OWNER", "RESOURCE", "SLOT", "NUMA", "POD"],
            [FOREIGN, "nvidia-230", "0000:3b:00.0", "1", "idle", "foreign", "-", "-", "0", "-"],
            [ours, "nvidia-230", "0000:3b:00.0", "0", "in-use", "ours", "vfio.dev/nvidia-230", "5", "0", "-"],
            [
                *(others, "nvidia-234", "0000:af:00.0", "2", "idle", "other-node"),
                *("vfio.dev/nvidia-234", "0", "1", "-"),
            ],
        ]

    async def test_names_the_pod_and_never_opens_what_a_pod_has(
        self, run: Run, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kernel = node("samples")
        uuid = str(SlotId(None, 0, resource_hash("n", "vfio.dev/mtty-1")))
        mdev.create(kernel, "mtty", "mtty-1", uuid)
        with tempfile.TemporaryDirectory(prefix="mdev-") as short:
            async with SimulatedKubelet(Path(short), list_empty_for=0) as kubelet:
                pod = Pod(
                    PodSpec("vm", "prod", [ContainerSpec("c", {"example.com/serial": 1})]), "u", listed=True
                )
                kubelet.know(
                    Entry(
                        pod_uid="u",
                        container="c",
                        resource="example.com/serial",
                        devices={uuid: ()},
                        response=b"",
                    ),
                    pod=pod,
                )
                monkeypatch.setattr(SimulatedKernel, "open_group", lambda *_: pytest.fail("it was opened"))
                result = await asyncio.to_thread(
                    lambda: run(
                        *("devices", "--simulated", kernel.paths.root, "--node-name", "n"),
                        *("--kubelet-root", short, "-o", "json"),
                    )
                )
        assert result.err == ""
        assert result.json == {
            "version": 1,
            "devices": [
                {
                    "uuid": uuid,
                    "type": "mtty-1",
                    "parent": "mtty",
                    "group": 0,
                    "use": "in-use",
                    "ours": True,
                    "other_node": False,
                    "adopted": False,
                    "resource": "example.com/serial",
                    "slot": 0,
                    "numa_node": None,
                    "pod_namespace": "prod",
                    "pod_name": "vm",
                }
            ],
        }

    def test_a_kubelet_that_is_not_there_is_said_and_no_failure(
        self, run: Run, node: Node, tmp_path: Path
    ) -> None:
        kernel = node("samples")
        mdev.create(kernel, "mtty", "mtty-1", FOREIGN)
        result = run("devices", "--simulated", kernel.paths.root, "--kubelet-root", tmp_path / "no")
        assert result.code == 0
        assert FOREIGN in result.out
        assert result.err == (
            f"mdev-device-plugin: pods are not shown: there is no kubelet in {tmp_path / 'no'}\n"
        )
        assert " idle " in result.out

    @pytest.mark.parametrize("trace", ["pod_resources", "registration", "checkpoint"])
    def test_nothing_is_opened_while_a_kubelet_that_is_there_can_not_be_asked(
        self, run: Run, node: Node, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trace: str
    ) -> None:
        kernel = node("samples")
        mdev.create(kernel, "mtty", "mtty-1", FOREIGN)
        path: Path = getattr(KubeletPaths(tmp_path / "kubelet"), trace)
        path.parent.mkdir(parents=True)
        path.write_text('{"Data": {"PodDeviceEntries": null}}')
        monkeypatch.setattr(SimulatedKernel, "open_group", lambda *_: pytest.fail("it was opened"))
        result = run("devices", "--simulated", kernel.paths.root, "--kubelet-root", tmp_path / "kubelet")
        assert (result.code, result.err.count("\n")) == (0, 1)
        assert (
            "pods are not shown, and the use of what the kubelet does not name elsewhere stays unknown"
            in result.err
        )
        assert " unknown " in result.out

    def test_nothing_is_opened_where_it_can_not_be_seen_whether_there_is_a_kubelet(
        self, run: Run, node: Node, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        kernel = node("samples")
        mdev.create(kernel, "mtty", "mtty-1", FOREIGN)
        root = tmp_path / "kubelet"
        looks = Path.lstat

        def refuse(path: Path) -> os.stat_result:
            if path.is_relative_to(root):
                raise PermissionError(13, "Permission denied")
            return looks(path)

        monkeypatch.setattr(Path, "lstat", refuse)
        monkeypatch.setattr(SimulatedKernel, "open_group", lambda *_: pytest.fail("it was opened"))
        result = run("devices", "--simulated", kernel.paths.root, "--kubelet-root", root, "-o", "json")
        assert (result.code, result.json["devices"][0]["use"]) == (0, "unknown")

    def test_what_the_checkpoint_names_is_in_use_and_not_opened(
        self, run: Run, node: Node, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        kernel = node("samples")
        mdev.create(kernel, "mtty", "mtty-1", FOREIGN)
        remember(tmp_path, FOREIGN)
        monkeypatch.setattr(SimulatedKernel, "open_group", lambda *_: pytest.fail("it was opened"))
        where = ("--simulated", kernel.paths.root, "--kubelet-root", tmp_path)
        for more in ((), ("--no-probe",)):
            (device,) = run("devices", *where, *more, "-o", "json").json["devices"]
            assert (device["use"], device["resource"]) == ("in-use", "example.com/serial")
            assert device["pod_name"] is None

    async def test_what_only_the_checkpoint_names_is_in_use_while_the_kubelet_lists_no_pods(
        self, run: Run, node: Node
    ) -> None:
        kernel = node("samples")
        other = FOREIGN.replace("1", "2")
        for uuid in (FOREIGN, other):
            mdev.create(kernel, "mtty", "mtty-1", uuid)
        with tempfile.TemporaryDirectory(prefix="mdev-") as short:
            async with SimulatedKubelet(Path(short), list_empty_for=0):
                remember(Path(short), FOREIGN)
                arguments = ("devices", "--simulated", kernel.paths.root, "--kubelet-root", short)
                result = await asyncio.to_thread(run, *arguments, "-o", "json")
        assert result.err == ""
        assert [device["use"] for device in result.json["devices"]] == ["in-use", "idle"]

    async def test_a_checkpoint_that_can_not_be_read_leaves_the_use_of_others_unknown(
        self, run: Run, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kernel = node("samples")
        mdev.create(kernel, "mtty", "mtty-1", FOREIGN)
        monkeypatch.setattr(SimulatedKernel, "open_group", lambda *_: pytest.fail("it was opened"))
        with tempfile.TemporaryDirectory(prefix="mdev-") as short:
            async with SimulatedKubelet(Path(short), list_empty_for=0) as kubelet:
                await kubelet.damage_checkpoint("unreadable")
                arguments = ("devices", "--simulated", kernel.paths.root, "--kubelet-root", short)
                probing = await asyncio.to_thread(run, *arguments)
                not_probing = await asyncio.to_thread(run, *arguments, "--no-probe")
        assert (probing.code, probing.err.count("\n")) == (0, 1)
        assert "what the kubelet remembers is not shown, and the use of" in probing.err
        assert " unknown " in probing.out
        assert "what the kubelet remembers is not shown: " in not_probing.err

    def test_what_may_not_be_opened_is_unknown(
        self, run: Run, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kernel = node("samples")
        mdev.create(kernel, "mtty", "mtty-1", FOREIGN)

        def refuse(*_: object) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(SimulatedKernel, "open_group", refuse)
        result = run("devices", "--simulated", kernel.paths.root, "-o", "json")
        assert (result.code, result.json["devices"][0]["use"]) == (0, "unknown")

    def test_nothing_is_opened_where_that_is_not_wanted(
        self, run: Run, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kernel = node("samples")
        mdev.create(kernel, "mtty", "mtty-1", FOREIGN)
        monkeypatch.setattr(SimulatedKernel, "open_group", lambda *_: pytest.fail("it was opened"))
        result = run("devices", "--simulated", kernel.paths.root, "--no-probe", "-o", "json")
        assert result.json["devices"][0]["use"] is None

    def test_names_the_resource_that_a_foreign_device_is_offered_as(
        self, run: Run, node: Node, tmp_path: Path
    ) -> None:
        kernel = node("samples")
        other = FOREIGN.replace("1", "2")
        mdev.create(kernel, "mtty", "mtty-2", FOREIGN)
        mdev.create(kernel, "mtty", "mtty-1", other)
        config = write(
            tmp_path,
            "version: v1\nresources: [{name: example.com/serial, types: [mtty-2], adoptExisting: {}}]\n",
        )
        arguments = ("devices", "--simulated", kernel.paths.root, "--config", config)
        shown = [line.split()[5:7] for line in run(*arguments).out.splitlines()]
        assert shown == [["OWNER", "RESOURCE"], ["adopted", "example.com/serial"], ["foreign", "-"]]
        listed = run(*arguments, "-o", "json").json["devices"]
        assert [(device["ours"], device["adopted"], device["resource"]) for device in listed] == [
            (False, True, "example.com/serial"),
            (False, False, None),
        ]

    def test_says_that_there_are_none(self, run: Run, node: Node) -> None:
        run("devices", "--simulated", node("samples").paths.root).fails(0, "no mediated device exists here")


class TestCheck:
    CONFIG = """
        version: v1
        discovery: {include: [nvidia-230, nvidia-234]}
        resources:
        - {name: example.com/some, types: ["GRID T4-2Q", nvidia-23*], max: 10}
        - {name: example.com/none, types: [nvidia-9]}
        - {name: example.com/nowhere, types: [nvidia-230], parents: {addresses: ["0000:99*"]}}
        """

    def test_shows_what_would_be_offered_and_warns_of_what_finds_nothing(
        self, run: Run, node: Node, tmp_path: Path
    ) -> None:
        root = node("nvidia-t4").paths.root
        result = run("check", write(tmp_path, self.CONFIG), "--simulated", root)
        assert result.code == 0
        assert result.out == lines("""
            RESOURCE             DEVICES  BY NUMA NODE  TYPES, PREFERRED FIRST
            example.com/some          10  0: 8, 1: 2    nvidia-231, nvidia-230, nvidia-232, nvidia-233, nvidia-234
            example.com/none           0  -             -
            example.com/nowhere        0  -             nvidia-230
            vfio.dev/nvidia-230       32  0: 16, 1: 16  nvidia-230
            vfio.dev/nvidia-234        2  0: 1, 1: 1    nvidia-234
        """)
        assert result.err == lines("""
            mdev-device-plugin: warning: example.com/none finds none of its types here: nvidia-9
            mdev-device-plugin: warning: example.com/nowhere finds no parent here that its 'parents' allow
            mdev-device-plugin: warning: example.com/nowhere: no parent here matches its parents.addresses: 0000:99*
        """)

    def test_tells_programs_the_same(self, run: Run, node: Node, tmp_path: Path) -> None:
        root = node("nvidia-t4").paths.root
        config = write(tmp_path, self.CONFIG)
        result = run("check", config, "--simulated", root, "-o", "json")
        assert result.err == ""
        assert {key: result.json[key] for key in ("version", "file")} == {"version": 1, "file": str(config)}
        assert result.json["resources"][-1] == {
            "resource": "vfio.dev/nvidia-234",
            "types": ["nvidia-234"],
            "devices": 2,
            "adopted": 0,
            "room": 2,
            "numa_nodes": [{"numa_node": 0, "devices": 1}, {"numa_node": 1, "devices": 1}],
        }
        assert len(result.json["warnings"]) == 3

    def test_counts_what_it_would_adopt_and_warns_of_every_pattern_that_means_nothing(
        self, run: Run, node: Node, tmp_path: Path
    ) -> None:
        kernel = node("samples")
        for _ in range(2):
            run("simulate", kernel.paths.root, "create", "mtty-2")
        config = write(
            tmp_path,
            f"""
            version: v1
            discovery: {{exclude: ["*"]}}
            resources:
            - name: example.com/serial
              types: [mtty-2, mtty-9]
              parents: {{drivers: [mtty, motty], exclude: {{numaNodes: [7]}}}}
              max: 0
              adoptExisting: {{}}
            - name: example.com/others
              types: [mtty-1]
              adoptExisting: {{types: [mtty-8], parents: {{pci: ["10de:*"]}}, uuids: [{FOREIGN}]}}
            """,
        )
        result = run("check", config, "--simulated", kernel.paths.root)
        assert result.out.splitlines()[1].split() == [
            "example.com/serial",
            "2",
            "none:",
            "2",
            "mtty-2",
        ]
        assert result.err == lines(f"""
            mdev-device-plugin: warning: example.com/serial: no type here matches its types: mtty-9
            mdev-device-plugin: warning: example.com/serial: no parent here matches its parents.drivers: motty
            mdev-device-plugin: warning: example.com/serial: no parent here matches its parents.exclude.numaNodes: 7
            mdev-device-plugin: warning: example.com/others: no type here matches its adoptExisting.types: mtty-8
            mdev-device-plugin: warning: example.com/others: no parent here matches its adoptExisting.parents.pci: 10de:*
            mdev-device-plugin: warning: example.com/others: no device here has the UUID in its adoptExisting.uuids: {FOREIGN}
        """)

    def test_warns_of_a_selector_that_misses_the_types(self, run: Run, node: Node, tmp_path: Path) -> None:
        config = write(
            tmp_path,
            """
            version: v1
            discovery: {exclude: ["*"]}
            resources: [{name: a.b/c, types: [mtty-1], parents: {addresses: [mdpy]}}]
            """,
        )
        result = run("check", config, "--simulated", node("samples").paths.root)
        assert (result.code, "none of its types on the parents" in result.err) == (0, True)

    def test_warns_of_a_discovery_that_leaves_nothing(self, run: Run, node: Node, tmp_path: Path) -> None:
        config = write(tmp_path, 'version: v1\ndiscovery: {exclude: ["*"]}\n')
        result = run("check", config, "--simulated", node("samples").paths.root)
        assert (result.code, result.out) == (0, "No resource would be offered here.\n")
        assert "discovery leaves out every type" in result.err

    def test_says_that_the_machine_has_no_mediated_devices(self, run: Run, tmp_path: Path) -> None:
        result = run("check", write(tmp_path, "version: v1"), "--host-root", tmp_path)
        assert (result.code, NO_BUS in result.err) == (0, True)

    def test_a_file_that_can_not_be_used_is_misuse_and_names_the_line(self, run: Run, tmp_path: Path) -> None:
        config = write(tmp_path, "version: v1\nreclam: {}\n")
        run("check", config).fails(2, f"{config}:2: unknown key 'reclam'; did you mean 'reclaim'?")
        run("check", tmp_path / "no.yaml").fails(2, "no.yaml", "No such file")


class TestSimulate:
    def test_makes_a_node_and_says_what_to_try(self, run: Run, tmp_path: Path) -> None:
        target = tmp_path / "new/node"
        result = run("simulate", target, "--node", "samples")
        assert (result.code, result.err) == (0, "")
        assert result.out.splitlines()[:5] == [
            f"{target}: 3 cards with 3 parents and 8 types",
            "  mtty  mtty, 2 types",
            "  mdpy  mdpy, 3 types",
            "  mbochs  mbochs, 3 types",
            "Now try:",
        ]
        for line in result.out.splitlines()[5:8]:
            assert run(*line.split()[1:]).code == 0

    def test_the_directory_may_stand_behind_too(self, run: Run, tmp_path: Path) -> None:
        assert run("simulate", "--node", "big", tmp_path / "n").code == 0

    def test_makes_a_node_of_ones_own(self, run: Run, tmp_path: Path) -> None:
        own = tmp_path / "own.yaml"
        own.write_text(description.load("samples").source)
        assert run("simulate", tmp_path / "n", "--node", own).code == 0

    def test_lists_every_node_with_what_it_is(self, run: Run) -> None:
        listed = run("simulate", "--list").out.splitlines()[1:]
        assert [line.split()[0] for line in listed] == description.names()
        assert all(len(line.split()) > 3 for line in listed)

    def test_leaves_a_node_that_is_there_if_only_a_missing_one_is_wanted(
        self, run: Run, tmp_path: Path
    ) -> None:
        there = tmp_path / "node"
        made = run("simulate", there, "--if-missing", "--node", "samples")
        assert made.out.startswith(f"{there}: 3 cards")
        run("simulate", there, "create", "mtty-1", "--uuid", FOREIGN)
        stays = f"{there} holds a simulated node already; it stays as it is"
        assert run("simulate", there, "--node", "samples", "--if-missing") == Result(0, f"{stays}\n", "")
        for node, differs in {
            "big": "is another than 'big'",
            "nvidia-t5": "can't be compared with 'nvidia-t5' (There is no node 'nvidia-t5'",
        }.items():
            result = run("simulate", there, "--node", node, "--if-missing")
            assert (result.code, result.err, result.out.count("\n")) == (0, "", 1)
            assert result.out.startswith(f"{stays}, though it {differs}")
        result = run("simulate", there, "--node", "big", "--if-missing", "--device-nodes")
        assert (result.code, result.err) == (0, "")
        assert result.out == (
            f"{stays}, though it is another than 'big' and has files in the place of device nodes, "
            "which no container runtime hands on\n"
        )
        assert mdev.find(HostPaths(there), FOREIGN) is not None

    def test_processes_at_once_that_want_a_missing_node_all_succeed(self, tmp_path: Path) -> None:
        target = tmp_path / "new/node"
        command = [sys.executable, "-m", "deviceplugin", "simulate", str(target), "--node", "samples"]
        children = [
            subprocess.Popen([*command, "--if-missing"], stdout=subprocess.PIPE, text=True) for _ in range(3)
        ]
        told = [child.communicate()[0].splitlines()[0] for child in children]
        assert [child.returncode for child in children] == [0, 0, 0]
        assert sorted(told) == [
            *[f"{target} holds a simulated node already; it stays as it is"] * 2,
            f"{target}: 3 cards with 3 parents and 8 types",
        ]

    def test_makes_device_nodes(self, run: Run, tmp_path: Path) -> None:
        there = tmp_path / "node"
        made = run("simulate", there, "--node", "samples", "--device-nodes")
        if made.code:
            made.fails(1, "no device node can be made", "MKNOD")
            pytest.skip(made.err)
        assert made.out.splitlines()[0] == f"{there}: 3 cards with 3 parents and 8 types, with device nodes"
        run("simulate", there, "create", "mtty-1")
        assert [path.is_char_device() for path in HostPaths(there).vfio.iterdir()] == [True, True]
        assert run("simulate", there, "--node", "samples", "--if-missing").out.endswith(
            "though it has device nodes, which were not asked for\n"
        )

    def test_a_device_whose_node_can_not_be_made_is_refused_with_what_to_do(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        there = tmp_path / "node"
        monkeypatch.setattr(os, "mknod", lambda path, *_: Path(path).touch())
        run("simulate", there, "--node", "samples", "--device-nodes")

        def refuse(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "mknod", refuse)
        run("simulate", there, "create", "mtty-1").fails(
            1, "mtty-1 could not be made on mtty: no device node can be made in", "EPERM (", "MKNOD"
        )
        run("simulate", tmp_path / "n", "--node", "samples", "--device-nodes").fails(1, "EPERM (", "MKNOD")
        assert not (tmp_path / "n").exists()

    def test_says_how_when_called_wrongly(self, run: Run, tmp_path: Path) -> None:
        there = tmp_path / "there"
        run("simulate", there, "--node", "samples")
        for arguments in ([], ["--node", "samples"]):
            run("simulate", *arguments).fails(2, "'DIR'", "'simulate /tmp/node --node nvidia-t4'", "--list")
        run("simulate", tmp_path / "n").fails(2, "--node", "--list")
        run("simulate", tmp_path / "n", "--node", "nvidia-t5").fails(2, "'nvidia-t5'", "nvidia-t4")
        assert not (tmp_path / "n").exists()
        run("simulate", tmp_path, "--node", "samples").fails(2, "is not empty")
        run("simulate", there, "--node", "samples").fails(2, "already")
        run("simulate", tmp_path / "n", "reboot").fails(2, "no simulated node", "--node NAME")
        run("simulate", "--node", "samples", there, "reboot").fails(2, "--node")
        run("simulate", "--if-missing", there, "reboot").fails(2, "--if-missing")
        run("simulate", tmp_path / "n", "--if-missing").fails(2, "--node", "--list")
        run("simulate", there, "explode").fails(2, "No such command 'explode'")
        run("simulate", there, "create", "nvidia-1").fails(2, "no parent offers", "mtty-1")
        run("simulate", there, "create", "mtty-1", "--parent", "mdpy").fails(2, "does not offer mtty-1")
        run("simulate", there, "unregister", "mttz").fails(2, "no parent 'mttz'", "mtty")
        run("simulate", there, "remove", "x").fails(2, "not a UUID")
        run("simulate", there, "create", "mtty-1", "--uuid", "x").fails(2, "'x' is not a UUID")
        run("simulate", there, "create", "mtty-1", "--uuid", "").fails(2, "'' is not a UUID")

    def test_refusals_name_their_errno(self, run: Run, node: Node) -> None:
        kernel = node("samples")
        there = kernel.paths.root
        for _ in range(4):
            assert run("simulate", there, "create", "mdpy-hd").code == 0
        run("simulate", there, "create", "mdpy-hd").fails(1, "mdpy-hd could not be made on mdpy: EUSERS (")
        run("simulate", there, "remove", FOREIGN).fails(1, f"there is no device {FOREIGN}: ENOENT (")
        kernel.fault("fail-attach", times=1)
        mdev.create(kernel, "mtty", "mtty-1", FOREIGN)
        run("simulate", there, "hold", FOREIGN).fails(1, f"{FOREIGN} can't be held: EIO (")

    def test_plays_an_administrator(self, run: Run, node: Node) -> None:
        kernel = node("samples")
        there = kernel.paths.root
        made = run("simulate", there, "create", "mtty-2", "--uuid", FOREIGN)
        assert made.out == f"{FOREIGN}  mtty-2 on mtty, group 0\n"
        assert run("simulate", there, "remove", FOREIGN) == Result(0, "", "")
        assert mdev.find(kernel.paths, FOREIGN) is None
        assert run("simulate", there, "unregister", "mtty").code == 0
        assert "mtty" not in mdev.scan(kernel.paths).snapshot.by_address
        assert run("simulate", there, "register", "mtty").code == 0
        run("simulate", there, "create", "mtty-2", "--uuid", FOREIGN)
        assert run("simulate", there, "reboot").code == 0
        snapshot = mdev.scan(kernel.paths).snapshot
        assert ("mtty" in snapshot.by_address, len(snapshot.devices)) == (True, 0)

    def test_has_things_go_wrong_until_it_is_told_otherwise(self, run: Run, node: Node) -> None:
        kernel = node("samples")
        there = kernel.paths.root
        told = run("simulate", there, "fault", "fail-create", "--type", "mtty-1", "--errno", "enospc")
        assert told == Result(
            0,
            "fail-create, mtty-1 on every parent: ENOSPC (No space left on device), until 'clear-faults'\n",
            "",
        )
        run("simulate", there, "create", "mtty-1").fails(1, "ENOSPC (")
        assert run("simulate", there, "create", "mtty-2").code == 0
        assert run("simulate", there, "clear-faults") == Result(0, "", "")
        assert run("simulate", there, "create", "mtty-1", "--uuid", FOREIGN).code == 0
        told = run("simulate", there, "fault", "fail-attach", "--parent", "mtty", "--times", 1)
        assert told.out == "fail-attach, every type on mtty: EIO (Input/output error), 1 time\n"
        run("simulate", there, "hold", FOREIGN).fails(1, f"{FOREIGN} can't be held: EIO (")
        with hold(kernel, FOREIGN):
            pass
        run("simulate", there, "fault", "fail-remove", "--errno", "EBUSY", "--times", 2)
        run("simulate", there, "remove", FOREIGN).fails(1, "could not be removed: EBUSY (")
        assert mdev.find(kernel.paths, FOREIGN) is None

    def test_has_a_create_take_its_time(self, run: Run, node: Node) -> None:
        there = node("samples").paths.root
        told = run("simulate", there, "fault", "slow-create", "--seconds", "0.3", "--times", 1)
        assert told.out == "slow-create, every type on every parent: 0.3 s, 1 time\n"
        began = time.monotonic()
        assert run("simulate", there, "create", "mtty-1").code == 0
        assert time.monotonic() - began > 0.3

    def test_has_files_read_otherwise(self, run: Run, node: Node) -> None:
        kernel = node("samples")
        there, mtty = kernel.paths.root, kernel.paths.type("mtty", "mtty-1")
        told = run("simulate", there, "fault", "odd-count", "--type", "mtty-1", "--content", "many")
        assert told.out == "odd-count, mtty-1 on every parent: reads 'many', until 'clear-faults'\n"
        assert (mtty / "available_instances").read_text() == "many\n"
        told = run("simulate", there, "fault", "odd-count", "--type", "mtty-1")
        assert told.out == "odd-count, mtty-1 on every parent: no such file, until 'clear-faults'\n"
        assert not (mtty / "available_instances").exists()
        told = run("simulate", there, "fault", "no-name")
        assert told.out == "no-name, every type on every parent: until 'clear-faults'\n"
        assert not (mtty / "name").exists()
        run("simulate", there, "clear-faults")
        assert (mtty / "available_instances").read_text() == "24\n"
        assert (mtty / "name").read_text() == "Single port serial\n"

    def test_a_fault_that_makes_no_sense_is_said(self, run: Run, node: Node) -> None:
        there = node("samples").paths.root
        for arguments, words in {
            "": ["KIND"],
            "explode": ["'explode'", "slow-create"],
            "fail-create --errno EIOO": ["--errno", "'EIOO' is no errno; did you mean EIO?"],
            "fail-create --errno ?": ["such as EIO"],
            "fail-create --parent mttz": ["no parent 'mttz'", "mtty"],
            "fail-create --type mtty-3": ["no parent offers the type 'mtty-3'", "mtty-1"],
            "fail-create --parent mdpy --type mtty-1": ["'mdpy' does not offer the type 'mtty-1'", "mdpy-hd"],
            "fail-create --times 0": ["--times"],
            "fail-create --seconds 1": ["fail-create takes no --seconds", "--errno"],
            "slow-create": ["--seconds"],
            "slow-create --seconds -1": ["--seconds"],
            "no-name --times 1": ["no-name takes no --times"],
            "odd-count --errno EIO": ["odd-count takes no --errno", "--content"],
        }.items():
            run("simulate", there, "fault", *arguments.split()).fails(2, *words)
        assert Journal(there).load().faults == ()

    def test_every_kind_of_fault_is_explained(self, run: Run, node: Node) -> None:
        shown = run("simulate", node("samples").paths.root, "fault", "--help").out
        assert [kind for kind in get_args(FaultKind) if f"\n  {kind} " not in shown] == []

    def test_plays_a_vm_until_it_is_interrupted(self, run: Run, node: Node) -> None:
        kernel = node("samples")
        mdev.create(kernel, "mtty", "mtty-1", FOREIGN)
        with held_by_command(kernel.paths.root) as vm:
            assert vm.stdout is not None
            assert vm.stdout.readline() == f"holding {FOREIGN}, group 0; Ctrl-C lets go\n"
            run("simulate", kernel.paths.root, "hold", FOREIGN).fails(1, "EBUSY (")
            shown = run("devices", "--simulated", kernel.paths.root, "-o", "json").json
            assert shown["devices"][0]["use"] == "in-use"
            vm.send_signal(signal.SIGINT)
            assert vm.wait(10) == 0
        assert run("simulate", kernel.paths.root, "remove", FOREIGN).err == ""


class held_by_command:  # noqa: N801  # reads as what it is
    """``simulate DIR hold``, as a process."""

    def __init__(self, root: Path) -> None:
        command = [sys.executable, "-m", "deviceplugin", "simulate", str(root), "hold", FOREIGN]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> subprocess.Popen[str]:
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


class TestAll:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_has_help(self, run: Run, name: str) -> None:
        result = run(name, "--help")
        assert (result.code, result.err) == (0, "")
        assert result.out.startswith(f"Usage: mdev-device-plugin {name}")
        assert max(map(len, result.out.splitlines())) <= 100

    @pytest.mark.parametrize(
        ("name", "columns"),
        [("types", "CARD API AVAIL ROOM HAVE TAKES NUMA RESOURCES"), ("devices", "OWNER RESOURCE SLOT")],
    )
    def test_the_help_of_a_table_explains_its_columns(self, run: Run, name: str, columns: str) -> None:
        shown = run(name, "--help").out
        assert [column for column in columns.split() if not re.search(rf"\n  {column} {{2,}}\w", shown)] == []

    def test_the_first_help_names_every_command(self, run: Run) -> None:
        out = run("--help").out
        assert [name for name in COMMANDS if f"\n  {name} " not in out] == []

    def test_a_command_that_there_is_not_is_misuse(self, run: Run) -> None:
        run("explode").fails(2, "No such command 'explode'")

    def test_without_a_command_the_help_is_shown_as_it_is(self, run: Run) -> None:
        called = run()
        assert (called.code, called.out) == (2, "")
        assert called.err == run("--help").out

    @pytest.mark.parametrize("buffered", ["", "1"])
    def test_an_output_that_can_not_be_written_is_one_line(self, node: Node, buffered: str) -> None:
        root = str(node("samples").paths.root)
        command = [sys.executable, "-m", "deviceplugin", "types", "--simulated", root]
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                command,
                env={**os.environ, "PYTHONUNBUFFERED": buffered},
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert done.returncode == 1
        assert done.stderr == (
            "mdev-device-plugin: the output can't be written: ENOSPC (No space left on device)\n"
        )

    def test_a_reader_that_leaves_early_is_not_told(self, node: Node) -> None:
        root = str(node("samples").paths.root)
        command = [sys.executable, "-m", "deviceplugin", "types", "--simulated", root]
        reader, writer = os.pipe()
        os.close(reader)
        try:
            done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
        finally:
            os.close(writer)
        assert (done.returncode, done.stderr) == (1, b"")

    def test_a_defect_is_not_taken_for_an_output_that_fails(
        self, run: Run, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = node("samples").paths.root

        def broken(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("deviceplugin.cli.types.look", broken)
        with pytest.raises(OSError, match="No space left"):
            run("types", "--simulated", root)

    def test_a_node_is_either_simulated_or_somewhere_else(self, run: Run, tmp_path: Path) -> None:
        for name in ("types", "devices"):
            run(name, "--simulated", tmp_path, "--host-root", tmp_path).fails(2, "exclude each other")

    def test_a_directory_without_a_node_is_said(self, run: Run, tmp_path: Path) -> None:
        run("types", "--simulated", tmp_path).fails(2, "holds no simulated node")
        run("types", "--simulated", tmp_path / "no").fails(2, "does not exist")

    def test_a_node_of_another_user_is_said(
        self, run: Run, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = node("samples").paths.root

        def refuse(_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(SimulatedKernel, "settle", refuse)
        run("types", "--simulated", root).fails(
            2, f"The node in {root} can't be used: EACCES (Permission denied)"
        )

    def test_the_schema_is_one_and_takes_a_configuration(self, run: Run) -> None:
        schema = run("schema").json
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate({"version": "v1", "reclaim": {"enabled": False}}, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"version": "v1", "reclam": {}}, schema)

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_completion_is_a_script_that_asks_this_program(self, run: Run, shell: str) -> None:
        result = run("completion", shell)
        assert "_MDEV_DEVICE_PLUGIN_COMPLETE" in result.out
        assert "mdev-device-plugin" in result.out

    def test_completion_knows_the_commands(self) -> None:
        asked = {
            "_MDEV_DEVICE_PLUGIN_COMPLETE": "bash_complete",
            "COMP_WORDS": "mdev-device-plugin ",
            "COMP_CWORD": "1",
        }
        command = [sys.executable, "-m", "deviceplugin"]
        done = subprocess.run(
            command, env={**os.environ, **asked}, capture_output=True, text=True, check=False
        )
        assert [name for name in COMMANDS if f"plain,{name}\n" not in done.stdout] == []


class TestTable:
    def test_a_column_makes_room_where_the_terminal_is_narrow(self) -> None:
        rows = [("1", "a very long name of a type", "end")]
        assert table(("ID", "NAME", "LAST"), rows, shrinks="NAME", width=20).splitlines() == [
            "ID  NAME        LAST",
            "1   a very lo…  end",
        ]

    def test_it_is_never_cut_beyond_recognition(self) -> None:
        assert "a very …" in table(("ID", "NAME"), [("1", "a very long name")], shrinks="NAME", width=1)

    def test_numbers_are_aligned_at_their_right(self) -> None:
        assert table(("N",), [("1",), ("10",)], right=("N",)) == " N\n 1\n10"
