"""What the tests on a cluster share: one installation on one node, which each finds and leaves empty."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.commands import Refused
from tests.cluster.diagnostics import diagnostics
from tests.cluster.environment import DIRECTORY, PODS, SYSTEM, Environment
from tests.cluster.hardware import Hardware
from tests.cluster.installation import Agent, Release, Values
from tests.cluster.node import Node
from tests.cluster.pods import HOST, Pods, vfio
from tests.cluster.waiting import until

SAMPLES = {
    vfio("mtty-1"): 24,
    vfio("mtty-2"): 12,
    vfio("mdpy-vga"): 4,
    vfio("mdpy-xga"): 4,
    vfio("mdpy-hd"): 4,
    vfio("mbochs-small"): 64,
    vfio("mbochs-medium"): 16,
    vfio("mbochs-large"): 4,
}
"""What the simulated node offers while it is empty."""


# --- the cluster, once ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def environment() -> Environment:
    return Environment.read()


@pytest.fixture(scope="session")
def cluster(environment: Environment) -> Iterator[Cluster]:
    """The cluster, with the tests' namespaces."""
    cluster = Cluster()
    others = {
        each["metadata"]["namespace"]
        for each in cluster.list("daemonset", selector="app.kubernetes.io/name=mdev-device-plugin")
    } - {SYSTEM}
    if others:
        pytest.exit(f"this cluster has an mdev-device-plugin in {', '.join(others)}: take another one", 1)
    _remove_namespaces(cluster, environment)
    for name in (SYSTEM, PODS):
        cluster.create(
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "privileged"}},
            }
        )
    yield cluster
    _remove_namespaces(cluster, environment)


def _remove_namespaces(cluster: Cluster, environment: Environment) -> None:
    there = [name for name in (SYSTEM, PODS) if cluster.get("namespace", name) is not None]
    if SYSTEM in there:
        Release(cluster, environment.helm, {}).uninstall()
    for name in there:
        cluster.kubectl("delete", "pods", "--all", "--namespace", name, "--grace-period=1")
    if there:
        cluster.kubectl("delete", "namespace", *there, "--timeout=60s")


@pytest.fixture(scope="session")
def node(cluster: Cluster, environment: Environment) -> Node:
    return Node(cluster, environment)


@pytest.fixture(scope="session")
def hardware(cluster: Cluster, node: Node, environment: Environment) -> Iterator[Hardware]:
    """The node's cards and devices, real or simulated."""
    simulated = environment.hardware is None
    hardware = Hardware(cluster, image=environment.image, host=node.host, simulated=simulated)
    hardware.set_up()
    yield hardware
    hardware.sweep()


@pytest.fixture(scope="session")
def release(cluster: Cluster, node: Node, hardware: Hardware, environment: Environment) -> Iterator[Release]:
    """The chart's release, installed or not."""
    repository, _, tag = environment.image.rpartition(":")
    common = {
        "image": {"repository": repository, "tag": tag},
        "nodeSelector": {HOST: node.host},
        "simulator": {"enabled": hardware.simulated, "directory": DIRECTORY},
    }
    release = Release(cluster, environment.helm, common)
    yield release
    release.uninstall()


# --- for each test ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def values() -> Values:
    """How the chart is installed: as everybody would, but for a quick reclaim."""
    return {"config": {"reclaim": {"grace": "1s", "interval": "1s"}}}


@pytest.fixture
def agent(release: Release, values: Values) -> Agent:
    """The installation that tests share, whose log begins with the test."""
    agent = release.ensure(values)
    agent.forget()
    return agent


@pytest.fixture
def simulator(hardware: Hardware) -> Hardware:
    """The simulated node; what needs one is left out on real hardware."""
    if not hardware.simulated:
        pytest.skip("this is for a simulated node, and MDEV_TEST_HARDWARE is set")
    return hardware


@pytest.fixture
def resource(environment: Environment) -> str:
    """A resource that any test may ask for one of."""
    return environment.hardware or vfio("mdpy-hd")


@pytest.fixture
def pods(cluster: Cluster, node: Node, environment: Environment) -> Iterator[Pods]:
    """Makes pods, which end with the test."""
    pods = Pods(cluster, image=environment.image, node=node.name, host=node.host)
    yield pods
    pods.take_away()


@pytest.fixture
def services(node: Node, pods: Pods) -> Iterator[None]:  # noqa: ARG001  # they are taken away after this
    """For tests that stop the node's services: all of them run when such a test ends."""
    node.need_services()
    yield
    for name in ("kube-apiserver", "containerd", "kubelet"):
        node.service("start", name)
    until(lambda: node.is_ready, f"{node.name} is ready")


@pytest.fixture(autouse=True)
def empty_node(hardware: Hardware) -> Iterator[None]:
    """No device is left behind: one that is fails the test that left it, and not the next one."""
    yield
    try:
        hardware.is_rid_of(within=30)
        foreign = hardware.devices if hardware.simulated else ()
        assert not foreign, f"the test has left devices that it made by hand: {', '.join(foreign)}"
    except (AssertionError, Refused):
        if hardware.simulated:
            hardware.mend()
        raise


# --- what is told -----------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and "cluster" in getattr(item, "fixturenames", ()):
        report.sections.append(("the cluster at that time", diagnostics()))
    return report


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say loudly what was left out."""
    skipped = terminalreporter.stats.get("skipped", ())
    if not skipped:
        return
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in skipped)
    told = "; ".join(f"{number} because {reason}" for reason, number in reasons.items())
    terminalreporter.write_line(f"!!! NOT RUN: {len(skipped)} tests: {told}", yellow=True, bold=True)
