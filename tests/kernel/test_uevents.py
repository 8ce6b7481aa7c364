"""What the kernel tells, and where it can be heard."""

from __future__ import annotations

import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from deviceplugin.host.kernel import LinuxKernel, Uevent, UeventSource
from tests.kernel.modules import Modules
from tests.kernel.waiting import PATIENCE

LISTEN_ELSEWHERE = """
import select, sys
from deviceplugin.host.kernel import LinuxKernel
source = LinuxKernel().uevents()
print("listening", flush=True)
while True:
    assert select.select([source], [], [], float(sys.argv[1]))[0], "nothing heard"
    for event in source.receive():
        print(event.action, event.subsystem, event.devpath, flush=True)
"""


@pytest.fixture
def events(kernel: LinuxKernel) -> Iterator[UeventSource]:
    with closing(kernel.uevents()) as source:
        yield source


def heard_until(source: UeventSource, last: Callable[[Uevent], bool]) -> list[Uevent]:
    """Everything up to the event that ``last`` is true of."""
    heard: list[Uevent] = []
    deadline = time.monotonic() + PATIENCE
    while True:
        assert select.select([source], [], [], deadline - time.monotonic())[0], f"only heard {heard}"
        for event in source.receive():
            heard.append(event)
            if last(event):
                return heard


def test_a_device_is_announced_with_its_group(
    events: UeventSource, kernel: LinuxKernel, create: Callable[[str], str]
) -> None:
    device = create("mdpy-vga")
    heard = heard_until(events, lambda event: event.action == "bind")
    assert [(event.action, event.subsystem) for event in heard if event.subsystem != "module"] == [
        ("add", "mdev"),
        ("add", "vfio"),
        ("add", "vfio-dev"),
        ("bind", "mdev"),
    ]
    assert heard[-1].devpath == f"/devices/virtual/mdpy/mdpy/{device}"
    kernel.write(kernel.paths.remove(device), "1")
    heard = heard_until(events, lambda event: (event.action, event.subsystem) == ("remove", "mdev"))
    assert heard[-1].devpath == f"/devices/virtual/mdpy/mdpy/{device}"


def test_a_driver_tells_when_its_parent_comes_and_goes(events: UeventSource, modules: Modules) -> None:
    modules.reload("mbochs")
    heard = heard_until(events, lambda event: event.properties.get("MDEV_STATE") == "registered")
    states = [event for event in heard if "MDEV_STATE" in event.properties]
    assert [event.properties["MDEV_STATE"] for event in states] == ["unregistered", "registered"]
    assert {event.devpath for event in states} == {"/devices/virtual/mbochs/mbochs"}


def test_events_reach_another_network_namespace(create: Callable[[str], str]) -> None:
    listener = subprocess.Popen(
        ["unshare", "--net", sys.executable, "-c", LISTEN_ELSEWHERE, str(PATIENCE)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert listener.stdout is not None
    try:
        assert listener.stdout.readline() == "listening\n"
        device = create("mtty-1")
        for line in listener.stdout:
            if line == f"bind mdev /devices/virtual/mtty/mtty/{device}\n":
                break
        else:
            pytest.fail("the listener ended without having heard of the device")
    finally:
        listener.kill()
        listener.wait()
        listener.stdout.close()
