"""Drivers that come and go."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deviceplugin.host.kernel import LinuxKernel
from tests.kernel.modules import SAMPLES, Modules


@pytest.mark.parametrize("name", SAMPLES)
def test_a_reloaded_driver_has_its_parent_and_none_of_its_devices(
    kernel: LinuxKernel, modules: Modules, create: Callable[[str], str], name: str
) -> None:
    types = kernel.paths.parent(name) / "mdev_supported_types"
    before = sorted(type_.name for type_ in types.iterdir())
    device = create(before[0])
    modules.unload(name)
    assert not kernel.paths.parent(name).exists()
    assert not kernel.paths.device(device).exists()
    modules.load(name)
    assert sorted(type_.name for type_ in types.iterdir()) == before
    assert not kernel.paths.device(device).exists()
