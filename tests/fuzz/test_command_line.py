"""Whatever a command is called with: it does its work, or says in one line why not, without a traceback."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deviceplugin.cli import main
from deviceplugin.errors import ConfigError
from deviceplugin.simulator.node.description import load
from deviceplugin.simulator.node.kernel import SimulatedKernel
from deviceplugin.telemetry.http import Address
from tests.fuzz.examples import fuzzed, texts

# An argument can't have a NUL in it; what is not UTF-8 comes as a low surrogate.
arguments = texts.map(lambda text: text.replace("\0", "0").replace("\ud800", "\udcff"))
places = arguments.filter(lambda text: "/" not in text and text not in {".", "", "~"})


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("fuzz") / "node"
    SimulatedKernel.build(directory, load("samples"))
    return directory


@fuzzed
@given(texts | st.builds("{}:{}".format, texts, st.integers()))
def test_an_address_to_listen_on_is_a_host_and_a_port(text: str) -> None:
    try:
        address = Address.parse(text)
    except ConfigError as error:
        assert "no address to listen on" in str(error)
    else:
        assert 0 <= address.port <= 65535


def ends_well(*command: str | Path) -> None:
    """Run a command: its code is one of the three, and what it says of a failure ends with one line."""
    # As Python makes them; pytest's own are stricter.
    said = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    told = io.TextIOWrapper(io.BytesIO(), "utf-8")
    argv = ["mdev-device-plugin", *map(str, command)]
    with (
        mock.patch.multiple(sys, argv=argv, stderr=said, stdout=told),
        pytest.raises(SystemExit) as end,
    ):
        main()
    said.seek(0)
    text = said.read()
    assert end.value.code in {0, 1, 2}
    if end.value.code:
        assert "Traceback" not in text
        assert text.splitlines()[-1].startswith("mdev-device-plugin: ")


OPTIONS = ("--parent", "--type", "--uuid", "--seconds", "--errno", "--content", "--times", "--node")


@fuzzed
@given(
    word=st.sampled_from(["create", "remove", "unregister", "register", "fault"]) | places,
    first=st.sampled_from(["mtty-1", "mtty", "odd-count", "fail-create"]) | places,
    more=st.lists(
        st.tuples(st.sampled_from(OPTIONS), st.sampled_from(["mtty", "EIO", "1"]) | places), max_size=3
    ),
)
@example(word="create", first="mtty-1", more=[("--uuid", "../../../../tmp/x")])
@example(word="remove", first="../../../x", more=[])
@example(word="fault", first="slow-create", more=[("--seconds", "nan")])
def test_playing_with_a_simulated_node(
    node: Path, word: str, first: str, more: list[tuple[str, str]]
) -> None:
    before = sorted(path.name for path in node.parent.iterdir())
    ends_well("simulate", node, word, first, *(part for pair in more for part in pair))
    assert sorted(path.name for path in node.parent.iterdir()) == before
    SimulatedKernel(node).clear_faults()


LOOKING = ("--config", "--node-name", "--kubelet-root", "--host-root", "-o", "--output", "--no-probe")


@fuzzed
@given(
    word=st.sampled_from(["types", "devices", "check", "kubevirt", "schema", "completion"]),
    options=st.lists(
        st.sampled_from(LOOKING) | st.sampled_from(["json", "yaml", "bash"]) | places, max_size=4
    ),
)
@example(word="devices", options=["--node-name", "\udc80"])
@example(word="check", options=["\udc80"])
def test_looking_at_a_node(node: Path, word: str, options: list[str]) -> None:
    where: list[str | Path] = ["--simulated", node] if word in {"types", "devices"} else []
    ends_well(word, *options, *where)
