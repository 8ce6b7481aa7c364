"""Whatever a resource or a type is called: what a container gets are variables that mean one thing each."""

from __future__ import annotations

import re

from hypothesis import assume, given
from hypothesis import strategies as st

from deviceplugin.handover import hand_over
from deviceplugin.host.paths import HostPaths
from deviceplugin.inventory.resources import name_problem
from deviceplugin.inventory.snapshot import Device
from deviceplugin.kubelet.translation import granted
from tests.fuzz.examples import fuzzed, texts

resources = st.builds(
    "{}/{}".format,
    st.from_regex(r"[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?(\.[a-z0-9]{1,5}){0,2}", fullmatch=True) | texts,
    st.from_regex(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,20}[A-Za-z0-9])?", fullmatch=True) | texts,
)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
devices = st.builds(Device, st.uuids().map(str), names, names, st.integers(0, 2**31 - 1) | st.none())


@fuzzed
@given(resources, st.lists(devices, max_size=4))
def test_what_is_handed_over_is_sound(resource: str, given_devices: list[Device]) -> None:
    assume(name_problem(resource) is None)
    given_over = hand_over(HostPaths(), resource, given_devices)
    uuids = ",".join(device.uuid for device in given_devices)
    kubevirts = f"MDEV_PCI_RESOURCE_{resource.upper().replace('/', '_').replace('.', '_')}"
    assert given_over.environment[kubevirts] == uuids
    assert len(given_over.environment) == 4
    for name in given_over.environment:
        assert re.fullmatch(r"[A-Z][A-Z0-9_-]*", name, re.ASCII)
        assert name == kubevirts or "-" not in name
    for node in given_over.nodes:
        assert re.fullmatch(r"/dev/vfio/(vfio|\d+)", node.host_path)
        assert node.container_path == node.host_path
    assert len({node.host_path for node in given_over.nodes}) == len(given_over.nodes)
    granted(given_over).SerializeToString()
