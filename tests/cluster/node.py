"""The node under test: what the API server says of it, and its services."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise

import yaml

from tests.cluster.cluster import Cluster, condition
from tests.cluster.commands import run
from tests.cluster.environment import Environment
from tests.cluster.pods import HOST
from tests.cluster.waiting import PATIENCE, Never, eventually

_PROCESSES = """
for process in /proc/[0-9]*; do
  [ "$(cat $process/comm 2>/dev/null)" != "$1" ] || echo ${process#/proc/}
done
"""


class Node:
    """One node of the cluster."""

    def __init__(self, cluster: Cluster, environment: Environment) -> None:
        self._cluster = cluster
        self._environment = environment
        self.name, self.host = _chosen(cluster, environment)

    # --- what it has -------------------------------------------------------------------------------

    @property
    def allocatable(self) -> dict[str, int]:
        """How many of each extended resource pods may have together."""
        return self._amounts("allocatable")

    @property
    def capacity(self) -> dict[str, int]:
        """How many of each extended resource the kubelet ever heard of."""
        return self._amounts("capacity")

    def offers(self, expected: Mapping[str, int], *, within: float = PATIENCE) -> None:
        """Wait until so many of each of these resources are allocatable; none is as good as zero."""

        def shown() -> None:
            found = self.allocatable
            seen = {resource: found.get(resource, 0) for resource in expected}
            assert seen == dict(expected), f"{self.name} offers {seen} and not {dict(expected)}"

        eventually(shown, within=within)

    def has_room(self, resource: str, *, within: float = PATIENCE) -> None:
        """Wait until one of a resource is allocatable, as the scheduler does for a pod that asks for it."""

        def shown() -> None:
            assert self.allocatable.get(resource, 0) > 0, f"{self.name} has no room for {resource}"

        eventually(shown, within=within)

    @property
    def is_ready(self) -> bool:
        node = self._cluster.get("node", self.name)
        return node is not None and condition(node, "Ready").get("status") == "True"

    def _amounts(self, which: str) -> dict[str, int]:
        node = self._cluster.get("node", self.name)
        if node is None:
            raise Never(f"there is no node {self.name} any more")
        # Kubernetes' own resources have no domain, but for what begins with its own.
        amounts = {name: value for name, value in node["status"].get(which, {}).items() if "/" in name}
        return {name: int(value) for name, value in amounts.items() if value.isdigit()}

    # --- what is done to it ------------------------------------------------------------------------

    def need_services(self) -> None:
        """Leave out a test that can't be run without starting and stopping services."""
        if not self._environment.node_service:
            self._environment.lacks("MDEV_TEST_NODE_SERVICE", "starts and stops what the node runs")

    def need_commands(self) -> None:
        """Leave out a test that can't be run without commands on the node."""
        if not self._environment.node_exec:
            self._environment.lacks("MDEV_TEST_NODE_EXEC", "reaches the node without the API server")

    def service(self, verb: str, name: str) -> None:
        """``start``, ``stop``, ``kill`` or ``restart`` a service."""
        run((*self._environment.node_service, verb, name))

    def execute(self, *command: str) -> str:
        """What a command prints on the node."""
        return run((*self._environment.node_exec, *command))

    def processes(self, name: str) -> list[int]:
        """The processes of that name, as the node numbers them."""
        return [int(number) for number in self.execute("sh", "-c", _PROCESSES, "sh", name).split()]

    @contextmanager
    def kubelet_settings(self, **settings: object) -> Iterator[None]:
        """Start the kubelet anew with other settings, and with its own again in the end.

        A test is left out where the kubelet has no configuration file that could be changed.
        """
        self.need_services()
        self.need_commands()
        file = self._kubelet_configuration()
        own = self.execute("cat", file)
        try:
            self._configure_kubelet(file, yaml.safe_dump({**yaml.safe_load(own), **settings}))
            yield
        finally:
            self._configure_kubelet(file, own)

    def _kubelet_configuration(self) -> str:
        """The path of the kubelet's configuration file."""
        (kubelet,) = self.processes("kubelet")
        for option, following in pairwise(self.execute("cat", f"/proc/{kubelet}/cmdline").split("\0")):
            name, _, value = option.partition("=")
            if name == "--config":
                return value or following
        return self._environment.lacks(
            "a configuration file of the kubelet (--config)", "lets its settings be changed"
        )

    def _configure_kubelet(self, file: str, text: str) -> None:
        self.execute("sh", "-ec", 'printf %s "$1" >"$2"', "sh", text, file)
        self.service("restart", "kubelet")


def _chosen(cluster: Cluster, environment: Environment) -> tuple[str, str]:
    """The node's name, and what the scheduler knows it by."""
    for node in cluster.list("node"):
        name = str(node["metadata"]["name"])
        if environment.node not in {None, name}:
            continue
        taints = {taint["effect"] for taint in node["spec"].get("taints", [])}
        usable = condition(node, "Ready").get("status") == "True" and taints <= {"PreferNoSchedule"}
        if usable:
            return name, str(node["metadata"]["labels"][HOST])
    raise Never(f"no node is ready and takes any pod{f': {environment.node}' if environment.node else ''}")
