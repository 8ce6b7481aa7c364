"""The chart, installed: the release as helm has it, and the agent that came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.cluster import Cluster, Object, condition
from tests.cluster.commands import run
from tests.cluster.environment import SYSTEM
from tests.cluster.node import Node
from tests.cluster.waiting import PATIENCE, eventually

CHART = Path(__file__).parents[2] / "charts/mdev-device-plugin"
RELEASE = "mdev"
PORT = 8080
SELECTOR = f"app.kubernetes.io/name=mdev-device-plugin,app.kubernetes.io/instance={RELEASE}"
AGENTS = f"{SELECTOR},app.kubernetes.io/component=agent"

Values = Mapping[str, Any]


class Agent:
    """The agent's pod of the moment."""

    def __init__(self, cluster: Cluster, pod: Object) -> None:
        self._cluster = cluster
        self.name = str(pod["metadata"]["name"])
        self._heard = ""

    @property
    def _status(self) -> Object:
        pod = self._cluster.get("pod", self.name, namespace=SYSTEM)
        assert pod is not None, f"the agent's pod {self.name} is gone"
        statuses: list[Object] = pod["status"].get("containerStatuses", [])
        assert statuses, f"the agent's pod {self.name} has no container yet"
        return statuses[0]

    @property
    def container_id(self) -> str:
        return str(self._status["containerID"]).rpartition("/")[2]

    @property
    def restarts(self) -> int:
        return int(self._status["restartCount"])

    def execute(self, *command: str) -> str:
        return self._cluster.execute(SYSTEM, self.name, *command, container="agent")

    def ask(self, path: str) -> tuple[int, str]:
        """Status and body of what it answers to a GET."""
        return self._cluster.ask(SYSTEM, self.name, PORT, path)

    def is_ready(self, *, within: float = PATIENCE) -> None:
        """Wait until it says that it serves its node."""

        def ready() -> None:
            status, body = self.ask("/readyz")
            assert status == 200, f"the agent is not ready: {status}: {body}"

        eventually(ready, within=within)

    # --- what it tells -----------------------------------------------------------------------------

    def forget(self) -> None:
        """Have the log begin now."""
        self._heard = max((line["time"] for line in self.log()), default="")

    def log(self) -> list[dict[str, Any]]:
        """What this container has logged, oldest first; what was to be forgotten is left out."""
        text = self._cluster.kubectl("logs", "--namespace", SYSTEM, self.name, "--container", "agent")
        return [line for line in events(text) if line["time"] > self._heard]

    def log_on(self, node: Node) -> list[dict[str, Any]]:
        """All that it has logged in all of its containers, read on its node: for want of an API server."""
        files = f"/var/log/pods/{SYSTEM}_{self.name}_*/agent/*.log"
        lines = node.execute("sh", "-c", f"cat {files}").splitlines()
        return events("\n".join(line[line.find("{") :] for line in lines))

    def says(self, event: str, *, within: float = PATIENCE, **about: object) -> dict[str, Any]:
        """Wait for a line of its log."""

        def said() -> dict[str, Any]:
            lines = (
                line
                for line in self.log()
                if line["event"] == event and all(line.get(key) == value for key, value in about.items())
            )
            found = next(lines, None)
            assert found is not None, f"the agent did not log {event!r} with {about}"
            return found

        return eventually(said, within=within)

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Every sample that it exposes."""
        status, text = self.ask("/metrics")
        assert status == 200, f"/metrics answers {status}"
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def measures(self, name: str, expected: float, *, within: float = PATIENCE, **labels: str) -> None:
        """Wait until a sample has a value."""

        def measured() -> None:
            found = self.metrics().get((name, frozenset(labels.items())))
            assert found == expected, f"{name}{labels} is {found} and not {expected}"

        eventually(measured, within=within)


class Release:
    """The chart's one release; its values decide what it is.

    Args:
        common: values that every release has.
    """

    def __init__(self, cluster: Cluster, helm: str, common: Values) -> None:
        self._cluster = cluster
        self._helm = helm
        self._common = common
        self._installed: Values | None = None

    # --- what helm does ----------------------------------------------------------------------------

    def ensure(self, values: Values) -> Agent:
        """Have it installed with these values, and its agent ready; does nothing where that is so."""
        if self._installed == values:
            return self.settled()
        return self.upgrade(values)

    def upgrade(self, values: Values) -> Agent:
        """Install it, or change it, and wait until the agent is ready."""
        self._installed = None
        self.helm("upgrade", "--install", RELEASE, str(CHART), "--values", "-", given=self._all(values))
        self._installed = values
        return self.settled()

    def roll_back(self, revision: int, values: Values) -> Agent:
        """Have an earlier revision again, which had these values."""
        self._installed = None
        self.helm("rollback", RELEASE, str(revision))
        self._installed = values
        return self.settled()

    def uninstall(self) -> None:
        """Remove it, if it is there, and wait until the agent has ended."""
        self._installed = None
        self.helm("uninstall", RELEASE, "--ignore-not-found", "--wait")

        def ended() -> None:
            left = self._cluster.list("pod", namespace=SYSTEM, selector=AGENTS)
            assert not left, "the agent's pod is still there"

        eventually(ended)

    @property
    def revision(self) -> int:
        history = json.loads(self.helm("history", RELEASE, "-o", "json"))
        return max(int(each["revision"]) for each in history)

    def render(self, values: Values) -> list[Object]:
        """The objects of another release with these values, the test's pod included."""
        text = self.helm("template", "another", str(CHART), "--values", "-", given=self._all(values))
        return [each for each in yaml.safe_load_all(text) if each]

    def helm(self, verb: str, *arguments: str, given: str = "") -> str:
        return run((self._helm, verb, *arguments, "--namespace", SYSTEM), given=given)

    def _all(self, values: Values) -> str:
        return yaml.safe_dump(merged(self._common, values))

    # --- what came of it ---------------------------------------------------------------------------

    def settled(self, *, within: float = PATIENCE) -> Agent:
        """Wait until the one agent that is wanted is there and ready, and no other."""

        def rolled_out() -> Agent:
            (wanted,) = self._cluster.list("daemonset", namespace=SYSTEM, selector=SELECTOR)
            status = wanted["status"]
            assert status.get("observedGeneration") == wanted["metadata"]["generation"], (
                "the daemonset's change has not been noticed yet"
            )
            assert status["desiredNumberScheduled"] == 1, "not exactly one agent is wanted"
            assert status.get("updatedNumberScheduled") == 1, "the agent is not of this revision yet"
            agents = self._cluster.list("pod", namespace=SYSTEM, selector=AGENTS)
            assert len(agents) == 1, f"there are {len(agents)} agents"
            assert "deletionTimestamp" not in agents[0]["metadata"], "the old agent is still there"
            assert condition(agents[0], "Ready").get("status") == "True", "the agent is not ready"
            return Agent(self._cluster, agents[0])

        return eventually(rolled_out, within=within)


def merged(below: Values, above: Values) -> dict[str, Any]:
    """Values over values, as helm puts them together."""
    both = dict(below)
    for key, value in above.items():
        under = both.get(key)
        if isinstance(under, Mapping) and isinstance(value, Mapping):
            both[key] = merged(under, value)
        else:
            both[key] = value
    return both


def events(text: str) -> list[dict[str, Any]]:
    """The events in a log; what else is in it, gRPC's own lines, is left out."""
    found = []
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event:
            found.append(event)
    return found
