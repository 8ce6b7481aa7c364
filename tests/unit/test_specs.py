"""The tidying of CDI specifications, when devices come and go in the midst of it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from deviceplugin.host.cdi import SpecFiles
from deviceplugin.ledger import Ledger
from deviceplugin.specs import Specs

if TYPE_CHECKING:
    from deviceplugin.host.node import Node

FIRST = "6d646576-0000-8000-8000-000000000001"
SECOND = "6d646576-0000-8000-8000-000000000002"


class Devices:
    """A node that is only asked which devices it has."""

    def __init__(self) -> None:
        self.there: set[str] = set()

    def has(self, uuid: str) -> bool:
        return uuid in self.there


@pytest.fixture
def files(tmp_path: Path) -> SpecFiles:
    """The files of two devices, of which the node has neither."""
    files = SpecFiles(tmp_path)
    for uuid in (FIRST, SECOND):
        files.write(uuid, "{}")
    return files


async def test_the_file_of_a_device_that_comes_during_the_tidying_stays(
    files: SpecFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Devices()
    remove = files.remove

    def while_the_second_comes(uuid: str) -> None:
        node.there.add(SECOND)
        remove(uuid)

    monkeypatch.setattr(files, "remove", while_the_second_comes)
    await Specs(files, cast("Node", node), Ledger(time.monotonic)).tidy()
    assert files.uuids() == {SECOND}


async def test_what_somebody_is_busy_with_is_not_waited_for_and_left_for_the_next_time(
    files: SpecFiles,
) -> None:
    ledger = Ledger(time.monotonic)
    specs = Specs(files, cast("Node", Devices()), ledger)
    async with asyncio.timeout(60):
        async with ledger.lock(SECOND):
            assert not await specs.tidy()
            assert files.uuids() == {SECOND}
        assert await specs.tidy()
    assert not files.uuids()


async def test_what_can_not_be_removed_keeps_nothing_else_and_is_said_once(
    files: SpecFiles, caplog: pytest.LogCaptureFixture
) -> None:
    planted = files.path(FIRST)
    planted.unlink()
    planted.mkdir()
    aside = planted.with_suffix(".0a0a0a0a.tmp")
    aside.write_text("{")
    specs = Specs(files, cast("Node", Devices()), Ledger(time.monotonic))
    for _ in range(3):
        assert await specs.tidy()
        assert files.uuids() == {FIRST}
    assert not aside.exists()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{planted} can't be removed: EISDIR" in caplog.text
    planted.rmdir()
    assert await specs.tidy()
    planted.mkdir()
    assert await specs.tidy()
    assert len(caplog.records) == 2


async def test_a_directory_that_can_not_be_read_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cdi").write_text("no directory")
    files = SpecFiles(tmp_path / "cdi")
    specs = Specs(files, cast("Node", Devices()), Ledger(time.monotonic))
    for _ in range(2):
        assert await specs.tidy()
    (record,) = caplog.records
    assert "can't be read: ENOTDIR" in record.getMessage()
