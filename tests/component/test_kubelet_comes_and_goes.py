"""The kubelet restarts, hangs, refuses and forgets; the agent is back with it at once."""

from __future__ import annotations

import asyncio
import errno
import shutil
import time
from typing import Any

import pytest

from deviceplugin.simulator.kubelet.plugins import Version
from tests.component.conftest import Begin
from tests.component.world import NEVER, PATIENCE, World, vfio

ALL = {vfio(name) for name in ("mtty-1", "mtty-2", "mdpy-vga", "mdpy-xga", "mdpy-hd")} | {
    vfio(f"mbochs-{size}") for size in ("small", "medium", "large")
}
UNWATCHED = """
import errno, sys
from deviceplugin.kubelet import registration
def no_more():
    raise OSError(errno.EMFILE, "Too many open files")
registration.Inotify = no_more
from deviceplugin.cli import main
sys.exit(main())
"""
AT_ONCE = """
import sys
from deviceplugin.kubelet import server
server.FIRST_RETRY = server.LAST_RETRY = 3600.0
from deviceplugin.cli import main
sys.exit(main())
"""
"""An agent that comes back only if something tells it to: no attempt is made now and then."""
VERSIONS = pytest.mark.parametrize("version", ["1.36", "1.37"])


def is_back(world: World, *, but: str = "none") -> bool:
    """Whether everything is offered, apart from the resources with a word in their names."""
    return all(world.kubelet.allocatable(resource) for resource in ALL if but not in resource)


async def comes_back(world: World, what: str, *, but: str = "none") -> None:
    took = await world.until(lambda: is_back(world, but=but), what)
    print(f"{what}: offered again after {took * 1000:.0f} ms")


async def at_once(begin: Begin, *, kubelet: bool = True, **options: Any) -> World:
    """A world whose agent makes no attempts now and then."""
    world = await begin(agent=False, kubelet=kubelet, **options)
    await world.start_agent(code=AT_ONCE)
    return world


async def settled(world: World) -> None:
    """Everything is offered, and only the sockets in use are left."""
    for resource in ALL:
        await world.says("registered", resource=resource)
    await world.kubelet.wait_for(lambda: is_back(world), timeout=PATIENCE)
    await world.until(lambda: len(world.sockets()) == len(ALL), "one socket for each resource")


@VERSIONS
async def test_a_kubelet_that_restarts_has_everything_again_at_once(begin: Begin, version: Version) -> None:
    world = await at_once(begin, config=NEVER, version=version)
    await settled(world)
    pod = await world.run_pod("mdpy-hd")
    used = world.sockets()
    for end in (world.kubelet.stop, world.kubelet.kill):
        await end()
        await world.kubelet.start()
        await comes_back(world, f"restart after {end.__name__}")
        await settled(world)
        assert not used & world.sockets(), "a socket's name was used twice"
        used |= world.sockets()
    await world.kubelet.restart_container(pod, "c")
    await world.run_pod("mdpy-hd", name="next")


@VERSIONS
async def test_restarts_in_quick_succession_end_well(begin: Begin, version: Version) -> None:
    world = await at_once(begin, config=NEVER, version=version)
    await settled(world)
    for _ in range(5):
        await world.kubelet.kill()
        await world.kubelet.start()
    await comes_back(world, "five restarts")
    await settled(world)


@VERSIONS
async def test_an_ended_stream_is_renewed(begin: Begin, version: Version) -> None:
    world = await at_once(begin, config=NEVER, version=version)
    await settled(world)
    before = world.socket(vfio("mtty-1")).name
    await world.kubelet.end_stream(vfio("mtty-1"))
    await comes_back(world, "stream ended")
    await settled(world)
    await world.until(lambda: before not in world.sockets(), "a socket of another name")
    await settled(world)


@VERSIONS
async def test_a_deleted_socket_is_renewed(begin: Begin, version: Version) -> None:
    world = await at_once(begin, config=NEVER, version=version)
    await settled(world)
    before = world.socket(vfio("mtty-1"))
    before.unlink()
    await world.until(lambda: len(world.sockets() - {before.name}) == len(ALL))
    await settled(world)
    await world.run_pod("mtty-1")
    await world.kubelet.wait_for(lambda: world.kubelet.allocatable(vfio("mtty-1")) == 24, timeout=PATIENCE)


async def test_all_sockets_deleted_at_once_are_renewed(begin: Begin) -> None:
    world = await at_once(begin, config=NEVER)
    await settled(world)
    before = world.sockets()
    for name in before:
        (world.kubelet.plugin_directory / name).unlink()
    await world.until(lambda: len(world.sockets() - before) == len(ALL))
    await settled(world)


async def test_a_kubelet_that_comes_after_the_agent_is_met_at_once(begin: Begin) -> None:
    world = await at_once(begin, config=NEVER, kubelet=False)
    world.kubelet.root.mkdir()
    world.kubelet.plugin_directory.mkdir()
    await world.says("not registered, will try again", resource=vfio("mtty-1"))
    await world.kubelet.start()
    await comes_back(world, "late kubelet")


@pytest.mark.parametrize("made", ["nothing", "the root"])
async def test_directories_that_are_made_late_are_found(begin: Begin, made: str) -> None:
    world = await at_once(begin, config=NEVER, kubelet=False)
    if made == "the root":
        world.kubelet.root.mkdir()
    await world.says("starting")
    # Long enough that it has looked: it says so, or is simply there.
    await world.until(lambda: (world.agent_runs and world.logged("not registered")) or True)
    began = time.monotonic()
    await world.until(lambda: time.monotonic() - began > 0.7)
    await world.kubelet.start()
    await comes_back(world, f"late directories, with {made} there before")


async def test_a_directory_that_is_replaced_is_watched_again(begin: Begin) -> None:
    world = await at_once(begin, config=NEVER)
    await settled(world)
    await world.kubelet.kill()
    # Aside first: an endpoint may be making a socket in it at this moment.
    aside = await asyncio.to_thread(world.kubelet.plugin_directory.rename, world.kubelet.root / "aside")
    await asyncio.to_thread(shutil.rmtree, aside, ignore_errors=True)
    await world.kubelet.start()
    await comes_back(world, "directory replaced")
    await settled(world)
    await world.kubelet.kill()
    await world.kubelet.start()
    await comes_back(world, "and once more")


async def test_a_kubelet_that_refuses_is_asked_again(begin: Begin) -> None:
    world = await begin(config=NEVER, agent=False)
    world.kubelet.refuse_registration("not in the mood")
    await world.start_agent()
    said = await world.says("not registered, will try again", resource=vfio("mtty-1"))
    assert "not in the mood" in said["reason"]
    await world.until(lambda: world.kubelet.calls["Register"] > 2 * len(ALL))
    before = world.kubelet.calls["Register"]
    await asyncio.sleep(1)
    # After 0.1, 0.2, 0.4 and 0.8 seconds: nobody is busy with asking.
    assert world.kubelet.calls["Register"] <= before + 4 * len(ALL)
    world.kubelet.refuse_registration(None)
    # The pause between attempts grows to five seconds at most.
    await comes_back(world, "no longer refused")
    assert len(world.logged("not registered", resource=vfio("mtty-1"))) == 1, "said more than once"
    await settled(world)


@VERSIONS
async def test_a_kubelet_that_hangs_and_recovers_is_met(begin: Begin, version: Version) -> None:
    world = await begin(config=NEVER, agent=False, version=version)
    world.kubelet.hang_registration()
    await world.start_agent(code=AT_ONCE)
    await world.kubelet.wait_for(lambda: world.kubelet.calls["Register"] >= len(ALL))
    world.kubelet.hang_registration(on=False)
    await comes_back(world, "no longer hanging")
    await settled(world)


@VERSIONS
async def test_a_kubelet_that_hangs_and_is_replaced_is_met_at_once(begin: Begin, version: Version) -> None:
    world = await begin(config=NEVER, agent=False, version=version)
    world.kubelet.hang_registration()
    await world.start_agent(code=AT_ONCE)
    await world.kubelet.wait_for(lambda: world.kubelet.calls["Register"] >= len(ALL))
    await world.kubelet.kill()
    world.kubelet.hang_registration(on=False)
    await world.kubelet.start()
    await comes_back(world, "a kubelet that hung was replaced")
    await settled(world)


async def test_a_kubelet_that_restarts_during_an_allocate_does_not_wait_for_it(begin: Begin) -> None:
    world = await at_once(begin)
    await settled(world)
    world.node.fault("slow-create", parent="mdpy", seconds=3.0, times=1)
    admission = asyncio.create_task(world.admit("mdpy-hd"))
    await world.until(lambda: world.node.state.devices, "a create under way")
    await world.kubelet.kill()
    await world.kubelet.start()
    # The card that hangs has nothing to offer, and its resources are served all the same.
    await comes_back(world, "restart during an Allocate", but="mdpy")
    await world.kubelet.wait_for(lambda: world.kubelet.capacity(vfio("mdpy-hd")) == 4, timeout=PATIENCE)
    with pytest.raises(Exception, match=r"Unavailable|closing|Cancel"):
        await admission
    await world.until(lambda: not world.node.state.devices, "what came too late is removed")
    await world.kubelet.wait_for(lambda: is_back(world), timeout=PATIENCE)


async def test_a_deleted_socket_cuts_off_no_allocate_under_way(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await settled(world)
    world.node.fault("slow-create", parent="mdpy", seconds=1.0, times=1)
    admission = asyncio.create_task(world.admit("mdpy-hd"))
    await world.until(lambda: world.node.state.devices, "a create under way")
    world.socket(vfio("mdpy-hd")).unlink()
    pod = await admission
    assert set(world.devices) == world.ids(pod)
    await settled(world)


async def test_sockets_that_an_agent_before_left_are_cleaned_away(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await settled(world)
    left = world.sockets()
    somebody_elses = world.kubelet.plugin_directory / "other-plugin.sock"
    somebody_elses.touch()
    await world.kill_agent()
    assert left <= world.sockets()
    await world.start_agent()
    await world.until(lambda: len(world.sockets() - left) == len(ALL) + 1)
    assert not left & world.sockets()
    assert somebody_elses.exists()


async def test_running_pods_keep_their_devices_whatever_the_kubelet_does(begin: Begin) -> None:
    world = await begin(config="reclaim: {grace: 500ms, interval: 100ms}")
    await settled(world)
    pods = [await world.run_pod("mdpy-hd", name=f"p{number}") for number in range(2)]
    held = set(world.devices)
    world.node.fault("fail-create", errno=errno.EIO)  # a device that is removed does not come back
    for _ in range(3):
        await world.kubelet.kill()
        world.kubelet.delay_list(after=0.2, empty_for=0.4, partial_for=0.2)
        await world.kubelet.start()
        await world.kubelet.wait_for(lambda: is_back(world) and world.kubelet.list_state == "all")
    asked = world.kubelet.calls["List"]
    await world.until(lambda: world.kubelet.calls["List"] > asked + 5)
    assert set(world.devices) == held
    for pod in pods:
        await world.kubelet.restart_container(pod, "c")


async def test_a_kubelet_that_hangs_up_again_and_again_is_given_time(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await settled(world)
    before = world.kubelet.calls["Register"]
    until = time.monotonic() + 4
    while time.monotonic() < until:
        if world.kubelet.allocatable(vfio("mtty-1")):
            await world.kubelet.end_stream(vfio("mtty-1"))
        await asyncio.sleep(0.01)
    assert world.kubelet.calls["Register"] - before < 15


async def test_an_agent_that_can_not_watch_looks_from_time_to_time(begin: Begin) -> None:
    world = await begin(config=NEVER, agent=False)
    await world.start_agent(code=UNWATCHED)
    await settled(world)
    await world.kubelet.kill()
    await world.kubelet.start()
    await settled(world)


async def test_what_the_kubelet_remembers_is_listed_as_soon_as_it_can_be_read(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mdpy_hd=4)
    pod = await world.run_pod("mdpy-hd")
    await world.kill_agent()
    checkpoint = world.kubelet.plugin_directory / "kubelet_internal_checkpoint"
    good = checkpoint.read_bytes()
    checkpoint.write_text("{")
    # Under another name of the node it would not list the pod's device by itself.
    await world.start_agent(node_name="other")
    await world.says("begins without what the kubelet remembers")
    world.excused = True  # Until it is known, that ID is missing from the list.
    checkpoint.write_bytes(good)
    await world.says("what the kubelet remembers is known now")
    await world.kubelet.wait_for(
        lambda: world.ids(pod) <= world.kubelet.devices(vfio("mdpy-hd")).keys(), timeout=PATIENCE
    )
    await world.kubelet.restart_container(pod, "c")
