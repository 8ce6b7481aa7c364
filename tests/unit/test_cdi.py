"""A device's CDI specification: what it says, and how it gets to its place."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from deviceplugin.errors import HostError
from deviceplugin.handover import cdi_name, hand_over, specification
from deviceplugin.host.cdi import SpecFiles
from deviceplugin.host.paths import HostPaths
from deviceplugin.inventory.snapshot import Device

ONE, TWO = (f"6d646576-0000-8000-800{n}-000000000000" for n in (1, 2))
DEVICE = Device(ONE, "nvidia-222", "0000:3b:00.0", 7)


def test_a_specification_has_the_nodes_of_its_device() -> None:
    assert specification(HostPaths(Path("/n")), DEVICE) == {
        "cdiVersion": "0.5.0",
        "kind": "vfio.dev/mdev",
        "devices": [
            {
                "name": ONE,
                "containerEdits": {
                    "deviceNodes": [
                        {
                            "path": "/dev/vfio/vfio",
                            "hostPath": "/n/dev/vfio/vfio",
                            "permissions": "mrw",
                        },
                        {"path": "/dev/vfio/7", "hostPath": "/n/dev/vfio/7", "permissions": "mrw"},
                    ]
                },
            }
        ],
    }
    assert re.fullmatch(r"[A-Za-z0-9][-A-Za-z0-9_.:]*[A-Za-z0-9]", ONE), "what CDI allows as a name"


def test_names_take_the_place_of_nodes_and_of_nothing_else() -> None:
    by_nodes, by_names = (hand_over(HostPaths(), "a/b", [DEVICE], cdi=cdi) for cdi in (False, True))
    assert by_names.cdi_names == (cdi_name(ONE),) == (f"vfio.dev/mdev={ONE}",)
    assert (by_names.nodes, by_nodes.cdi_names) == ((), ())
    assert (by_names.environment, by_names.annotations) == (by_nodes.environment, by_nodes.annotations)


def test_a_file_is_written_whole_and_everybody_may_read_it(tmp_path: Path) -> None:
    files = SpecFiles(tmp_path / "cdi")
    files.write(ONE, "old")
    files.write(ONE, json.dumps({"new": True}))
    (path,) = (tmp_path / "cdi").iterdir()
    assert path.name == f"vfio.dev-mdev_{ONE}.json"
    assert json.loads(path.read_text()) == {"new": True}
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim, files = tmp_path / "victim", SpecFiles(tmp_path / "cdi")
    victim.write_text("precious")
    files.directory.mkdir()
    files.path(ONE).symlink_to(victim)
    files.write(ONE, "{}")
    assert victim.read_text() == "precious"
    assert not files.path(ONE).is_symlink()
    files.path(TWO).symlink_to(victim)
    files.remove(TWO)
    assert victim.read_text() == "precious"


def test_a_link_at_the_name_that_is_written_first_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda _count: "same")
    victim, files = tmp_path / "victim", SpecFiles(tmp_path / "cdi")
    files.directory.mkdir()
    (files.directory / f"vfio.dev-mdev_{ONE}.same.tmp").symlink_to(victim)
    with pytest.raises(HostError, match="EEXIST"):
        files.write(ONE, "{}")
    assert not victim.exists()
    assert not files.path(ONE).exists()


def test_what_a_kill_left_half_written_is_ours_and_no_reader_takes_it(tmp_path: Path) -> None:
    files = SpecFiles(tmp_path)
    left = tmp_path / f"vfio.dev-mdev_{ONE}.0a0a0a0a.tmp"
    left.write_text("{")
    assert left.suffix not in {".json", ".yaml"}
    assert files.uuids() == {ONE}
    files.remove(ONE)
    assert not left.exists()


def test_files_of_others_are_not_ours(tmp_path: Path) -> None:
    files = SpecFiles(tmp_path)
    others = ["nvidia.json", "vfio.dev-mdev_11111111-1111-4111-8111-111111111111.json", f"x-{ONE}.json"]
    for name in others:
        (tmp_path / name).write_text("{}")
    files.write(ONE, "{}")
    assert files.uuids() == {ONE}
    files.remove(ONE)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


def test_the_file_of_an_adopted_device_says_so_and_is_ours(tmp_path: Path) -> None:
    files, theirs = SpecFiles(tmp_path), "11111111-1111-4111-8111-111111111111"
    files.write(theirs, "{}")
    (file,) = tmp_path.iterdir()
    assert file.name == f"vfio.dev-mdev_adopted-{theirs}.json"
    (tmp_path / f"vfio.dev-mdev_adopted-{ONE}.json").write_text("{}")
    assert files.uuids() == {theirs}
    files.remove(theirs)
    assert not file.exists()


def test_a_file_that_can_not_be_written_is_told_with_its_errno(tmp_path: Path) -> None:
    (tmp_path / "cdi").write_text("a file")
    with pytest.raises(HostError, match=r"CDI specification .*\.json can't be written: E"):
        SpecFiles(tmp_path / "cdi").write(ONE, "{}")


def test_a_directory_that_is_not_there_has_nothing(tmp_path: Path) -> None:
    assert SpecFiles(tmp_path / "cdi").uuids() == frozenset()


def test_a_file_under_another_nodes_name_can_be_tidied_too(tmp_path: Path) -> None:
    files, others = SpecFiles(tmp_path), ONE.replace("-0000-", "-0001-")
    files.write(ONE, "{}")
    files.write(others, "{}")
    assert files.uuids() == {ONE, others}
    files.remove(others)
    assert files.uuids() == {ONE}
