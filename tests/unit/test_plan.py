"""``plan``: what pods would get, as a person and a program read it, and whether it comes true."""
# ruff: noqa: E501 - a row of a table is one line

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.cli.plan import _nodes, command
from deviceplugin.host import mdev
from deviceplugin.inventory.cards import Card
from deviceplugin.inventory.pools import Knowledge
from deviceplugin.inventory.resources import Discovery, Resource
from deviceplugin.inventory.selectors import ParentSelector
from deviceplugin.planning.forecast import Bounds, ExpectedNode, expected_count, first_look
from deviceplugin.planning.plan import Planner, Request, Step
from deviceplugin.simulator.node import description
from deviceplugin.simulator.node.kernel import SimulatedKernel
from deviceplugin.simulator.node.state import State
from deviceplugin.simulator.node.view import DescribedNode, view
from tests.unit.test_cli import FOREIGN, Node, Run, lines, node, run, write

__all__ = ["node", "run"]  # pytest finds fixtures by their names


class TestWhatPeopleRead:
    def test_virtual_functions_and_what_is_left_of_their_card(self, run: Run) -> None:
        result = run("plan", "--node", "nvidia-a2", "2xnvidia-745", "nvidia-746=2", "nvidia-743")
        assert (result.code, result.err) == (0, "")
        assert "".join(result.out.splitlines(keepends=True)[:15]) == lines("""
            POD  TYPE        NAME          CARD          PARENT        WHY
            (1) 2 pods, each with 1 vfio.dev/nvidia-745
              1  nvidia-745  NVIDIA A2-2Q  0000:41:00.0  0000:41:00.4  on its slot's NUMA node, pack: a card with no devices, the only place
              2  nvidia-745  NVIDIA A2-2Q  0000:41:00.0  0000:41:00.5  on its slot's NUMA node, pack: a card with 1 device, the only place
            (2) 1 pod with 2 vfio.dev/nvidia-746
              1  fails: 2 wanted, and none are allocatable: 0000:41:00.0 carries 2 nvidia-745
            (3) 1 pod with 1 vfio.dev/nvidia-743
              1  nvidia-743  NVIDIA A2-2B  0000:41:00.0  0000:41:00.6  on its slot's NUMA node, pack: a card with 2 devices, the only place

            LEFT FOR PODS        NAME           NOW  (1)  (2)  (3)
            vfio.dev/nvidia-742  NVIDIA A2-1B    16    0    0    0
            vfio.dev/nvidia-743  NVIDIA A2-2B     8    6    6    5
            vfio.dev/nvidia-744  NVIDIA A2-1Q    16    0    0    0
            vfio.dev/nvidia-745  NVIDIA A2-2Q     8    6    6    5
            vfio.dev/nvidia-746  NVIDIA A2-4Q     4    0    0    0
        """)
        assert result.out.splitlines()[-1] == "3 of 4 pods get what they ask for."

    def test_cards_that_carry_one_type_at_a_time_and_pods_that_fail_alike(self, run: Run) -> None:
        out = run("plan", "--node", "nvidia-t4", "GRID T4-1Q", "4xvfio.dev/nvidia-234=1").out
        assert "".join(out.splitlines(keepends=True)[:5]) == lines("""
            POD  TYPE        NAME         CARD          WHY
            (1) 1 pod with 1 vfio.dev/nvidia-230
              1  nvidia-230  GRID T4-1Q   0000:3b:00.0  on its slot's NUMA node, pack: a card with no devices, the only place
            (2) 4 pods, each with 1 vfio.dev/nvidia-234
              1  nvidia-234  GRID T4-16Q  0000:af:00.0  on its slot's NUMA node, pack: a card with no devices, the only place
        """)
        assert out.splitlines()[5] == (
            "  2  fails, as do the 2 after it: 1 wanted, and none are allocatable: "
            "0000:3b:00.0 carries 1 nvidia-230; 0000:af:00.0 carries 1 nvidia-234"
        )

    def test_types_that_draw_on_one_pool(self, run: Run) -> None:
        out = run("plan", "--node", "samples", "mbochs-large", "mbochs-small=2", "2xmtty-2").out
        left = out[out.index("LEFT") :]
        assert left == lines("""
            LEFT FOR PODS           NAME                NOW  (1)  (2)  (3)
            vfio.dev/mbochs-large   mbochs-large          4    3    2    2
            vfio.dev/mbochs-medium  mbochs-medium        16   12   11   11
            vfio.dev/mbochs-small   mbochs-small         64   48   46   46
            vfio.dev/mdpy-hd        mdpy-hd               4    4    4    4
            vfio.dev/mdpy-vga       mdpy-vga              4    4    4    4
            vfio.dev/mdpy-xga       mdpy-xga              4    4    4    4
            vfio.dev/mtty-1         Single port serial   24   24   24   20
            vfio.dev/mtty-2         Dual port serial     12   12   12   10

            All 4 pods get what they ask for.
        """)

    def test_types_that_take_of_three_pools_at_once(self, run: Run) -> None:
        out = run("plan", "--node", "intel-gvtg", "2xi915-GVTg_V5_4", "GVTg_V5_8=3").out
        assert (
            "  1  fails: 3 wanted, and only 2 are allocatable: 0000:00:02.0 carries 2 i915-GVTg_V5_4" in out
        )

    def test_a_list_of_preferences_is_a_resource_of_its_own(self, run: Run) -> None:
        out = run("plan", "--node", "nvidia-a2", "nvidia-745", "nvidia-746,nvidia-745=3").out
        assert "(2) 1 pod with 3 nvidia-746,nvidia-745\n" in out
        assert out.count("nvidia-745  NVIDIA A2-2Q  0000:41:00.0") == 4
        assert out.count("choice 2 of 2") == 3
        listed = out.splitlines()[-3].split()
        assert listed == ["nvidia-746,nvidia-745", "nvidia-746,", "nvidia-745", "4", "7", "4"]

    def test_the_devices_of_one_pod_may_be_of_several_types(self, run: Run) -> None:
        arguments = ("plan", "--node", "samples", "mbochs-large,mdpy-hd=9", "mbochs-large,mdpy-hd=6")
        too_many, mixed = (request["pods"][0] for request in run(*arguments, "-o", "json").json["requests"])
        assert too_many["error"] == (
            "9 wanted, and only 8 are allocatable: mbochs carries nothing; mdpy carries nothing"
        )
        assert Counter(device["type"] for device in mixed["devices"]) == {"mbochs-large": 4, "mdpy-hd": 2}

    def test_says_when_a_quota_is_used_up(self, run: Run, tmp_path: Path) -> None:
        config = write(
            tmp_path,
            """
            version: v1
            resources:
            - {name: a.b/some, types: [mtty-1], max: 1}
            - {name: a.b/few, types: [mtty-1], maxPerCard: 1}
            """,
        )
        out = run("plan", "--node", "samples", "--config", config, "2xa.b/some", "2xa.b/few").out
        assert "1 wanted, and none are allocatable: it has its 'max' of 1" in out
        assert "mtty carries 2 mtty-1 and has its 'maxPerCard' of 1" in out

    def test_a_real_node_is_told_in_ranges_where_nothing_else_can_be_known(
        self, run: Run, node: Node
    ) -> None:
        root = node("samples").paths.root
        result = run("plan", "--simulated", root, "mbochs-large", "mbochs-small", "mtty-1")
        assert result.code == 0
        assert result.err.startswith("mdev-device-plugin: a range is what can be told before the devices")
        assert result.err.count("\n") == 1
        assert result.out == lines("""
            POD  TYPE          NAME                CARD    WHY
            (1) 1 pod with 1 vfio.dev/mbochs-large
              1  mbochs-large  mbochs-large        mbochs  pack: a card with no devices, the only place
            (2) 1 pod with 1 vfio.dev/mbochs-small
              1  mbochs-small  mbochs-small        mbochs  if it still fits: pack: a card with 1 device, the only place
            (3) 1 pod with 1 vfio.dev/mtty-1
              1  mtty-1        Single port serial  mtty    pack: a card with no devices, the only place

            LEFT FOR PODS           NAME                NOW   (1)   (2)   (3)
            vfio.dev/mbochs-large   mbochs-large          4     3   0-3   0-3
            vfio.dev/mbochs-medium  mbochs-medium        16  0-16  0-16  0-16
            vfio.dev/mbochs-small   mbochs-small         64  0-64  0-63  0-63
            vfio.dev/mdpy-hd        mdpy-hd               4     4     4     4
            vfio.dev/mdpy-vga       mdpy-vga              4     4     4     4
            vfio.dev/mdpy-xga       mdpy-xga              4     4     4     4
            vfio.dev/mtty-1         Single port serial   24    24    24    23
            vfio.dev/mtty-2         Dual port serial     12    12    12  0-12

            All 3 pods get what they ask for, 1 of them perhaps.
        """)
        assert mdev.scan(SimulatedKernel(root).paths).snapshot.devices == {}

    def test_fits_a_narrow_terminal(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("deviceplugin.cli.plan.screen_width", lambda: 80)
        many = [f"nvidia-{number}" for number in (230, 231, 232, 233, 234, 225, 226, 227, 228, 229)]
        out = run("plan", "--node", "nvidia-a2", "nvidia-745,nvidia-746").out
        assert max(map(len, out.splitlines())) <= 80
        assert "WHY" in out.splitlines()[0]
        assert "NAME" not in out.splitlines()[0]
        out = run("plan", "--node", "nvidia-t4", *many).out
        assert max(map(len, out.splitlines())) <= 80
        (header,) = (line.split() for line in out.splitlines() if line.startswith("LEFT"))
        assert header[-2:] == ["…", "(10)"]

    def test_says_which_types_can_not_be_asked_for(self, run: Run, node: Node, tmp_path: Path) -> None:
        config = write(tmp_path, "version: v1\ndiscovery: {name: name}\n")
        wheres: list[tuple[str, Any]] = [("--node", "s390"), ("--simulated", node("s390").paths.root)]
        for where in wheres:
            result = run("plan", *where, "--config", config, "vfio.dev/VFIO_AP_Passthrough_Device")
            assert result.code == 0
            assert "type 'vfio_ccw-io' can't be offered by itself" in result.err


class TestWhatProgramsRead:
    def test_a_request_with_its_pods(self, run: Run) -> None:
        document = run("plan", "--node", "nvidia-a2", "2xnvidia-748", "-o", "json").json
        assert (document["version"], document["node"], document["exact"]) == (1, "nvidia-a2", True)
        assert {"resource": "vfio.dev/nvidia-748", "at_least": 1, "at_most": 1} in document["left"]
        assert {"card": "0000:41:00.0", "type": "nvidia-748", "at_least": 1, "at_most": 1} in document[
            "rooms"
        ]
        (request,) = document["requests"]
        asked = {key: request[key] for key in ("request", "resource", "devices")}
        assert asked == {"request": "2xnvidia-748", "resource": "vfio.dev/nvidia-748", "devices": 1}
        first, second = request["pods"]
        assert (first["placed"], first["certain"], first["error"]) == (True, True, None)
        (device,) = first["devices"]
        assert device.pop("uuid").startswith("6d646576-")
        assert device == {
            "type": "nvidia-748",
            "name": "NVIDIA A2-16Q",
            "card": "0000:41:00.0",
            "parent": "0000:41:00.4",
            "numa_node": 0,
            "aligned": True,
            "adopted": False,
            "reason": "on its slot's NUMA node, pack: a card with no devices, the only place",
            "perhaps_card": None,
            "perhaps_type": None,
        }
        assert second == {
            "placed": False,
            "devices": [],
            "error": "1 wanted, and none are allocatable: 0000:41:00.0 carries 1 nvidia-748",
            "certain": True,
        }
        assert all(entry["at_most"] == 0 for entry in request["left"])

    def test_what_is_not_certain_says_so(self, run: Run, node: Node) -> None:
        document = run(
            "plan", "--simulated", node("samples").paths.root, "mtty-1", "mtty-2", "-o", "json"
        ).json
        assert (document["node"], document["exact"]) == (None, False)
        assert [request["pods"][0]["certain"] for request in document["requests"]] == [True, False]
        (left,) = (
            entry for entry in document["requests"][0]["left"] if entry["resource"] == "vfio.dev/mtty-2"
        )
        assert left == {"resource": "vfio.dev/mtty-2", "at_least": 0, "at_most": 12}


class TestMisuse:
    def test_what_is_unknown_is_told_with_what_is_near(self, run: Run) -> None:
        run("plan", "--node", "nvidia-t4", "vfio.dev/nvidia-23").fails(
            2, "'vfio.dev/nvidia-23'", "the nearest known names are 'vfio.dev/nvidia-23"
        )
        run("plan", "--node", "nvidia-t4", "grid t4-1q").fails(2, "'GRID T4-1Q'")
        run("plan", "--node", "nvidia-t4", "nvidia-230,nvidia-99").fails(2, "'nvidia-99'")
        run("plan", "--node", "nvidia-t4", "nvidia-230=0").fails(2, "asks for nothing")
        run("plan", "--node", "nvidia-t4", "0xnvidia-230").fails(2, "asks for nothing")
        run("plan", "--node", "nvidia-t5", "nvidia-230").fails(2, "'nvidia-t5'", "nvidia-t4")
        run("plan", "--node", "nvidia-t4").fails(2, "REQUEST")

    def test_a_type_that_no_pod_can_ask_for(self, run: Run, tmp_path: Path) -> None:
        config = write(tmp_path, 'version: v1\ndiscovery: {exclude: ["*"]}\n')
        run("plan", "--node", "samples", "--config", config, "mtty-1").fails(2, "no resource", "'mtty-1'")

    def test_a_node_is_described_or_looked_at(self, run: Run, node: Node) -> None:
        root = node("samples").paths.root
        run("plan", "--node", "samples", "--simulated", root, "mtty-1").fails(2, "exclude each other")

    def test_a_node_without_types(self, run: Run, tmp_path: Path) -> None:
        run("plan", "--host-root", tmp_path, "mtty-1").fails(1, "nothing to plan with", "mdev_bus")

    def test_a_shell_completes_the_nodes(self) -> None:
        (option,) = (parameter for parameter in command.params if parameter.name == "node")
        found = _nodes(None, option, "nvidia-")  # type: ignore[arg-type]
        assert [item.value for item in found] == ["nvidia-a2", "nvidia-t4"]
        assert [item.type for item in _nodes(None, option, "./")] == ["file"]  # type: ignore[arg-type]


class TestWhichResource:
    @pytest.mark.parametrize(
        ("asked", "meant"),
        [
            ("mtty-1", "vfio.dev/mtty-1"),
            ("Single port serial", "vfio.dev/mtty-1"),
            ("mtty-2", "a.b/serial"),
            ("3xa.b/serial=2", "a.b/serial"),
            ("mdpy-*", "mdpy-*"),
        ],
    )
    def test_a_type_means_the_resource_that_offers_it_alone_or_prefers_it_most(
        self, run: Run, tmp_path: Path, asked: str, meant: str
    ) -> None:
        config = write(
            tmp_path,
            """
            version: v1
            discovery: {exclude: [mtty-2]}
            resources:
            - {name: a.b/late, types: ["*"]}
            - {name: a.b/serial, types: [mtty-2, mtty-1]}
            """,
        )
        document = run("plan", "--node", "samples", "--config", config, asked, "-o", "json").json
        assert document["requests"][0]["resource"] == meant


@pytest.mark.parametrize("name", description.names())
def test_a_described_node_is_seen_as_a_look_at_it_would_see_it(
    name: str, node: Callable[[str], SimulatedKernel]
) -> None:
    kernel = node(name)
    seen = mdev.scan(kernel.paths).snapshot
    state = State(first_group=kernel.node.first_group)
    assert view(kernel.node, state) == seen
    world = DescribedNode(kernel.node, state)
    resources = {resource.name: resource for resource in Discovery().discover(seen)[0]}
    planner = Planner(world, resources, node_name="n")
    for resource in [*resources.values()][:2]:
        for pod in asyncio.run(planner.run(Request("", resource))).pods:
            for device in pod.devices:
                mdev.create(kernel, device.parent, device.type, device.uuid)
    assert planner._world.surely == mdev.scan(kernel.paths).snapshot


class TestExpectations:
    """What is expected of a node that is only looked at, against what comes of it."""

    @pytest.mark.parametrize("name", ["nvidia-a2", "nvidia-t4", "samples", "intel-gvtg"])
    @pytest.mark.parametrize("first", range(0, 8, 3))
    def test_what_comes_is_within_the_bounds(self, name: str, first: int) -> None:
        exact = DescribedNode(description.load(name))
        resources = {each.name: each for each in Discovery().discover(exact.surely)[0]}
        names = [*resources]
        order = [resources[names[(first + step) % len(names)]] for step in (0, 0, 1, 2)]
        expected: Any = ExpectedNode(exact.surely, first_look(exact.surely))
        for resource in order:
            planner = Planner(exact, resources, node_name="n")
            (pod,) = asyncio.run(planner.run(Request("", resource))).pods
            if pod.error is not None:
                continue
            exact = planner._world  # type: ignore[assignment]
            for device in pod.devices:
                expected = expected.create(device.parent, device.type, device.uuid)
            for card, parents in exact.surely.cards.items():
                counted = Counter[str]()
                for parent in parents:
                    counted.update({entry.id: entry.available for entry in parent.types})
                for view_, compare in ((expected.surely, int.__le__), (expected.at_most, int.__ge__)):
                    told = Counter[str]()
                    for parent in view_.cards[card]:
                        told.update({entry.id: entry.available for entry in parent.types})
                    assert all(compare(told[kind], counted[kind]) for kind in counted), (card, told, counted)

    def test_a_card_alike_that_carries_something_teaches_what_it_takes(self, node: Node) -> None:
        kernel = node("nvidia-t4")
        mdev.create(kernel, "0000:3b:00.0", "nvidia-230", FOREIGN)
        snapshot = mdev.scan(kernel.paths).snapshot
        empty = Card("0000:af:00.0", snapshot.cards["0000:af:00.0"]).having("0000:af:00.0", "nvidia-230")
        assert expected_count(first_look(snapshot), empty, "nvidia-222") == Bounds(0, 0)
        assert expected_count(Knowledge(), empty, "nvidia-222") == Bounds(0, 15)
        assert expected_count(Knowledge(), empty, "nvidia-230") == Bounds(15, 15)

    def test_where_it_would_go_instead_is_told(self, tmp_path: Path, run: Run) -> None:
        kernel = SimulatedKernel.build(tmp_path / "n", description.parse(TWO, origin="two"))
        result = run("plan", "--simulated", kernel.paths.root, "large", "small", "-o", "json").json
        (device,) = result["requests"][1]["pods"][0]["devices"]
        assert (device["card"], device["perhaps_card"], device["perhaps_type"]) == ("b1", "b0", "small")
        out = run("plan", "--simulated", kernel.paths.root, "large", "small").out
        assert "the only place; on b0 if it still fits there" in out


TWO = """
models:
  card: {driver: d, pools: {memory: 4}, types: [{id: small, takes: {memory: 1}}, {id: large, takes: {memory: 2}}]}
cards: [{model: card, address: b0, repeat: 2}]
"""


class TestAdopted:
    def test_what_somebody_else_made_is_handed_out_first_and_ours_is_in_use(
        self, node: Node, run: Run, tmp_path: Path
    ) -> None:
        kernel = node("samples")
        mdev.create(kernel, "mtty", "mtty-2", FOREIGN)
        config = write(
            tmp_path, "version: v1\nresources: [{name: a.b/c, types: [mtty-2], adoptExisting: {}, max: 1}]\n"
        )
        arguments = ("plan", "--simulated", kernel.paths.root, "--config", config, "--node-name", "n")
        result = run(*arguments, "3xa.b/c").out
        assert "1  mtty-2  Dual port serial  mtty  is there, made by somebody else" in result
        assert "3  fails: 1 wanted, and none are allocatable: it has its 'max' of 1" in result
        document = run(*arguments, "2xa.b/c", "-o", "json").json
        first, second = (pod["devices"][0] for pod in document["requests"][0]["pods"])
        assert (first["uuid"], first["adopted"], second["adopted"]) == (FOREIGN, True, False)
        mdev.create(kernel, "mtty", "mtty-2", second["uuid"])
        document = run(*arguments, "a.b/c", "-o", "json").json
        left = {entry["resource"]: entry["at_most"] for entry in document["left"]}
        assert left["a.b/c"] == 1


class _Refusing(DescribedNode):
    """A node on which one parent refuses what its count promises."""

    def create(self, parent: str, type_id: str, uuid: str) -> DescribedNode:
        if parent == "0000:3b:00.0":
            raise OSError(5, "Input/output error")
        return super().create(parent, type_id, uuid)


def planned(world: DescribedNode, devices: int) -> Step:
    resource = Resource(name="a.b/c", types=("nvidia-234",))
    planner = Planner(world, {resource.name: resource}, node_name="n")
    return asyncio.run(planner.run(Request("", resource, devices)))


def test_a_refusal_leads_to_another_card_as_it_leads_the_agent() -> None:
    (pod,) = planned(_Refusing(description.load("nvidia-t4")), 1).pods
    assert [device.parent for device in pod.devices] == ["0000:af:00.0"]
    assert not pod.devices[0].aligned


class _Grudging(DescribedNode):
    """A node whose card refuses its second device of a type, whatever it counts."""

    def create(self, parent: str, type_id: str, uuid: str) -> DescribedNode:
        if parent == "mbochs" and self.state.devices:
            raise OSError(5, "Input/output error")
        return super().create(parent, type_id, uuid)


def test_a_request_that_got_stuck_is_begun_again_without_the_places_that_refused() -> None:
    resource = Resource(name="a.b/c", types=("mbochs-large", "mdpy-hd"), mixed=False)
    planner = Planner(_Grudging(description.load("samples")), {"a.b/c": resource}, node_name="n")
    (pod,) = asyncio.run(planner.run(Request("", resource, 2))).pods
    assert [device.type for device in pod.devices] == ["mdpy-hd", "mdpy-hd"]


def test_a_resource_without_a_parent_says_so() -> None:
    resource = Resource(name="a.b/c", types=("mtty-1",), parents=ParentSelector(drivers=("other",)))
    planner = Planner(DescribedNode(description.load("samples")), {"a.b/c": resource}, node_name="n")
    (pod,) = asyncio.run(planner.run(Request("", resource))).pods
    assert pod.error == ("1 wanted, and none are allocatable: no parent here that it may use offers mtty-1")


def test_what_no_card_takes_after_all_is_said_with_the_refusal() -> None:
    (pod,) = planned(_Refusing(description.load("nvidia-t4")), 2).pods
    assert pod.error == (
        "the kubelet would hand 2 out, and no parent could take all devices: "
        "tried nvidia-234 on 0000:3b:00.0: EIO (Input/output error)"
    )
