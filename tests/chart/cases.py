"""Every value of the chart: set to something, and what the objects then say that they don't say otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SIMULATED = {"simulator": {"enabled": True}}


@dataclass(frozen=True, slots=True)
class Case:
    """One value set, and what appears for it.

    Args:
        path: the value's, as in ``image.tag``.
        setting: what it is set to.
        appears: lines of the rendered text, without their indentation.
        besides: the other values that it takes to see that; what appears for them is not looked at.
        vanishes: lines that are there otherwise, and not with the setting.
    """

    path: str
    setting: Any
    appears: tuple[str, ...] = ()
    besides: dict[str, Any] | None = None
    vanishes: tuple[str, ...] = ()

    @property
    def values(self) -> dict[str, Any]:
        merged: dict[str, Any] = {section: _copy(value) for section, value in (self.besides or {}).items()}
        *sections, key = self.path.split(".")
        place = merged
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = self.setting
        return merged

    def __str__(self) -> str:
        return self.path


def _copy(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value


_MONITOR = {"podMonitor": {"enabled": True}}
_DASHBOARD = {"dashboard": {"enabled": True}}
_POLICY = {"networkPolicy": {"enabled": True}}
_AFFINITY = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
    {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node1"]}]}]}}}  # fmt: skip
_DIGEST = f"sha256:{'0a' * 32}"

CASES = (
    Case("image.repository", "example.com/mdev", ("image: example.com/mdev:0.1.0",)),
    Case("image.tag", "1.2-dev", ("image: localhost/mdev-device-plugin:1.2-dev",)),
    Case("image.digest", _DIGEST, (f"image: localhost/mdev-device-plugin@{_DIGEST}",)),
    Case("image.pullPolicy", "Always", ("imagePullPolicy: Always",)),
    Case("imagePullSecrets", [{"name": "mine"}], ("imagePullSecrets:", "- name: mine")),
    Case("nameOverride", "vgpu", ("app.kubernetes.io/name: vgpu", "name: mdev-device-plugin-vgpu")),
    Case("fullnameOverride", "agent-of-mine", ("name: agent-of-mine",)),
    Case("labels", {"team": "graphics"}, ("team: graphics",)),
    Case("annotations", {"example.com/owner": "me"}, ("example.com/owner: me",)),
    Case("config", {"reclaim": {"grace": "30s"}}, ("reclaim:", "grace: 30s")),
    Case("kubelet.root", "/var/lib/k0s/kubelet", ("path: /var/lib/k0s/kubelet/pod-resources",)),
    Case("kubelet.devicePlugins", "/data/plugins", ("path: /data/plugins",)),
    Case("log.format", "console", ("value: console",)),
    Case("log.level", "debug", ("value: debug",)),
    Case("http.port", 9090, ('value: ":9090"', "containerPort: 9090")),
    Case("capabilities", ["NET_ADMIN"], ("- --bounding-set=-all,+net_admin",)),
    Case("simulator.enabled", True, ("- name: simulate", "- name: MDEV_SIMULATED"), vanishes=("- setpriv",)),
    Case("simulator.node", "nvidia-t4", ("- --node=nvidia-t4",), besides=SIMULATED),
    Case(
        "simulator.description",
        "models: {}\ncards: []\n",
        ("- --node=/etc/mdev-device-plugin/node.yaml", "node.yaml: |", "models: {}", "cards: []"),
        besides=SIMULATED,
    ),
    Case("simulator.directory", "/srv/mdev", ("path: /srv/mdev", "mountPath: /srv/mdev"), besides=SIMULATED),
    Case("resources", {"limits": {"memory": "1Gi"}}, ("memory: 1Gi",)),
    Case("priorityClassName", "", vanishes=("priorityClassName: system-node-critical",)),
    Case("updateStrategy", {"rollingUpdate": {"maxUnavailable": "10%"}}, ("maxUnavailable: 10%",)),
    Case("terminationGracePeriodSeconds", 60, ("terminationGracePeriodSeconds: 60",)),
    Case("nodeSelector", {"vgpu": "yes"}, ('vgpu: "yes"',)),
    Case("affinity", _AFFINITY, ("affinity:", "- key: metadata.name")),
    Case("tolerations", [], vanishes=("tolerations:",)),
    Case("podLabels", {"pod": "label"}, ("pod: label",)),
    Case("podAnnotations", {"pod": "annotation"}, ("pod: annotation",)),
    Case("extraEnv", [{"name": "GRPC_TRACE", "value": "api"}], ("- name: GRPC_TRACE",)),
    Case("extraArgs", ["--node-name=other"], ("- --node-name=other",)),
    Case("extraVolumes", [{"name": "more", "emptyDir": {}}], ("name: more",)),
    Case(
        "extraVolumeMounts",
        [{"name": "more", "mountPath": "/more"}],
        ("- mountPath: /more",),
        besides={"extraVolumes": [{"name": "more", "emptyDir": {}}]},
    ),
    Case(
        "serviceAccount.create", False, ("serviceAccountName: default",), vanishes=("kind: ServiceAccount",)
    ),
    Case("serviceAccount.name", "mine", ("serviceAccountName: mine", "name: mine")),
    Case("serviceAccount.annotations", {"account": "note"}, ("account: note",)),
    Case("podMonitor.enabled", True, ("kind: PodMonitor",)),
    Case("podMonitor.labels", {"release": "prometheus"}, ("release: prometheus",), besides=_MONITOR),
    Case("podMonitor.interval", "15s", ("interval: 15s",), besides=_MONITOR),
    Case("podMonitor.scrapeTimeout", "5s", ("scrapeTimeout: 5s",), besides=_MONITOR),
    Case(
        "podMonitor.relabelings",
        [{"targetLabel": "cluster", "replacement": "one"}],
        ("targetLabel: cluster",),
        besides=_MONITOR,
    ),
    Case(
        "podMonitor.metricRelabelings",
        [{"action": "labeldrop", "regex": "card"}],
        ("metricRelabelings:", "- action: labeldrop"),
        besides=_MONITOR,
    ),
    Case("dashboard.enabled", True, ("name: mdev-device-plugin-dashboard", 'grafana_dashboard: "1"')),
    Case("dashboard.labels", {"sidecar": "mine"}, ("sidecar: mine",), besides=_DASHBOARD),
    Case(
        "dashboard.annotations", {"grafana_folder": "Nodes"}, ("grafana_folder: Nodes",), besides=_DASHBOARD
    ),
    Case("networkPolicy.enabled", True, ("kind: NetworkPolicy",)),
    Case(
        "networkPolicy.from",
        [{"namespaceSelector": {"matchLabels": {"metrics": "yes"}}}],
        ("from:", "- namespaceSelector:"),
        besides=_POLICY,
    ),
    Case("test.resource", "nvidia.com/GRID_T4-1Q", ("helm.sh/hook: test", "nvidia.com/GRID_T4-1Q: 1")),
)


def _everything() -> dict[str, Any]:
    """All of them at once, but for those that make an object vanish or another node."""
    merged: dict[str, Any] = {}
    for case in CASES:
        if case.path in {"simulator.enabled", "simulator.description", "serviceAccount.create"}:
            continue
        for section, value in case.values.items():
            if isinstance(value, dict) and isinstance(merged.get(section), dict):
                merged[section] |= value
            else:
                merged[section] = value
    return {**merged, "simulator": {"node": "samples"}}


EVERYTHING = _everything()
