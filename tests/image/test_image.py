"""What the image promises: the locked packages and nothing to make more of, ready for a read-only node."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from deviceplugin import __version__
from tests.image.conftest import Container

PROJECT = Path(__file__).parents[2]
INTERPRETERS = ("/opt/mdev-device-plugin/bin/python", "python3")
BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def test_it_starts_the_agent_as_root_and_says_what_it_is(container: Container) -> None:
    config = container.config()
    assert config["Entrypoint"] == ["mdev-device-plugin"]
    assert config["Cmd"] == ["run"]
    assert config["User"] == "0:0"
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
    assert labels["title"] == "mdev-device-plugin"
    assert labels["version"] == __version__
    assert labels["licenses"] == "Apache-2.0"
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", labels["revision"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", labels["created"])


def test_it_runs_with_a_read_only_root(container: Container) -> None:
    with pytest.raises(AssertionError, match="Read-only file system"):
        container.run("touch", "/opt/mdev-device-plugin/written")
    assert container.run("mdev-device-plugin", "--version").strip().endswith(__version__)
    assert "--kubelet-root" in container.run("mdev-device-plugin", "run", "--help")


def test_it_makes_and_reads_a_simulated_node(container: Container) -> None:
    script = """
set -e
mdev-device-plugin simulate /run/node --node samples >/dev/null
mdev-device-plugin types -o json --simulated /run/node
"""
    shown = json.loads(container.run("sh", stdin=script))
    assert "mtty-1" in {each["type"] for each in shown["types"]}


def test_it_can_give_up_rights_before_it_starts(container: Container) -> None:
    kept = "--bounding-set=-all,+dac_override,+net_admin"
    narrowed = ("setpriv", "--no-new-privs", kept, "--inh-caps=-all", "--")
    status = container.run(*narrowed, "grep", "-E", "^(CapBnd|NoNewPrivs)", "/proc/self/status").split()
    assert dict(zip(status[::2], status[1::2], strict=True)) == {
        "CapBnd:": f"{1 << 1 | 1 << 12:016x}",
        "NoNewPrivs:": "1",
    }
    assert __version__ in container.run(*narrowed, "mdev-device-plugin", "--version")


def test_the_packages_are_those_of_the_lock(container: Container) -> None:
    lock = (PROJECT / "requirements/run.txt").read_text()
    locked = dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", lock, re.MULTILINE))
    script = """
import json, importlib.metadata as metadata
print(json.dumps({each.name.lower().replace("_", "-"): each.version for each in metadata.distributions()}))
"""
    installed = json.loads(container.run("python", "-", stdin=script))
    assert installed == {**locked, "mdev-device-plugin": __version__}


def test_nothing_is_left_that_could_install_packages(container: Container) -> None:
    script = """
import importlib.util
for name in ("pip", "setuptools", "wheel", "ensurepip", "pkg_resources"):
    if importlib.util.find_spec(name):
        print(name)
"""
    for interpreter in INTERPRETERS:
        assert container.run("env", f"PATH={BASE_PATH}", interpreter, "-", stdin=script) == ""
    script = "find / -xdev '(' -name pip -o -name 'pip[0-9]*' -o -name ensurepip -o -name '*.whl' ')'"
    assert container.run("sh", stdin=script) == ""


def test_nothing_is_left_that_could_compile(container: Container) -> None:
    tools = "cc c++ gcc g++ cpp clang ld as make"
    assert container.run("sh", stdin=f"for tool in {tools}; do command -v $tool || true; done") == ""
    assert container.run("find", "/", "-xdev", "-name", "Python.h") == ""


def test_everything_is_compiled_that_the_agent_imports(container: Container) -> None:
    """The standard library too: an official Python comes with nothing compiled."""
    script = """
import importlib, os, pkgutil, sys
import deviceplugin.agent, deviceplugin.cli, deviceplugin.telemetry.http
for found in pkgutil.iter_modules(deviceplugin.cli.__path__, "deviceplugin.cli."):
    importlib.import_module(found.name)
for module in list(sys.modules.values()):
    spec = getattr(module, "__spec__", None)
    if spec and spec.has_location and spec.cached and not os.path.exists(spec.cached):
        print(spec.origin)
print(len(sys.modules))
"""
    *without, modules = container.run("python", "-", stdin=script).splitlines()
    assert not without
    assert int(modules) > 200


def test_the_build_left_nothing_lying_about(container: Container) -> None:
    assert container.run("ls", "-A", "/opt") == "mdev-device-plugin\n"
    script = "ls -Ad /build /root/.cache /var/lib/apt/lists/* /tmp/* 2>/dev/null || true"
    assert container.run("sh", stdin=script) == ""


def test_the_kernel_can_be_heard(container: Container) -> None:
    script = """
import pyudev
pyudev.Monitor.from_netlink(pyudev.Context(), source="kernel").start()
print("listening")
"""
    assert container.run("python", "-", stdin=script) == "listening\n"


def test_it_starts_quickly(container: Container, capsys: pytest.CaptureFixture[str]) -> None:
    """The bound is for a busy machine; what it takes is printed."""

    def least(*command: str) -> float:
        took = []
        for _ in range(3):
            began = time.monotonic()
            container.run(*command)
            took.append(time.monotonic() - began)
        return min(took)

    floor = least("true")
    took = least("python", "-c", "import deviceplugin.agent") - floor
    with capsys.disabled():
        print(f"\nthe agent's modules load in {took:.2f} s, after {floor:.2f} s for the container")
    assert took < 3
