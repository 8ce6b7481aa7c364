"""What somebody sees who looks at the agent from outside: its port, its logs, and a device's health."""

from __future__ import annotations

import asyncio
import json
import socket

from deviceplugin.simulator.kubelet.kubelet import Pod
from tests.component.conftest import Begin
from tests.component.world import NEVER, PATIENCE, World, vfio


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


async def ask(port: int, path: str) -> tuple[int, str]:
    """The status and the body of an answer; 0 while nobody listens."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return 0, ""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: node\r\n\r\n".encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    return int(head.split()[1]), body


async def becomes(port: int, path: str, status: int, *, saying: str = "") -> str:
    """Wait until a page answers so, and return it."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found, body = await ask(port, path)
            if found == status and saying in body:
                return body
            await asyncio.sleep(0.02)


def value(page: str, name: str, **labels: str) -> float:
    """A series of a scraped page."""
    inside = ",".join(f'{key}="{text}"' for key, text in sorted(labels.items()))
    series = f"{name}{{{inside}}}" if inside else name
    return next(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(f"{series} "))


async def started(begin: Begin, *, moved_clock: bool = False, **options: object) -> tuple[World, int]:
    """A world whose agent serves its port."""
    world = await begin(agent=False, **options)  # type: ignore[arg-type]
    port = free_port()
    await world.start_agent("--http", f"127.0.0.1:{port}", moved_clock=moved_clock)
    return world, port


def healthy(world: World, device: str) -> bool:
    """Whether the kubelet was told so of an mdpy-hd."""
    return world.kubelet.devices(vfio("mdpy-hd"))[device][0]


async def test_it_is_ready_while_the_kubelet_listens_to_every_resource(begin: Begin) -> None:
    world, port = await started(begin)
    assert json.loads(await becomes(port, "/readyz", 200)) == {"ready": True, "reasons": []}
    assert len(world.sockets()) == 8
    await world.kubelet.kill()
    await becomes(port, "/readyz", 503, saying='"vfio.dev/mtty-1: the kubelet does not listen to it"')
    assert await ask(port, "/healthz") == (200, "ok\n")
    await world.kubelet.start()
    await becomes(port, "/readyz", 200)


async def test_an_agent_without_a_kubelet_is_alive_and_not_ready(begin: Begin) -> None:
    _, port = await started(begin, kubelet=False)
    await becomes(port, "/readyz", 503)
    await becomes(port, "/healthz", 200)


async def test_a_device_can_be_followed_through_the_metrics(begin: Begin) -> None:
    world, port = await started(begin)
    await world.offers(mtty_1=24, mtty_2=12)
    pod = await world.run_pod("mtty-2")
    await world.offers(mtty_1=22)
    page = await becomes(port, "/metrics", 200)
    resource = vfio("mtty-2")
    assert value(page, "mdev_allocations_total", resource=resource, result="success") == 1
    assert value(page, "mdev_container_starts_total", resource=resource, result="success") == 1
    assert value(page, "mdev_slots", resource=resource, state="occupied") == 1
    assert value(page, "mdev_slots", resource=resource, state="free") == 11
    assert value(page, "mdev_slots", resource=vfio("mtty-1"), state="unavailable") == 2
    assert value(page, "mdev_available_instances", card="mtty", type="mtty-1") == 22
    assert value(page, "mdev_devices", card="mtty", type="mtty-2", owner="ours") == 1
    assert value(page, "mdev_kubelet_connected", resource=resource) == 1
    assert value(page, "mdev_allocation_duration_seconds_count") == 1
    assert value(page, "mdev_scan_duration_seconds_count") > 0
    await world.kubelet.delete(pod)
    await world.offers(mtty_1=24)
    page = await becomes(port, "/metrics", 200)
    assert value(page, "mdev_reclaims_total", result="success") == 1
    assert value(page, "mdev_slots", resource=resource, state="occupied") == 0


async def test_what_keeps_a_device_shows_for_as_long_as_it_does(begin: Begin) -> None:
    world, port = await started(begin)
    await world.offers(mdpy_hd=4)
    pod = await world.run_pod("mdpy-hd")
    (device,) = world.ids(pod)
    with world.vm(device):
        await world.kubelet.force_delete(pod)
        await world.says("device not removed", device=device, reason="in-use")
        page = await becomes(port, "/metrics", 200)
        assert value(page, "mdev_devices_held_back", reason="in-use") == 1
        assert value(page, "mdev_removals_held_back_total", reason="in-use") == 1
    await world.says("device removed", device=device)
    page = await becomes(port, "/metrics", 200)
    assert value(page, "mdev_devices_held_back", reason="in-use") == 0


async def test_the_log_names_the_pod_soon_even_when_nothing_is_ever_removed(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mdpy_hd=4)
    pod = await world.run_pod("mdpy-hd", name="short-lived")
    (device,) = world.ids(pod)
    said = await world.says("device belongs to a pod", device=device)
    assert (said["pod"], said["resource"]) == ("default/short-lived", vfio("mdpy-hd"))


async def with_a_pulled_device(begin: Begin) -> tuple[World, Pod, str]:
    """A world whose pod has lost its device, which the kubelet was told."""
    world = await begin()
    await world.offers(mdpy_hd=4)
    pod = await world.run_pod("mdpy-hd")
    (device,) = world.ids(pod)
    await world.offers(mdpy_vga=3)
    world.remove(device)
    await world.until(lambda: not healthy(world, device))
    return world, pod, device


async def test_a_pulled_device_is_unhealthy_until_its_pod_is_gone(begin: Begin) -> None:
    world, pod, device = await with_a_pulled_device(begin)
    # The room is there again, for others.
    await world.offers(mdpy_hd=4)
    # The kubelet is asked whether the pod is still there, and what it says is not told again and again.
    asked = world.kubelet.calls["List"]
    await world.until(lambda: world.kubelet.calls["List"] >= asked + 2)
    assert len(world.logged("device belongs to a pod", device=device)) <= 1
    await world.kubelet.delete(pod)
    await world.until(lambda: healthy(world, device))
    await world.offers(mdpy_hd=4)


async def test_a_pulled_device_is_made_again_for_the_next_start_of_its_container(begin: Begin) -> None:
    world, pod, device = await with_a_pulled_device(begin)
    await world.kubelet.restart_container(pod, "c")
    assert set(world.devices) == {device}
    await world.until(lambda: healthy(world, device))
