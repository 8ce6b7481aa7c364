"""Devices that somebody else made: handed out as they are, and never removed."""

from __future__ import annotations

import uuid

import pytest

from deviceplugin.simulator.kubelet.kubelet import AdmissionError
from deviceplugin.simulator.node.vm import VirtualMachine, hold
from tests.component.conftest import Begin
from tests.component.world import NEVER, TUNED, World, vfio

SERIAL = "example.com/serial"
ONLY_ADOPTED = (
    f"discovery: {{include: []}}\n"
    f"resources: [{{name: {SERIAL}, types: [mtty-1], max: 0, adoptExisting: {{}}}}]\n{TUNED}"
)


async def ready(world: World, number: int, *, resource: str = SERIAL) -> None:
    await world.kubelet.wait_for(lambda: world.kubelet.allocatable(resource) == number)


def made_by_hand(world: World, type_id: str = "mtty-1", parent: str = "mtty") -> str:
    device = str(uuid.uuid4())
    world.create(parent, type_id, device)
    return device


async def test_an_administrators_device_is_offered_handed_out_and_kept(begin: Begin) -> None:
    world = await begin(config=ONLY_ADOPTED)
    device = made_by_hand(world)
    await ready(world, 1)
    for name in ("first", "second"):
        pod = await world.run_pod({SERIAL: 1}, name=name)
        assert world.ids(pod) == {device}
        await world.kubelet.delete(pod)
        await ready(world, 1)
    foreign = made_by_hand(world)
    await ready(world, 2)
    assert {device, foreign} <= world.devices.keys()
    assert not world.logged("device removed")


async def test_only_what_the_selectors_mean_is_adopted(begin: Begin) -> None:
    wanted = str(uuid.uuid4())
    config = f"""
resources:
- name: example.com/one
  types: ["mtty-*"]
  max: 0
  adoptExisting: {{uuids: ["{wanted.upper()}"]}}
- name: example.com/dual
  types: ["mtty-*"]
  max: 0
  adoptExisting: {{types: [Dual port serial]}}
- name: example.com/any
  types: ["*"]
  max: 0
  adoptExisting: {{parents: {{exclude: {{addresses: [mdpy]}}}}}}
{TUNED}"""
    world = await begin(config=config)
    world.create("mtty", "mtty-1", wanted)
    dual, small = made_by_hand(world, "mtty-2"), made_by_hand(world, "mbochs-small", "mbochs")
    left = made_by_hand(world, "mdpy-hd", "mdpy")
    for name in ("one", "dual", "any"):
        await ready(world, 1, resource=f"example.com/{name}")
    offered = {name: set(world.kubelet.devices(f"example.com/{name}")) for name in ("one", "dual", "any")}
    assert offered == {"one": {wanted}, "dual": {dual}, "any": {small}}
    assert left not in world.kubelet.devices(vfio("mdpy-hd"))


async def test_an_adopted_device_comes_before_one_that_would_be_made(begin: Begin) -> None:
    world = await begin(
        config=f"resources: [{{name: {SERIAL}, types: [mtty-1], adoptExisting: {{}}}}]\n{TUNED}"
    )
    device = made_by_hand(world)
    await ready(world, 24)
    pod = await world.run_pod({SERIAL: 2})
    assert device in world.ids(pod)
    assert len(world.devices) == 2


async def test_what_others_made_counts_for_no_quota_when_a_pod_comes_either(begin: Begin) -> None:
    options = "types: [mtty-1], maxPerCard: 2, adoptExisting: {}"
    world = await begin(config=f"resources: [{{name: {SERIAL}, {options}}}]\n{NEVER}")
    adopted = {made_by_hand(world) for _ in range(2)}
    await ready(world, 4)
    pod = await world.run_pod({SERIAL: 4})
    assert adopted < world.ids(pod)
    assert set(world.devices) == world.ids(pod)


async def test_a_device_that_a_machine_beside_kubernetes_uses_is_not_handed_out(begin: Begin) -> None:
    world = await begin(config=ONLY_ADOPTED)
    device = made_by_hand(world)
    await ready(world, 1)
    vm = VirtualMachine(world.node, device)
    with pytest.raises(AdmissionError, match="is in use by something that is no pod"):
        await world.run_pod({SERIAL: 1})
    await ready(world, 0)
    assert device in world.kubelet.devices(SERIAL)
    vm.stop()
    await ready(world, 1)
    assert world.ids(await world.run_pod({SERIAL: 1}, name="later")) == {device}


async def test_a_vm_that_outlives_its_pod_keeps_an_adopted_device_from_the_next(begin: Begin) -> None:
    world = await begin(config=ONLY_ADOPTED)
    device = made_by_hand(world)
    await ready(world, 1)
    pod = await world.run_pod({SERIAL: 1})
    with hold(world.node, device):
        await world.kubelet.delete(pod)
        with pytest.raises(AdmissionError, match="or by a VM that outlived its pod"):
            await world.run_pod({SERIAL: 1}, name="next")
        await ready(world, 0)
        assert device in world.devices
    await ready(world, 1)


async def test_an_adopted_device_that_is_removed_by_hand_turns_unhealthy_and_stays_listed(
    begin: Begin,
) -> None:
    world = await begin(config=ONLY_ADOPTED)
    device = made_by_hand(world)
    await ready(world, 1)
    world.remove(device)
    await ready(world, 0)
    assert device in world.kubelet.devices(SERIAL)
    world.create("mtty", "mtty-1", device)
    await ready(world, 1)


async def test_with_cdi_the_file_of_an_adopted_device_goes_when_that_does(begin: Begin) -> None:
    world = await begin(config=f"{ONLY_ADOPTED}\nhandover: {{cdi: true}}")
    device = made_by_hand(world)
    await ready(world, 1)
    pod = await world.run_pod({SERIAL: 1})
    assert [each.name for each in world.handed(pod).cdi_devices] == [f"vfio.dev/mdev={device}"]
    (file,) = world.kernel.paths.cdi.iterdir()
    assert device in file.name
    await world.kubelet.delete(pod)
    world.remove(device)
    await world.until(lambda: not file.exists())


async def test_an_adopted_device_survives_the_agent_and_its_configuration(begin: Begin) -> None:
    world = await begin(config=ONLY_ADOPTED)
    device = made_by_hand(world)
    await ready(world, 1)
    await world.run_pod({SERIAL: 1})
    await world.kill_agent()
    world.configure(
        f"discovery: {{include: []}}\nresources: [{{name: {SERIAL}, types: [mtty-1], max: 1}}]\n{TUNED}"
    )
    await world.start_agent()
    # What the pod has stays listed, though nothing of the kind would be adopted now.
    await ready(world, 2)
    assert world.kubelet.devices(SERIAL)[device][0]
    assert device in world.devices


async def test_an_adopted_device_that_a_reboot_took_is_left_to_whoever_made_it(begin: Begin) -> None:
    config = f"resources: [{{name: {SERIAL}, types: [mtty-1], adoptExisting: {{}}}}]\n{TUNED}"
    world = await begin(config=config)
    device = made_by_hand(world)
    await ready(world, 24)
    pod = await world.run_pod({SERIAL: 1})
    assert world.ids(pod) == {device}
    await world.kill_agent()
    await world.beside(world.node.reboot)
    await world.start_agent()
    await world.until(lambda: len(world.logged("registered", resource=SERIAL)) == 2)
    assert not world.devices
    await ready(world, 24)


async def test_a_device_that_is_adopted_no_more_goes_to_no_pod_but_the_one_that_has_it(begin: Begin) -> None:
    world = await begin(config=ONLY_ADOPTED)
    device = made_by_hand(world)
    await ready(world, 1)
    pod = await world.run_pod({SERIAL: 1})
    await world.stop_agent()
    world.configure(
        f"discovery: {{include: []}}\nresources: [{{name: {SERIAL}, types: [mtty-1], max: 0}}]\n{TUNED}"
    )
    await world.start_agent()
    await world.until(lambda: len(world.logged("registered", resource=SERIAL)) == 2)
    await ready(world, 1)
    await world.kubelet.restart_container(pod, "c")
    await world.kubelet.delete(pod)
    with pytest.raises(AdmissionError, match="is none of those that the configuration offers"):
        await world.run_pod({SERIAL: 1}, name="next")
    await ready(world, 0)
    assert device in world.kubelet.devices(SERIAL)
    assert device in world.devices


async def offered_but(world: World, number: int, *in_use: str) -> None:
    """Wait until so many are offered; those in use are listed, and were Healthy in no list."""
    await ready(world, number)
    assert not {uuid for uuid in in_use if world.kubelet.devices(SERIAL).get(uuid, (False, None))[0]}


@pytest.mark.parametrize("reclaim", [TUNED, NEVER])
async def test_what_is_in_use_already_costs_no_pod_and_is_offered_once_it_is_free(
    begin: Begin, reclaim: str
) -> None:
    world = await begin(
        config=ONLY_ADOPTED.replace(TUNED, reclaim.replace("}", ", interval: 1s, grace: 1s}"))
        if reclaim == NEVER
        else ONLY_ADOPTED,
        agent=False,
    )
    early = [made_by_hand(world) for _ in range(3)]
    with world.vm(early[0]), world.vm(early[1]):
        await world.start_agent()
        await offered_but(world, 1, *early[:2])
        with pytest.raises(AdmissionError, match="Available: 1"):
            await world.run_pod({SERIAL: 2}, name="two")
        pod = await world.run_pod({SERIAL: 1}, name="one")
        assert world.ids(pod) == {early[2]}
        assert not world.logged("request refused")
        assert len(world.logged("device of somebody else's is not offered yet", device=early[0])) == 1
        # Of those that come later, too, none is offered that is in use.
        group = world.devices[early[2]].group
        with world.vm(made_by_hand(world)):
            assert group is not None
        await ready(world, 2)
    await ready(world, 4)


async def test_the_device_of_a_pod_is_not_looked_at(begin: Begin) -> None:
    world = await begin(config=ONLY_ADOPTED)
    device = made_by_hand(world)
    await ready(world, 1)
    pod = await world.run_pod({SERIAL: 1})
    with world.vm(device):
        await world.stop_agent()
        await world.start_agent()
        await world.until(lambda: len(world.logged("registered", resource=SERIAL)) == 2)
        await ready(world, 1)
        assert not world.logged("device of somebody else's is not offered yet")
    await world.kubelet.restart_container(pod, "c")
