"""``devices remove``, as a person or a program meets it: what it removes, and what it refuses and why."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from deviceplugin.host import mdev
from deviceplugin.inventory.slots import SlotId, resource_hash
from deviceplugin.kubelet.paths import KubeletPaths
from deviceplugin.simulator.kubelet.checkpointfile import Entry
from deviceplugin.simulator.kubelet.kubelet import ContainerSpec, Pod, PodSpec, SimulatedKubelet
from deviceplugin.simulator.node.kernel import SimulatedKernel
from deviceplugin.simulator.node.vm import hold
from tests.unit.test_cli import FOREIGN, Node, Result, Run, node, remember, run

__all__ = ["node", "run"]  # fixtures


def made_for(node_name: str, index: int = 0) -> str:
    return str(SlotId(None, index, resource_hash(node_name, "vfio.dev/mtty-1")))


OURS, OTHER = made_for("n"), made_for("n", 1)
OTHER_NODES = made_for("before-it-was-renamed")


@pytest.fixture
def kernel(node: Node) -> SimulatedKernel:
    """A node with two devices of ours, one of another node's name, and one that somebody else made."""
    kernel = node("samples")
    for uuid in (OURS, OTHER, OTHER_NODES, FOREIGN):
        mdev.create(kernel, "mtty", "mtty-1", uuid)
    return kernel


def left(kernel: SimulatedKernel) -> set[str]:
    return set(mdev.scan(kernel.paths).snapshot.devices)


ALL = {OURS, OTHER, OTHER_NODES, FOREIGN}


def on(kernel: SimulatedKernel, *more: object) -> tuple[object, ...]:
    return ("devices", "remove", "--simulated", kernel.paths.root, "--node-name", "n", *more)


def refused(result: Result, uuid: str, why: str) -> str:
    """The sentence for the one device that was named, which was refused for that reason."""
    assert (result.code, result.err) == (1, "")
    (device,) = result.json["devices"]
    assert (result.json["version"], device["uuid"], device["result"]) == (1, uuid, why)
    return str(device["why"])


async def beside(*arguments: object) -> Result:
    """Call it as a process of its own, while this one plays the kubelet."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deviceplugin", *map(str, arguments)),
        env={name: value for name, value in os.environ.items() if not name.startswith(("MDEV_", "NODE_"))},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return Result(process.returncode or 0, out.decode(), err.decode())


@asynccontextmanager
async def a_kubelet(*, holding: str | None = None) -> AsyncIterator[tuple[SimulatedKubelet, str]]:
    """A kubelet that has written a checkpoint and lists a pod, which has that device."""
    with tempfile.TemporaryDirectory(prefix="mdev-") as short:
        async with SimulatedKubelet(Path(short), list_empty_for=0) as kubelet:
            remember(Path(short), FOREIGN)
            if holding is not None:
                resource = "vfio.dev/mtty-1"
                spec = PodSpec("vm", "prod", [ContainerSpec("c", {resource: 1})])
                entry = Entry(
                    pod_uid="u", container="c", resource=resource, devices={holding: ()}, response=b""
                )
                kubelet.know(entry, pod=Pod(spec, "u", listed=True))
            yield kubelet, short


class TestRemoves:
    def test_what_it_is_told_to_and_nothing_else(self, run: Run, kernel: SimulatedKernel) -> None:
        assert run(*on(kernel, OURS)) == Result(0, f"UUID{' ' * 34}RESULT   WHY\n{OURS}  removed  -\n", "")
        assert left(kernel) == ALL - {OURS}

    def test_several_and_each_once(self, run: Run, kernel: SimulatedKernel) -> None:
        result = run(*on(kernel, OURS, OTHER, OURS, "-o", "json"))
        assert (result.code, result.err) == (0, "")
        assert result.json == {
            "version": 1,
            "devices": [{"uuid": uuid, "result": "removed", "why": None} for uuid in (OURS, OTHER)],
        }
        assert left(kernel) == ALL - {OURS, OTHER}

    def test_the_others_although_one_can_not_be_had(self, run: Run, kernel: SimulatedKernel) -> None:
        result = run(*on(kernel, FOREIGN, OURS))
        assert (result.code, result.err) == (1, "")
        assert [line.split()[:2] for line in result.out.splitlines()[1:]] == [
            [FOREIGN, "foreign"],
            [OURS, "removed"],
        ]
        assert left(kernel) == ALL - {OURS}

    async def test_what_a_kubelet_that_can_be_asked_does_not_name(self, kernel: SimulatedKernel) -> None:
        async with a_kubelet(holding=OTHER) as (_, root):
            result = await beside(*on(kernel, OURS, "--kubelet-root", root))
        assert (result.code, result.err) == (0, "")
        assert left(kernel) == ALL - {OURS}

    def test_what_bears_another_nodes_name_if_that_is_wanted(self, run: Run, kernel: SimulatedKernel) -> None:
        assert run(*on(kernel, "--other-nodes", OTHER_NODES)).code == 0
        assert left(kernel) == ALL - {OTHER_NODES}


class TestLeavesAlone:
    @pytest.mark.parametrize("more", [(), ("--other-nodes",)])
    def test_what_somebody_else_made(self, run: Run, kernel: SimulatedKernel, more: tuple[str, ...]) -> None:
        why = refused(run(*on(kernel, *more, FOREIGN, "-o", "json")), FOREIGN, "foreign")
        assert "this plugin did not make it" in why
        assert left(kernel) == ALL

    def test_what_bears_another_nodes_name(self, run: Run, kernel: SimulatedKernel) -> None:
        why = refused(run(*on(kernel, OTHER_NODES, "-o", "json")), OTHER_NODES, "other-node")
        assert "another node's name than 'n' (--node-name)" in why
        assert "--other-nodes" in why
        assert left(kernel) == ALL

    @pytest.mark.parametrize(("uuid", "more"), [(OURS, ()), (OTHER_NODES, ("--other-nodes",))])
    def test_what_a_vm_has(self, run: Run, kernel: SimulatedKernel, uuid: str, more: tuple[str, ...]) -> None:
        with hold(kernel, uuid) as machine:
            why = refused(run(*on(kernel, *more, uuid, "-o", "json")), uuid, "in-use")
            assert f"its VFIO group {machine.group} is open; 'fuser /dev/vfio/{machine.group}'" in why
        assert left(kernel) == ALL

    @pytest.mark.parametrize(("uuid", "more"), [(OURS, ()), (OTHER_NODES, ("--other-nodes",))])
    async def test_what_a_pod_has_that_has_not_opened_it(
        self, kernel: SimulatedKernel, uuid: str, more: tuple[str, ...]
    ) -> None:
        async with a_kubelet(holding=uuid) as (_, root):
            call = on(kernel, *more, uuid, "--kubelet-root", root, "-o", "json")
            why = refused(await beside(*call), uuid, "in-use")
        assert why == "the pod prod/vm has it, in its container c"
        assert left(kernel) == ALL

    async def test_what_only_the_kubelets_checkpoint_names(self, kernel: SimulatedKernel) -> None:
        async with a_kubelet() as (_, root):
            remember(Path(root), OURS)
            call = on(kernel, OURS, "--kubelet-root", root, "-o", "json")
            why = refused(await beside(*call), OURS, "in-use")
        assert "the kubelet's checkpoint names it" in why
        assert left(kernel) == ALL

    @pytest.mark.parametrize("remembers", [False, True])
    def test_everything_while_the_kubelet_can_not_be_asked(
        self, run: Run, kernel: SimulatedKernel, tmp_path: Path, remembers: bool
    ) -> None:
        root = tmp_path / "kubelet"
        root.mkdir()
        if remembers:
            remember(root, FOREIGN)
        call = on(kernel, OURS, "--other-nodes", OTHER_NODES, "--kubelet-root", root, "-o", "json")
        result = run(*call)
        assert (result.code, result.err) == (1, "")
        assert [device["result"] for device in result.json["devices"]] == ["unknown", "unknown"]
        assert "it is not known whether a pod has it: " in result.json["devices"][0]["why"]
        assert "--kubelet-root" in result.json["devices"][0]["why"]
        assert left(kernel) == ALL

    @pytest.mark.parametrize("damage", ["unreadable", "missing"])
    async def test_everything_while_the_kubelets_checkpoint_can_not_be_had(
        self, kernel: SimulatedKernel, damage: str
    ) -> None:
        async with a_kubelet() as (kubelet, root):
            if damage == "missing":
                KubeletPaths(Path(root)).checkpoint.unlink()
            else:
                await kubelet.damage_checkpoint("unreadable")
            call = on(kernel, OURS, "--kubelet-root", root, "-o", "json")
            why = refused(await beside(*call), OURS, "unknown")
        assert "checkpoint" in why
        assert left(kernel) == ALL

    def test_what_may_not_be_opened(
        self, run: Run, kernel: SimulatedKernel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(SimulatedKernel, "open_group", refuse)
        why = refused(run(*on(kernel, OURS, "-o", "json")), OURS, "failed")
        assert "can't be opened" in why
        assert left(kernel) == ALL

    def test_what_does_not_exist(self, run: Run, kernel: SimulatedKernel) -> None:
        uuid = made_for("n", 7)
        assert refused(run(*on(kernel, uuid, "-o", "json")), uuid, "no-device") == "there is no such device"

    def test_what_its_driver_refuses_to_remove(
        self, run: Run, kernel: SimulatedKernel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(SimulatedKernel, "write", refuse)
        assert "could not be removed" in refused(run(*on(kernel, OURS, "-o", "json")), OURS, "failed")

    def test_a_driver_that_never_answers_is_said_and_not_asked_again(
        self, run: Run, kernel: SimulatedKernel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        released = threading.Event()
        monkeypatch.setattr(SimulatedKernel, "write", lambda *_: released.wait(30))
        monkeypatch.setattr("deviceplugin.cli.remove.REMOVE_DEADLINE", 0.1)
        try:
            result = run(*on(kernel, OURS, OTHER, "-o", "json"))
        finally:
            released.set()
        assert (result.code, result.err) == (1, "")
        first, second = result.json["devices"]
        assert (first["result"], second["result"]) == ("failed", "failed")
        assert "the driver of mtty did not answer within 0.1 s" in first["why"]
        assert "it was not tried" in second["why"]


class TestMisuse:
    @pytest.mark.parametrize(
        "text", ["x", "", OURS.upper(), OURS.replace("-", ""), f"{{{OURS}}}", f"{OURS}\n", f"../{OURS}"]
    )
    def test_what_is_not_a_uuid_as_sysfs_writes_it(
        self, run: Run, kernel: SimulatedKernel, text: str
    ) -> None:
        run(*on(kernel, OTHER, text)).fails(2, "is not a UUID as sysfs writes it: 36 characters, lower case")
        assert left(kernel) == ALL, "nor is what stands beside it removed"

    def test_no_device(self, run: Run, kernel: SimulatedKernel) -> None:
        run(*on(kernel)).fails(2, "UUID")

    def test_an_option_of_the_list(self, run: Run, kernel: SimulatedKernel) -> None:
        result = run("devices", "--simulated", kernel.paths.root, "remove", "--node-name", "n", OURS)
        result.fails(2, "--simulated stands before 'remove'", "devices remove --simulated")
        assert left(kernel) == ALL

    def test_a_command_that_there_is_not(self, run: Run) -> None:
        run("devices", "explode").fails(2, "No such command 'explode'")


class TestHelp:
    def test_says_what_another_nodes_name_comes_to(self, run: Run) -> None:
        result = run("devices", "remove", "--help")
        assert (result.code, result.err) == (0, "")
        assert result.out.startswith("Usage: mdev-device-plugin devices remove [OPTIONS] UUID...")
        assert "kubelet is not asked" in " ".join(result.out.split())
        assert "\n  remove " in run("devices", "--help").out

    def test_completion_knows_it(self) -> None:
        asked = {
            "_MDEV_DEVICE_PLUGIN_COMPLETE": "bash_complete",
            "COMP_WORDS": "mdev-device-plugin devices ",
            "COMP_CWORD": "2",
        }
        command = [sys.executable, "-m", "deviceplugin"]
        done = subprocess.run(
            command, env={**os.environ, **asked}, capture_output=True, text=True, check=False
        )
        assert "plain,remove\n" in done.stdout
