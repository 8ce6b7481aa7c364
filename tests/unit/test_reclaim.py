"""The proof that comes before a removal: each part of it keeps a device when it fails, asked in its order."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from deviceplugin.errors import KubeletError
from deviceplugin.inventory.slots import NodeMark, SlotId
from deviceplugin.kubelet.checkpoint import Checkpoint, Holding
from deviceplugin.ledger import Ledger
from deviceplugin.pods import Pods
from deviceplugin.reclaim import HeldBack, Reclaim
from deviceplugin.settings import ReclaimSettings
from deviceplugin.simulator.node.description import load
from deviceplugin.simulator.node.kernel import SimulatedKernel
from tests import parts

OURS = str(SlotId(None, 0, 1))
GRACE = 10.0


class Kubelet:
    """A kubelet that says what a test wants it to say, and what it was asked."""

    def __init__(self) -> None:
        self.calm = 100.0
        self.lists: list[set[str] | Exception] = []
        """What the next questions are answered with; nothing is named after these."""
        self.remembers: set[str] | Exception = set()
        self.asked: list[str] = []
        self.on_list: Callable[[], None] = lambda: None

    def calm_for(self, _resource: str | None) -> float:
        return self.calm

    async def holders(self) -> Mapping[str, object]:
        self.asked.append("list")
        self.on_list()
        answer = self.lists.pop(0) if self.lists else set[str]()
        if isinstance(answer, Exception):
            raise answer
        return dict.fromkeys(answer, "default/pod")

    async def devices_now(self) -> Checkpoint:
        self.asked.append("checkpoint")
        if isinstance(self.remembers, Exception):
            raise self.remembers
        holding = Holding("vfio.dev/mtty-1", frozenset())
        return Checkpoint((0, 0, 0), dict.fromkeys(self.remembers, (holding,)))


class Scene:
    """A node with one device of ours, a kubelet, and a clock that a test turns."""

    def __init__(self, directory: Path) -> None:
        self.now = 1000.0
        self.kernel = SimulatedKernel.build(directory / "node", load("samples"))
        self.kernel.write(self.kernel.paths.create("mtty", "mtty-1"), OURS)
        self.node = parts.node(self.kernel)
        self.ledger = Ledger(lambda: self.now)
        self.kubelet = Kubelet()
        self.reclaim = Reclaim(
            self.node,
            self.ledger,
            self.kubelet,
            Pods(self.kubelet, self.ledger, about=lambda _uuid: {}, on_released=parts.nothing),
            ReclaimSettings(grace=GRACE, interval=0.01),
            mark=NodeMark(0),
            resource_of=lambda _uuid: "vfio.dev/mtty-1",
            about=lambda device: {"device": device},
            on_held_back=parts.nothing,
            on_tried=parts.nothing,
            on_remembered=parts.nothing,
            on_occupied=parts.nothing,
        )

    async def removes(self) -> bool:
        """Whether a round removes the device."""
        await self.node.rescan()
        await self.reclaim.round()
        return not self.node.has(OURS)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def test_a_device_that_nobody_names_or_holds_is_removed_once_all_was_asked_in_order(
    scene: Scene,
) -> None:
    assert await scene.removes()
    assert scene.kubelet.asked == ["list", "list", "checkpoint"]


@pytest.mark.parametrize("answers", [[{OURS}], [set(), {OURS}]], ids=["the first", "the second"])
async def test_a_device_that_either_of_two_lists_names_is_kept(scene: Scene, answers: list[set[str]]) -> None:
    scene.kubelet.lists = [*answers]
    assert not await scene.removes()
    assert "checkpoint" not in scene.kubelet.asked


@pytest.mark.parametrize("before", [0, 1])
async def test_a_list_that_fails_keeps_everything(scene: Scene, before: int) -> None:
    scene.kubelet.lists = [*[set[str]()] * before, KubeletError("no answer")]
    assert not await scene.removes()
    assert scene.reclaim.held_back == {OURS: HeldBack.LIST_FAILED}


async def test_a_device_that_the_checkpoint_names_is_kept(scene: Scene) -> None:
    scene.kubelet.remembers = {OURS}
    assert not await scene.removes()
    assert scene.reclaim.held_back == {OURS: HeldBack.REMEMBERED}


async def test_a_checkpoint_that_can_not_be_had_keeps_everything(scene: Scene) -> None:
    scene.kubelet.remembers = KubeletError("no checkpoint")
    assert not await scene.removes()
    assert scene.reclaim.held_back == {OURS: HeldBack.CHECKPOINT_FAILED}


async def test_a_device_is_left_alone_for_its_grace_and_not_longer(scene: Scene) -> None:
    scene.ledger.touch(OURS)
    scene.now += GRACE - 0.1
    assert not await scene.removes()
    assert not scene.kubelet.asked
    scene.now += 0.2
    assert await scene.removes()


async def test_a_kubelet_that_only_just_came_is_not_asked(scene: Scene) -> None:
    scene.kubelet.calm = GRACE - 0.1
    assert not await scene.removes()
    assert not scene.kubelet.asked
    assert scene.reclaim.held_back == {OURS: HeldBack.KUBELET_AWAY}


async def test_a_device_that_was_asked_for_while_it_was_being_proved_unused_is_kept(scene: Scene) -> None:
    scene.kubelet.on_list = lambda: scene.ledger.touch(OURS)
    assert not await scene.removes()


async def test_a_kubelet_that_went_while_it_was_being_asked_proves_nothing(scene: Scene) -> None:
    scene.kubelet.on_list = lambda: setattr(scene.kubelet, "calm", 0.0)
    assert not await scene.removes()


async def test_a_proof_that_is_older_than_the_kubelets_calm_is_none(scene: Scene) -> None:
    def takes_long() -> None:
        scene.now += 60
        scene.kubelet.calm = 100.0

    scene.kubelet.on_list = takes_long
    assert not await scene.removes()  # Two minutes passed, and the kubelet is there for 100 seconds.


async def test_a_device_that_something_holds_is_kept(scene: Scene) -> None:
    device = await scene.node.find(OURS)
    assert device is not None
    assert device.group is not None
    scene.kernel.open_group(device.group)
    assert not await scene.removes()
    assert scene.reclaim.held_back == {OURS: HeldBack.IN_USE}


async def test_what_was_seen_held_counts_as_held_until_the_opposite_is_seen(scene: Scene) -> None:
    device = await scene.node.find(OURS)
    assert device is not None
    assert device.group is not None
    holding = scene.kernel.open_group(device.group)
    assert not await scene.removes()
    assert scene.reclaim.occupied == {OURS}
    os.close(holding)
    scene.kubelet.calm = 0.0
    assert not await scene.removes()  # Nobody can be asked, so nobody looks either.
    assert scene.reclaim.occupied == {OURS}
    scene.kubelet.calm = 100.0
    assert await scene.removes()
    assert not scene.reclaim.occupied


async def test_a_device_that_was_removed_was_not_pulled(scene: Scene) -> None:
    scene.ledger.handed_over(OURS, 0)
    scene.now += 2 * GRACE
    assert await scene.removes()
    scene.ledger.vanished([OURS], held=())
    assert not scene.ledger.pulled


async def test_a_device_that_a_pod_has_again_is_not_occupied(scene: Scene) -> None:
    scene.reclaim.found_occupied(OURS)
    scene.kubelet.lists = [{OURS}]
    assert not await scene.removes()
    assert not scene.reclaim.occupied


async def test_a_device_that_is_gone_or_was_just_asked_for_is_not_occupied(scene: Scene) -> None:
    scene.reclaim.found_occupied(OURS)
    scene.ledger.touch(OURS)
    assert not await scene.removes()
    assert not scene.reclaim.occupied
    scene.reclaim.found_occupied(OURS)
    scene.kernel.write(scene.kernel.paths.remove(OURS), "1")
    assert await scene.removes()
    assert not scene.reclaim.occupied


async def test_whatever_does_not_bear_the_mark_is_never_looked_at(scene: Scene) -> None:
    foreign = str(uuid.uuid4())
    scene.kernel.write(scene.kernel.paths.create("mtty", "mtty-1"), foreign)
    assert await scene.removes()
    scene.kubelet.asked.clear()
    await scene.reclaim.round()
    assert scene.node.has(foreign)


async def test_what_another_nodes_agent_made_is_not_even_asked_about(scene: Scene) -> None:
    others = str(SlotId(None, 0, 1 << 48))
    scene.kernel.write(scene.kernel.paths.create("mtty", "mtty-1"), others)
    assert await scene.removes()
    assert scene.node.has(others)
    assert others not in scene.reclaim.held_back
