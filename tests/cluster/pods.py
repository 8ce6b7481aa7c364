"""Pods that ask for devices: small ones of the image under test, which sleep and end when they are told."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.cluster.cluster import Cluster, Object, condition
from tests.cluster.commands import Refused
from tests.cluster.environment import PODS
from tests.cluster.waiting import PATIENCE, Never, eventually

HOST = "kubernetes.io/hostname"
"""The label by which the scheduler finds a node."""
SLEEP = 'trap "exit 0" TERM; sleep infinity & wait'
STUBBORN = 'trap "" TERM; sleep infinity & wait'
"""Has to be killed."""


_NUMBERS = itertools.count(1)
"""No two pods have one name: the log of an earlier test's would be taken for the next one's."""


def vfio(type_id: str) -> str:
    """The resource that a type is offered as by default."""
    return f"vfio.dev/{type_id}"


def container(image: str, requests: Mapping[str, int], *, script: str = SLEEP, **more: Any) -> Object:
    """A container that asks for so many of each resource."""
    devices = {name: str(number) for name, number in requests.items()}
    return {
        "name": "main",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
        "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}, "limits": devices},
        **more,
    }


@dataclass(frozen=True, slots=True)
class Variables:
    """The environment of a container, as far as the plugin is concerned."""

    all: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> Variables:
        """What ``env`` prints."""
        return cls(dict(line.split("=", 1) for line in text.splitlines() if "=" in line))

    def uuids(self, resource: str) -> list[str]:
        """The devices of a resource that it got, by our own variable."""
        return self.all[f"MDEV_{_shell(resource)}_UUIDS"].split(",")

    @property
    def devices(self) -> set[str]:
        """All devices that it got."""
        ours = (
            value for name, value in self.all.items() if name.startswith("MDEV_") and name.endswith("_UUIDS")
        )
        return {uuid for value in ours for uuid in value.split(",")}


class Pod:
    """A pod in the tests' namespace."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster = cluster
        self.name = name

    def __str__(self) -> str:
        return f"{PODS}/{self.name}"

    # --- what the API server says of it ------------------------------------------------------------

    def read(self) -> Object | None:
        return self._cluster.get("pod", self.name, namespace=PODS)

    @property
    def there(self) -> Object:
        found = self.read()
        assert found is not None, f"the pod {self} is gone"
        return found

    @property
    def uid(self) -> str:
        return str(self.there["metadata"]["uid"])

    def status(self, name: str = "main") -> Object:
        """A container's status; an empty one before there is one."""
        status = self.there["status"]
        every = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
        return next((each for each in every if each["name"] == name), {})

    @property
    def restarts(self) -> int:
        return int(self.status().get("restartCount", 0))

    @property
    def container_id(self) -> str:
        """The runtime's name for its container; none while there is none."""
        return str(self.status().get("containerID", "")).rpartition("/")[2]

    # --- waiting for it ----------------------------------------------------------------------------

    def runs(self, *, within: float = PATIENCE) -> Pod:
        """Wait until it is ready."""

        def ready() -> Pod:
            pod = self._unless("Failed", "Succeeded")
            assert condition(pod, "Ready").get("status") == "True", told(pod)
            return self

        return eventually(ready, within=within)

    def fails(self, *, within: float = PATIENCE) -> Object:
        """Wait until it has failed; its status, which says why."""

        def failed() -> Object:
            pod = self._unless("Running", "Succeeded")
            assert pod["status"]["phase"] == "Failed", told(pod)
            status: Object = pod["status"]
            return status

        return eventually(failed, within=within)

    def succeeds(self, *, within: float = PATIENCE) -> None:
        """Wait until its containers have ended well."""

        def ended() -> None:
            pod = self._unless("Failed")
            assert pod["status"]["phase"] == "Succeeded", told(pod)

        eventually(ended, within=within)

    def cannot_be_scheduled(self, *, within: float = PATIENCE) -> str:
        """Wait until no node has room for it; the scheduler's words."""

        def refused() -> str:
            scheduled = condition(self.there, "PodScheduled")
            assert scheduled.get("reason") == "Unschedulable", f"the pod {self} is not refused: {scheduled}"
            return str(scheduled["message"])

        return eventually(refused, within=within)

    def is_gone(self, *, within: float = PATIENCE) -> None:
        def gone() -> None:
            assert self.read() is None, f"the pod {self} is still there"

        eventually(gone, within=within)

    def _unless(self, *phases: str) -> Object:
        """The pod, unless it is in a phase from which it does not come back."""
        pod = self.there
        if pod["status"]["phase"] in phases:
            raise Never(told(pod))
        return pod

    # --- what it is like inside --------------------------------------------------------------------

    def execute(self, *command: str, container: str = "main") -> str:
        return self._cluster.execute(PODS, self.name, *command, container=container)

    def variables(self, container: str = "main") -> Variables:
        # Not by a shell, which drops variables whose name it can't write.
        return Variables.parse(self.execute("env", container=container))

    def device_nodes(self, container: str = "main") -> set[str]:
        """The character devices in ``/dev/vfio``, each of which could be opened."""
        script = 'for n in /dev/vfio/*; do test -c "$n" && : <>"$n" && echo "$n"; done'
        return set(self.execute("sh", "-ec", script, container=container).split())

    def end(self) -> None:
        """End its main process; the kubelet starts the container again."""
        with contextlib.suppress(Refused):  # The command may end with the container.
            self.execute("sh", "-c", "kill -TERM 1")

    def restart(self) -> None:
        """End its main process, and wait until the container is started again."""
        before = self.restarts
        self.end()

        def again() -> None:
            assert self.restarts > before, f"the container of {self} was not started again"

        eventually(again)

    # --- its end -----------------------------------------------------------------------------------

    def delete(self, *, force: bool = False) -> None:
        """Ask for its end, or with force make the cluster forget it at once."""
        options = ("--force", "--grace-period=0") if force else ()
        self._cluster.delete("pod", self.name, *options, namespace=PODS)

    def evict(self) -> None:
        """Ask for its end as a drain of its node does."""
        self._cluster.post(
            f"/api/v1/namespaces/{PODS}/pods/{self.name}/eviction",
            {
                "apiVersion": "policy/v1",
                "kind": "Eviction",
                "metadata": {"name": self.name, "namespace": PODS},
            },
        )


class Deployment:
    """A deployment of one pod."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster = cluster
        self.name = name

    @property
    def pod(self) -> Pod:
        """Its newest pod."""
        found = self._cluster.list("pod", namespace=PODS, selector=f"app={self.name}")
        assert found, f"{self.name} has no pod"
        newest = max(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        return Pod(self._cluster, newest["metadata"]["name"])


class Pods:
    """Makes the pods of a test, on one node, and takes them away.

    Args:
        node: its name.
        host: what the scheduler knows it by.
    """

    def __init__(self, cluster: Cluster, *, image: str, node: str, host: str) -> None:
        self._cluster = cluster
        self._image = image
        self._node = node
        self._host = host

    def start(
        self, requests: Mapping[str, int] | str | None = None, *, bound: bool = False, **spec: Any
    ) -> Pod:
        """Make a pod, and don't wait for anything.

        Args:
            requests: what its container asks for, or the resource of which it asks for one.
            bound: past the scheduler, straight to the node.
            spec: more of the pod's specification, or instead of what it would be; ``script`` is the
                container's.
        """
        wanted = {requests: 1} if isinstance(requests, str) else requests or {}
        script = spec.pop("script", SLEEP)
        # By label the scheduler finds the node; named, it is not asked.
        where: Object = {"nodeName": self._node} if bound else {"nodeSelector": {HOST: self._host}}
        pod = Pod(self._cluster, f"pod-{next(_NUMBERS)}")
        self._cluster.create(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": pod.name, "namespace": PODS, "labels": {"mdev-test": "pod"}},
                "spec": {
                    "containers": [self.container(wanted, script=script)],
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": 30,
                    **where,
                    **spec,
                },
            }
        )
        return pod

    def run(self, requests: Mapping[str, int] | str | None = None, **spec: Any) -> Pod:
        """Make a pod and wait until it runs."""
        return self.start(requests, **spec).runs()

    def deploy(self, requests: str) -> Deployment:
        """Have a controller keep one pod running, and wait until it runs."""
        deployment = Deployment(self._cluster, f"deployment-{next(_NUMBERS)}")
        labels = {"mdev-test": "pod", "app": deployment.name}
        self._cluster.create(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": deployment.name, "namespace": PODS, "labels": labels},
                "spec": {
                    "selector": {"matchLabels": labels},
                    "template": {
                        "metadata": {"labels": labels},
                        "spec": {
                            "containers": [self.container({requests: 1})],
                            "nodeSelector": {HOST: self._host},
                        },
                    },
                },
            }
        )
        eventually(lambda: deployment.pod).runs()
        return deployment

    def container(self, requests: Mapping[str, int], *, script: str = SLEEP, **more: Any) -> Object:
        """A container, for pods with several."""
        return container(self._image, requests, script=script, **more)

    def take_away(self) -> None:
        """End all pods that tests have made, and wait for it."""
        self._cluster.kubectl(
            *("delete", "deployment", "--namespace", PODS, "--selector", "mdev-test=pod"),
            *("--cascade=foreground", "--wait=true", "--timeout=60s"),
        )
        self._cluster.kubectl(
            *("delete", "pod", "--namespace", PODS, "--selector", "mdev-test=pod"),
            *("--grace-period=1", "--wait=true", "--timeout=60s"),
        )


def told(pod: Object) -> str:
    """What a pod's status says of it, for whoever waited in vain."""
    status = pod["status"]
    containers = [
        f"{each['name']}: {each.get('state')}"
        for each in (*status.get("initContainerStatuses", []), *status.get("containerStatuses", []))
    ]
    said = [status.get("reason"), status.get("message"), condition(pod, "PodScheduled").get("message")]
    about = "; ".join(str(each) for each in (*said, *containers) if each)
    return f"the pod {pod['metadata']['name']} is {status['phase']}: {about}"


def _shell(resource: str) -> str:
    return "".join(each if each.isalnum() else "_" for each in resource.upper())
