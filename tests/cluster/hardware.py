"""The node's cards and devices, simulated or real, from a pod that stands beside the agent.

What is seen and done through it does not depend on the agent: it is there while that is killed, upgraded or
not installed. On a simulated node it is also the hand of an administrator, and of whoever pulls cards.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from deviceplugin.inventory import slots
from tests.cluster.cluster import Cluster, Object
from tests.cluster.commands import Refused
from tests.cluster.environment import DIRECTORY, PODS, SIMULATED
from tests.cluster.pods import HOST, Pod, container
from tests.cluster.waiting import PATIENCE, eventually

PLUGINS = "/var/lib/kubelet/device-plugins"
_NAME = "bystander"


@dataclass(frozen=True, slots=True)
class Device:
    """A mediated device that exists."""

    uuid: str
    type: str
    parent: str
    group: int | None

    @property
    def ours(self) -> bool:
        """Whether the agent made it."""
        return slots.bears_mark(self.uuid)


class Hardware:
    """Cards and devices of one node.

    Args:
        simulated: whether they are the simulator's.
    """

    def __init__(self, cluster: Cluster, *, image: str, host: str, simulated: bool) -> None:
        self._cluster = cluster
        self._image = image
        self._host = host
        self.simulated = simulated
        self._made = False
        self.pod = Pod(cluster, _NAME)

    def set_up(self) -> None:
        """Start the pod, on a node that is rid of what earlier tests may have left."""
        self.sweep()
        self._cluster.create(self._pod(_NAME, {"node": DIRECTORY, "plugins": PLUGINS}))
        self.pod.runs()

    def sweep(self) -> None:
        """Remove what the tests have on the node."""
        self._cluster.delete("pod", _NAME, "--grace-period=1", namespace=PODS)
        self.pod.is_gone()
        parent, _, name = DIRECTORY.rpartition("/")
        sweeper = Pod(self._cluster, "sweeper")
        script = f"rm -rf {parent}/{name}"
        self._cluster.create(self._pod(sweeper.name, {"parent": parent}, script=script))
        sweeper.succeeds()
        sweeper.delete()
        sweeper.is_gone()

    # --- what there is -----------------------------------------------------------------------------

    @property
    def devices(self) -> dict[str, Device]:
        """All devices, by UUID."""
        if self.simulated and not self._has_been_made:
            return {}
        found = json.loads(self._plugin("devices", *self._which, "--no-probe", "-o", "json"))["devices"]
        return {one["uuid"]: Device(one["uuid"], one["type"], one["parent"], one["group"]) for one in found}

    @property
    def ours(self) -> set[str]:
        """The devices that the agent made."""
        return {uuid for uuid, device in self.devices.items() if device.ours}

    def is_rid_of(self, *uuids: str, within: float = PATIENCE) -> None:
        """Wait until none of these devices is there any more, or none of the agent's if none is named."""

        def gone() -> None:
            left = self.ours & set(uuids) if uuids else self.ours
            assert not left, f"devices are still there: {', '.join(sorted(left))}"

        eventually(gone, within=within)

    def identity(self, uuid: str) -> str:
        """What tells a device from one that was made anew under the same UUID."""
        root = SIMULATED if self.simulated else ""
        # A file system numbers directories, and may use a number again: then their birth tells.
        return self._there("stat", "-L", "-c", "%i %w", f"{root}/sys/bus/mdev/devices/{uuid}").strip()

    def identities(self) -> dict[str, str]:
        """The identity of every device that the agent made."""
        return {uuid: self.identity(uuid) for uuid in self.ours}

    def in_use(self, uuid: str) -> bool:
        """Whether something has the device open."""
        found = json.loads(self._plugin("devices", *self._which, "-o", "json"))["devices"]
        return any(one["uuid"] == uuid and one["use"] == "in-use" for one in found)

    def room(self, type_id: str) -> int:
        """How many more of a type the cards could carry."""
        found = json.loads(self._plugin("types", *self._which, "-o", "json"))["types"]
        return sum(one["available"] for one in found if one["type"] == type_id)

    @property
    def sockets(self) -> list[str]:
        """The agent's sockets in the kubelet's directory."""
        return self._there("sh", "-c", f"cd {PLUGINS} && ls -d mdev-*.sock 2>/dev/null || true").split()

    # --- what is done to it ------------------------------------------------------------------------

    def simulate(self, *command: str) -> str:
        """Do something to the simulated node, as ``mdev-device-plugin simulate DIR`` does."""
        return self._plugin("simulate", SIMULATED, *command)

    def make(self, type_id: str) -> str:
        """Make a device by hand; its UUID."""
        return self.simulate("create", type_id).split()[0]

    def process(self, container_id: str) -> int:
        """The process that a container began with, as the node numbers it."""
        found = self._there("sh", "-c", f"grep -ls {container_id} /proc/[0-9]*/cgroup || true").split()
        numbers = sorted(int(path.split("/")[2]) for path in found)
        if not numbers:
            raise Refused(f"the container {container_id} has no process on the node")
        return numbers[0]

    def runs(self, process: int) -> bool:
        """Whether a process of the node has not ended yet."""
        return bool(self._there("sh", "-c", f"kill -0 {process} 2>/dev/null && echo yes || true").strip())

    def kill(self, process: int) -> None:
        """End a process of the node at once."""
        self._there("sh", "-c", f"kill -KILL {process}")

    def mend(self) -> None:
        """Make a simulated node whole and empty again, whatever a test did to it."""
        self.simulate("clear-faults")
        for parent in ("mtty", "mdpy", "mbochs"):
            self.simulate("register", parent)
        for uuid in self.devices:
            self.simulate("remove", uuid)

    @property
    def _has_been_made(self) -> bool:
        """Whether there is a simulated node: the chart makes it, when it is first installed."""
        self._made = self._made or not self._there("sh", "-c", f"test -d {SIMULATED} || echo none")
        return self._made

    # --- how ---------------------------------------------------------------------------------------

    @property
    def _which(self) -> tuple[str, ...]:
        return ("--simulated", SIMULATED) if self.simulated else ()

    def _plugin(self, *command: str) -> str:
        return self._there("mdev-device-plugin", *command)

    def _there(self, *command: str) -> str:
        return self.pod.execute(*command)

    def _pod(self, name: str, directories: dict[str, str], **more: str) -> Object:
        """A pod with directories of the node at the same paths."""
        mounts = [{"name": each, "mountPath": path} for each, path in directories.items()]
        volumes = [
            {"name": each, "hostPath": {"path": path, "type": "DirectoryOrCreate"}}
            for each, path in directories.items()
        ]
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": PODS},
            "spec": {
                "containers": [container(self._image, {}, volumeMounts=mounts, **more)],
                "volumes": volumes,
                "nodeSelector": {HOST: self._host},
                # It sees the processes of the node, one of which is the agent.
                "hostPID": True,
                "restartPolicy": "Never" if more else "Always",
                "automountServiceAccountToken": False,
                "tolerations": [{"operator": "Exists"}],
            },
        }
