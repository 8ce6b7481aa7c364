"""The pods that the chart makes: their privileges, their settings, their labels."""

from __future__ import annotations

import re
from typing import Any

import yaml

from deviceplugin import __version__
from deviceplugin.cli.run import command as run_command
from deviceplugin.cli.simulate import command as simulate_command
from deviceplugin.kubelet.paths import KubeletPaths
from tests.chart import helm
from tests.chart.cases import EVERYTHING

SIMULATED = {"simulator": {"enabled": True}}
NO_PRIVILEGE = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"], "add": ["MKNOD"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def _daemon_set(values: dict[str, Any] | None = None, *, release: str = helm.NAME) -> dict[str, Any]:
    (found,) = yaml.safe_load_all(helm.render(values, release=release, template="daemonset.yaml"))
    assert isinstance(found, dict)
    return found


def _pod(values: dict[str, Any] | None = None) -> dict[str, Any]:
    pod: dict[str, Any] = _daemon_set(values)["spec"]["template"]["spec"]
    return pod


def _agent(values: dict[str, Any] | None = None) -> dict[str, Any]:
    (container,) = _pod(values)["containers"]
    assert isinstance(container, dict)
    return container


def _volumes(values: dict[str, Any] | None = None) -> dict[str, Any]:
    return {volume["name"]: volume for volume in _pod(values)["volumes"]}


def _mounts(container: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {mount["name"]: mount for mount in container["volumeMounts"]}


# --- privileges ----------------------------------------------------------------------------------------


def test_on_real_devices_the_privileged_container_narrows_itself_before_the_agent_starts() -> None:
    agent = _agent()
    assert agent["securityContext"] == {"privileged": True, "readOnlyRootFilesystem": True}
    *narrowed, separator, program = agent["command"]
    assert narrowed == [
        "setpriv",
        "--no-new-privs",
        "--bounding-set=-all,+dac_override,+net_admin",
        "--inh-caps=-all",
    ]
    assert (separator, program, agent["args"]) == ("--", "mdev-device-plugin", ["run"])
    assert "initContainers" not in _pod()


def test_the_agent_may_be_left_with_no_capability_at_all() -> None:
    assert "--bounding-set=-all" in _agent({"capabilities": []})["command"]


def test_a_simulated_node_takes_no_privileged_container() -> None:
    (init,) = _pod(SIMULATED)["initContainers"]
    agent = _agent(SIMULATED)
    assert init["securityContext"] == agent["securityContext"] == NO_PRIVILEGE
    assert "command" not in agent
    assert "dev" not in _volumes(SIMULATED)


def test_the_pods_have_no_token_and_nothing_of_the_nodes_network_or_processes() -> None:
    for values in ({}, SIMULATED, EVERYTHING):
        pod = _pod(values)
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert not {found["kind"] for found in helm.objects(values)} & {"Role", "ClusterRole", "RoleBinding"}


def test_of_the_node_only_the_kubelets_sockets_are_writable() -> None:
    mounts = _mounts(_agent())
    assert {name: mount["mountPath"] for name, mount in mounts.items()} == {
        "config": "/etc/mdev-device-plugin",
        "device-plugins": "/var/lib/kubelet/device-plugins",
        "pod-resources": "/var/lib/kubelet/pod-resources",
        "dev": "/dev",
    }
    assert [name for name, mount in mounts.items() if not mount.get("readOnly")] == ["device-plugins"]


def test_the_nodes_cdi_directory_is_there_only_for_cdi() -> None:
    for more in ({}, SIMULATED):
        assert "cdi" not in _volumes({**more, "config": {"handover": {"cdi": False}}})
        values = {**more, "config": {"handover": {"cdi": True}}}
        assert _volumes(values)["cdi"]["hostPath"] == {"path": "/var/run/cdi", "type": "DirectoryOrCreate"}
        assert _mounts(_agent(values))["cdi"] == {"name": "cdi", "mountPath": "/var/run/cdi"}
        assert {"name": "MDEV_CDI_DIRECTORY", "value": "/var/run/cdi"} in _agent(values)["env"]


def test_what_the_agent_died_of_is_not_written_to_the_nodes_dev() -> None:
    agent = _agent()
    assert agent["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert not agent["terminationMessagePath"].startswith("/dev")


# --- settings ------------------------------------------------------------------------------------------


def test_the_kubelets_directories_are_where_the_agent_looks_wherever_they_are_on_the_node() -> None:
    values = {"kubelet": {"root": "/var/lib/k0s/kubelet"}}
    volumes, mounts = _volumes(values), _mounts(_agent(values))
    assert volumes["device-plugins"]["hostPath"]["path"] == "/var/lib/kubelet/device-plugins"
    assert volumes["pod-resources"]["hostPath"]["path"] == "/var/lib/k0s/kubelet/pod-resources"
    assert mounts["device-plugins"]["mountPath"] == str(KubeletPaths().plugins)
    assert mounts["pod-resources"]["mountPath"] == str(KubeletPaths().pod_resources.parent)


def test_the_environment_is_what_the_program_takes_its_settings_from() -> None:
    known = {
        name
        for option in run_command.params
        for name in ([option.envvar] if isinstance(option.envvar, str) else option.envvar or ())
    }
    for values in ({}, SIMULATED):
        entries = _agent(values)["env"]
        environment = {entry["name"] for entry in entries}
        # Some are there only for others to be made of.
        parts = {part for entry in entries for part in re.findall(r"\$\((\w+)\)", entry.get("value", ""))}
        assert environment - parts <= known
        assert parts == {"POD_NAMESPACE", "POD_NAME"}
        assert {"NODE_NAME", "MDEV_CONFIG", "MDEV_HTTP", "MDEV_POD"} <= environment


def test_the_simulated_node_is_made_with_options_that_the_program_has() -> None:
    known = {name for option in simulate_command.params for name in option.opts}
    (init,) = _pod(SIMULATED)["initContainers"]
    verb, directory, *options = init["args"]
    assert verb == simulate_command.name
    assert directory == "/var/lib/mdev-device-plugin/simulated/samples"
    assert {option.partition("=")[0] for option in options} <= known
    assert options == ["--node=samples", "--if-missing", "--device-nodes"]


def test_the_simulated_node_has_one_path_for_kubelet_init_container_and_agent() -> None:
    values = {"simulator": {"enabled": True, "directory": "/srv/mdev"}}
    (init,) = _pod(values)["initContainers"]
    assert _volumes(values)["simulated"]["hostPath"] == {"path": "/srv/mdev", "type": "DirectoryOrCreate"}
    for container in (init, _agent(values)):
        assert _mounts(container)["simulated"] == {"name": "simulated", "mountPath": "/srv/mdev"}
    (simulated,) = (entry for entry in _agent(values)["env"] if entry["name"] == "MDEV_SIMULATED")
    assert simulated["value"] == init["args"][1] == "/srv/mdev/samples"


def test_another_simulated_node_has_another_directory() -> None:
    def directory(**simulator: str) -> str:
        (init,) = _pod({"simulator": {"enabled": True, **simulator}})["initContainers"]
        text: str = init["args"][1]
        return text

    directories = {
        directory(),
        directory(node="nvidia-t4"),
        directory(description="one"),
        directory(description="two"),
    }
    assert len(directories) == 4
    assert len({path.rpartition("/")[0] for path in directories}) == 1


def test_a_description_of_ones_own_is_mounted_where_the_init_container_reads_it() -> None:
    values = {"simulator": {"enabled": True, "description": "models: {}\ncards: []\n"}}
    (config_map,) = yaml.safe_load_all(helm.render(values, template="configmap.yaml"))
    (init,) = _pod(values)["initContainers"]
    assert config_map["data"]["node.yaml"] == values["simulator"]["description"]
    assert _mounts(init)["config"]["mountPath"] == "/etc/mdev-device-plugin"
    assert "--node=/etc/mdev-device-plugin/node.yaml" in init["args"]


def test_each_probe_asks_what_it_is_for() -> None:
    agent = _agent()
    assert agent["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert agent["startupProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert agent["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}


# --- the DaemonSet -------------------------------------------------------------------------------------


def test_never_do_two_agents_run_on_a_node() -> None:
    assert _daemon_set()["spec"]["updateStrategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
    }


def test_the_selector_depends_on_nothing_that_an_upgrade_changes() -> None:
    keeps_names = {key: value for key, value in EVERYTHING.items() if not key.endswith("Override")}
    for values in ({}, keeps_names, SIMULATED):
        assert _daemon_set(values)["spec"]["selector"] == {
            "matchLabels": {
                "app.kubernetes.io/name": "mdev-device-plugin",
                "app.kubernetes.io/instance": "mdev-device-plugin",
                "app.kubernetes.io/component": "agent",
            }
        }


def test_selectors_find_the_agents_and_not_the_test() -> None:
    def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
        return selector.items() <= labels.items()

    objects = {found["kind"]: found for found in helm.objects(EVERYTHING)}
    agents = objects["DaemonSet"]["spec"]["template"]["metadata"]["labels"]
    test = objects["Pod"]["metadata"]["labels"]
    for selector in (
        objects["DaemonSet"]["spec"]["selector"],
        objects["PodMonitor"]["spec"]["selector"],
        objects["NetworkPolicy"]["spec"]["podSelector"],
    ):
        assert selects(selector["matchLabels"], agents)
        assert not selects(selector["matchLabels"], test)


def test_two_releases_share_no_object() -> None:
    values = {
        "podMonitor": {"enabled": True},
        "dashboard": {"enabled": True},
        "networkPolicy": {"enabled": True},
        **SIMULATED,
    }
    one, two = (
        {(found["kind"], found["metadata"]["name"]) for found in helm.objects(values, release=release)}
        for release in ("one", "two")
    )
    assert len(one) == len(two) == 7
    assert not one & two


def test_a_release_that_bears_the_charts_name_does_not_say_it_twice() -> None:
    assert _daemon_set()["metadata"]["name"] == "mdev-device-plugin"
    assert _daemon_set(release="one")["metadata"]["name"] == "one-mdev-device-plugin"
    assert _daemon_set({"nameOverride": "vgpu"}, release="one")["metadata"]["name"] == "one-vgpu"


def test_names_are_no_longer_than_a_label_may_be() -> None:
    long = "x" * 53
    found = _daemon_set({"nameOverride": "y" * 80}, release=long)
    assert len(found["metadata"]["name"]) <= 63
    assert all(len(value) <= 63 for value in found["spec"]["selector"]["matchLabels"].values())


def test_the_chart_is_of_the_programs_version() -> None:
    chart = yaml.safe_load((helm.CHART / "Chart.yaml").read_text("utf-8"))
    assert chart["appVersion"] == chart["version"] == __version__
    assert _agent()["image"].endswith(f":{__version__}")


def test_grafana_gets_the_dashboard_as_it_is() -> None:
    values = {"dashboard": {"enabled": True}}
    (config_map,) = yaml.safe_load_all(helm.render(values, template="dashboard.yaml"))
    dashboard = helm.CHART / "dashboards/mdev-device-plugin.json"
    assert config_map["data"] == {dashboard.name: dashboard.read_text("utf-8")}
