"""What KubeVirt is told of the resources: the types and their selectors, and what is printed of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml

from deviceplugin.cli import main
from deviceplugin.cli.look import NO_BUS
from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.selectors import ParentSelector
from deviceplugin.inventory.snapshot import Parent, ParentType, Snapshot
from deviceplugin.planning.kubevirt import Permitted, permit
from deviceplugin.simulator.node import description
from deviceplugin.simulator.node.kernel import SimulatedKernel


def kind(type_id: str, name: str = "", *, api: str = "vfio-pci", available: int = 1) -> ParentType:
    return ParentType(id=type_id, name=name, api=api, description="", available=available)


def node(*types: ParentType) -> Snapshot:
    parent = Parent(address="a", card="a", driver="d", numa_node=None, pci=None, types=types, devices=())
    return Snapshot((parent,))


def resource(name: str, *types: str, **options: Any) -> Resource:
    return Resource(name=name, types=types, **options)


T4 = node(kind("nvidia-230", "GRID T4-1Q"), kind("nvidia-231", "GRID T4-2Q"), kind("nameless-1"))


# What is permitted


def test_a_type_is_selected_by_its_name_with_underscores() -> None:
    assert permit([resource("a.b/c", "nvidia-230", exact=True)], T4).devices == (
        Permitted("GRID_T4-1Q", "a.b/c", ("nvidia-230",)),
    )


def test_a_type_without_a_name_is_selected_by_its_id() -> None:
    assert permit([resource("a.b/c", "nameless-1")], T4).devices == (
        Permitted("nameless-1", "a.b/c", ("nameless-1",)),
    )


def test_each_type_of_a_resource_is_permitted_the_preferred_one_first() -> None:
    found = permit([resource("a.b/c", "GRID T4-2Q", "nvidia-*", "nameless-1")], T4).devices
    assert [device.selector for device in found] == ["GRID_T4-2Q", "GRID_T4-1Q", "nameless-1"]
    assert {device.resource for device in found} == {"a.b/c"}


def test_a_type_is_permitted_for_every_resource_that_takes_it() -> None:
    found = permit([resource("a.b/one", "nvidia-230"), resource("a.b/two", "nvidia-230")], T4).devices
    assert [(device.selector, device.resource) for device in found] == [
        ("GRID_T4-1Q", "a.b/one"),
        ("GRID_T4-1Q", "a.b/two"),
    ]


def test_types_of_one_name_are_one_entry() -> None:
    twins = node(kind("old-1", "GRID X"), kind("new-1", "GRID X"))
    assert permit([resource("a.b/c", "GRID X")], twins).devices == (
        Permitted("GRID_X", "a.b/c", ("new-1", "old-1")),
    )


def test_how_much_there_is_and_where_does_not_matter() -> None:
    full = node(kind("nvidia-230", available=0))
    elsewhere = resource("a.b/c", "nvidia-230", parents=ParentSelector(addresses=("other",)), max=0)
    assert len(permit([elsewhere], full).devices) == 1


def test_what_is_not_attached_as_a_pci_device_is_left_out_once() -> None:
    s390 = node(kind("vfio_ap-passthrough", api="vfio-ap"), kind("odd-1", api=""), kind("x-1"))
    found = permit([resource("a.b/one", "*"), resource("a.b/two", "vfio_ap-passthrough")], s390)
    assert [device.selector for device in found.devices] == ["x-1"]
    why = "and KubeVirt attaches mediated devices as vfio-pci only"
    assert found.left_out == (
        f"the type odd-1 is left out: its API is not known, {why}",
        f"the type vfio_ap-passthrough is left out: its API is vfio-ap, {why}",
    )


def test_a_type_that_is_not_here_is_taken_as_it_is_written() -> None:
    laptop = Snapshot()
    found = permit([resource("a.b/c", "nvidia-230", "GRID T4-2Q", "GRID_T4-4Q")], laptop)
    assert [device.selector for device in found.devices] == ["nvidia-230", "GRID_T4-2Q", "GRID_T4-4Q"]
    assert {device.types for device in found.devices} == {()}
    assert found.left_out == ()


@pytest.mark.parametrize("pattern", ["nvidia-*", "GRID T4-?Q", "nvidia-23[01]"])
def test_a_pattern_that_matches_nothing_here_is_said(pattern: str) -> None:
    found = permit([resource("a.b/c", pattern, "nvidia-9")], Snapshot())
    assert [device.selector for device in found.devices] == ["nvidia-9"]
    assert found.left_out == (f"a.b/c: no type here matches {pattern!r}, so none of these is listed",)


# What is printed

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def kubevirt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    for name in tuple(os.environ):
        if name.startswith("MDEV_"):
            monkeypatch.delenv(name)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mdev-device-plugin", "kubevirt", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture
def simulated(tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: SimulatedKernel.build(tmp_path / name, description.load(name)).paths.root


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(dedent(text))
        return path

    return write


@pytest.fixture
def laptop(tmp_path: Path) -> Path:
    """A root directory of a machine that has none of the hardware."""
    path = tmp_path / "laptop"
    path.mkdir()
    return path


CONFIG = """\
    version: v1
    discovery: {include: [mtty-1, mdpy-hd]}
    resources:
    - {name: example.com/serial, types: ["Dual port serial", "mtty-*"]}
    - {name: example.com/elsewhere, types: ["GRID T4-1Q"]}
    """


def test_prints_a_patch_with_a_word_on_each_thing(
    kubevirt: Run, simulated: Callable[[str], Path], config: Callable[[str], Path]
) -> None:
    code, out, err = kubevirt("--simulated", simulated("samples"), "--config", config(CONFIG))
    assert (code, err) == (0, "")
    assert out == dedent("""\
        # What the KubeVirt resource needs so that VMs can have these devices:
        #   kubectl patch kubevirt kubevirt -n kubevirt --type merge --patch-file FILE
        # That replaces the whole list 'mediatedDevices': add what is in it for other plugins.
        spec:
          configuration:
            mediatedDevicesConfiguration:
              # Else KubeVirt removes mediated devices that it does not know, and makes its own.
              # (Before KubeVirt 1.8, the feature gate DisableMDEVConfiguration does this.)
              enabled: false
            permittedHostDevices:
              mediatedDevices:
              - mdevNameSelector: Dual_port_serial  # mtty-2
                resourceName: example.com/serial
                externalResourceProvider: true
              - mdevNameSelector: Single_port_serial  # mtty-1
                resourceName: example.com/serial
                externalResourceProvider: true
              - mdevNameSelector: GRID_T4-1Q  # as configured: no card here has it
                resourceName: example.com/elsewhere
                externalResourceProvider: true
              - mdevNameSelector: mdpy-hd
                resourceName: vfio.dev/mdpy-hd
                externalResourceProvider: true
              - mdevNameSelector: Single_port_serial  # mtty-1
                resourceName: vfio.dev/mtty-1
                externalResourceProvider: true
        """)


@pytest.mark.parametrize("name", ["samples", "nvidia-t4", "nvidia-a2", "intel-gvtg", "big"])
def test_json_is_the_same_patch(kubevirt: Run, simulated: Callable[[str], Path], name: str) -> None:
    root = simulated(name)
    patches = []
    for output in ("yaml", "json"):
        code, out, err = kubevirt("--simulated", root, "-o", output)
        assert (code, err) == (0, "")
        patches.append(yaml.safe_load(out))
    assert patches[0] == patches[1]
    configuration = patches[0]["spec"]["configuration"]
    assert configuration["mediatedDevicesConfiguration"] == {"enabled": False}
    assert len(configuration["permittedHostDevices"]["mediatedDevices"]) == len(
        {kind for card in description.load(name).cards for kind in card.model.offered}
    )


@pytest.mark.parametrize("selector", ["123", "0x10", "yes", "n", "1e3", "a: b", "# c", "~", "x'y\"z", "é"])
def test_whatever_a_type_is_called_yaml_reads_it_as_text(
    kubevirt: Run, laptop: Path, config: Callable[[str], Path], selector: str
) -> None:
    quoted = selector.replace("'", "''")
    file = config(f"""\
        version: v1
        discovery: {{include: []}}
        resources: [{{name: a.b/c, types: ['{quoted}']}}]
        """)
    code, out, err = kubevirt("--host-root", laptop, "--config", file)
    assert (code, err) == (0, "")
    listed = yaml.safe_load(out)["spec"]["configuration"]["permittedHostDevices"]["mediatedDevices"]
    assert [entry["mdevNameSelector"] for entry in listed] == [selector.replace(" ", "_")]


def test_says_what_can_not_be_known_without_the_cards(
    kubevirt: Run, laptop: Path, config: Callable[[str], Path]
) -> None:
    code, out, err = kubevirt("--host-root", laptop, "--config", config(CONFIG))
    assert code == 0
    assert "Dual_port_serial" in out
    globs, discovery = err.splitlines()
    assert globs == (
        "mdev-device-plugin: warning: example.com/serial: no type here matches 'mtty-*', "
        "so none of these is listed"
    )
    assert discovery == (
        "mdev-device-plugin: warning: what discovery adds is only known where the cards are, "
        "so only the configuration's own resources are listed"
    )


def test_nothing_to_print_is_a_failure_that_says_why(
    kubevirt: Run, simulated: Callable[[str], Path], laptop: Path, config: Callable[[str], Path]
) -> None:
    begin = "mdev-device-plugin: there is nothing that KubeVirt could permit: "
    assert kubevirt("--host-root", laptop) == (
        1,
        "",
        f"{begin}{NO_BUS}. On another machine, name the types in a configuration\n",
    )
    code, out, err = kubevirt("--simulated", simulated("s390"), "--config", config("version: v1"))
    assert (code, out) == (1, "")
    assert err.splitlines()[0].startswith("mdev-device-plugin: warning: the type vfio_ap-passthrough is left")
    assert err.splitlines()[-1] == f"{begin}no type that is offered here has the API vfio-pci"


def test_what_had_to_be_left_out_of_the_node_is_said(kubevirt: Run, tmp_path: Path) -> None:
    kernel = SimulatedKernel.build(tmp_path / "samples", description.load("samples"))
    kernel.fault("odd-count", type="mtty-1", content=b"many\n")
    code, out, err = kubevirt("--simulated", kernel.paths.root)
    assert (code, "mtty-1" in out) == (0, False)
    assert "mtty-1/available_instances: a count was expected" in err
