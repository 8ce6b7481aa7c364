"""What the agent tells: health, metrics, and each device's story in the log."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster.hardware import Hardware
from tests.cluster.installation import Agent
from tests.cluster.pods import Pods, vfio
from tests.cluster.waiting import until


def test_an_agent_at_work_says_that_it_lives_and_is_ready(agent: Agent) -> None:
    status, body = agent.ask("/healthz")
    assert (status, body.strip()) == (200, "ok")
    status, body = agent.ask("/readyz")
    assert (status, json.loads(body)) == (200, {"ready": True, "reasons": []})


@pytest.mark.usefixtures("simulator")
def test_the_metrics_follow_a_pod_through_its_life(hardware: Hardware, agent: Agent, pods: Pods) -> None:
    vga = vfio("mdpy-vga")
    agent.measures("mdev_slots", 4, resource=vga, state="free")
    before = agent.metrics()

    def counted(name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return agent.metrics()[key] - before[key]

    pod = pods.run({vga: 3})
    agent.measures("mdev_slots", 3, resource=vga, state="occupied")
    agent.measures("mdev_slots", 1, resource=vga, state="free")
    agent.measures("mdev_slots", 3, resource=vfio("mdpy-hd"), state="unavailable")
    agent.measures("mdev_devices", 3, card="mdpy", type="mdpy-vga", owner="ours")
    agent.measures("mdev_available_instances", 1, card="mdpy", type="mdpy-hd")
    assert counted("mdev_allocations_total", resource=vga, result="success") == 1
    assert counted("mdev_allocations_total", resource=vga, result="error") == 0
    assert counted("mdev_container_starts_total", resource=vga, result="success") == 1
    assert counted("mdev_allocation_duration_seconds_count") == 1
    pod.delete()
    hardware.is_rid_of()
    agent.measures("mdev_slots", 4, resource=vga, state="free")
    agent.measures("mdev_devices", 0, card="mdpy", type="mdpy-vga", owner="ours")
    assert counted("mdev_reclaims_total", result="success") == 3
    assert counted("mdev_reclaim_duration_seconds_count") == 3


def test_series_are_there_before_anything_has_happened(agent: Agent, resource: str) -> None:
    found = agent.metrics()
    for name, labels in (
        ("mdev_kubelet_connected", {"resource": resource}),
        ("mdev_allocations_total", {"resource": resource, "result": "error"}),
        ("mdev_reclaims_total", {"result": "error"}),
        ("mdev_registrations_total", {"result": "error"}),
        ("mdev_removals_held_back_total", {"reason": "checkpoint-failed"}),
        ("mdev_devices_held_back", {"reason": "failed"}),
        ("mdev_faults_total", {"kind": "unreadable"}),
    ):
        assert (name, frozenset(labels.items())) in found


def test_the_log_tells_a_device_s_whole_story_with_its_pod(
    hardware: Hardware, agent: Agent, pods: Pods, resource: str
) -> None:
    pod = pods.run(resource)
    (uuid,) = hardware.ours

    def story() -> list[dict[str, Any]]:
        return [line for line in agent.log() if line.get("device") == uuid and line["level"] == "info"]

    until(lambda: len(story()) == 2, "the log tells whose the device is")
    pod.delete()
    until(lambda: len(story()) == 3, "the log tells of its end")
    made, whose, gone = story()
    assert [line["event"] for line in story()] == [
        "device created",
        "device belongs to a pod",
        "device removed",
    ]
    assert all(line["resource"] == resource for line in (made, whose, gone))
    assert whose["pod"] == gone["pod"] == str(pod)
    assert "group held by us" in gone["proof"]
