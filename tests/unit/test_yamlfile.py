"""YAML that people write: whatever is wrong with it, the error says where."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from deviceplugin import config
from deviceplugin.errors import ConfigError


def refusal(directory: Path, content: str | bytes) -> str:
    """How a configuration with that content is refused, with the file's directory left out."""
    path = directory / "config.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    return str(caught.value).replace(f"{directory}/", "")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.yaml can't be read: ENOENT \(No such file"):
        config.load(tmp_path / "missing.yaml")


def test_a_directory_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"can't be read: EISDIR \(Is a directory\)"):
        config.load(tmp_path)


@pytest.mark.parametrize("content", ["", "\n\n", "# only a comment\n", "\ufeff"])
def test_an_empty_file_is_told(tmp_path: Path, content: str) -> None:
    assert refusal(tmp_path, content) == "the configuration config.yaml is empty"


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    assert "larger than 1 MiB" in refusal(tmp_path, b"#" * (1 << 20) + b"\nversion: v1\n")


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        (b"version: v1\n\xff\xfe\n", None, "not UTF-8"),
        ("version: v1\n\x00", 2, "not YAML"),
        ("version: v1\nresources: [\n", 3, "not YAML"),
        ("version: v1\n\tdiscovery: {}\n", 2, "not YAML"),
        ("version: v1\n---\nversion: v1\n", 2, "not YAML"),
        ("version: v1\nreclaim: &a {enabled: true}\ndiscovery: *a\n", 3, "aliases are not allowed"),
        ("version: v1\nresources: !!python/object:os.system {}\n", 2, "not YAML"),
        ("- version: v1\n", 1, "a list"),
        ("just text\n", 1, "text"),
        ("12\n", 1, "a configuration is a mapping"),
        ("version: v1\nversion: v1\n", 2, "'version' is there twice"),
        ("version: v1\nreclaim:\n  grace: 1s\n  grace: 2s\n", 4, "'grace' is there twice"),
        ("version: v1\nreclaim:\n  enabled: 5\n", 3, "reclaim.enabled: expected true or false"),
        ("version: v1\nreclaim: []\n", 2, "reclaim: expected a mapping"),
        ("version: v1\nresources:\n- name: a/b\n  types: nvidia-1\n", 4, "expected a list"),
        ("version: v1\nresources:\n- name: a/b\n", 3, "types"),
        ("version: v1\nresources:\n- name: 5\n  types: [a]\n", 3, "expected text"),
        ("version: v1\nresources:\n- name: a/b\n  types: [a]\n  max: many\n", 5, "expected a whole number"),
        ("version: v1\nresources:\n- name: a/b\n  types: [a]\n  max: -1\n", 5, "max"),
        ("version: v1\nresources:\n- name: a/b\n  types: [a]\n  placement: packed\n", 5, "pack, spread"),
        ("version: v1\nresources:\n- name: a/b\n  types: [a]\n  attributes: {x: 5}\n", 5, "expected text"),
        ("version: v1\nresources:\n- name: a/b\n  types:\n  - a\n  - 7\n", 6, "expected text"),
        ("version: v1\nresources:\n- name: a/b\n  types: [a]\n  attributes: {5: x}\n", 5, "expected text"),
        ("version: v2\n", 1, "known here: v1"),
        ("discovery: {}\n", 1, "version"),
        ("version: v1\n5: x\n", 2, "5"),
        ("version: v1\nreclaim:\n  grace: !!timestamp soon\n", 3, ""),
        ("version: v1\nreclaim:\n  enabled: !!bool perhaps\n", 3, ""),
        ("version: v1\nresources:\n- max: !!int ''\n", 3, ""),
        ("version: v1\nresources:\n- max: !!int five\n", 3, ""),
        ("version: v1\nresources:\n- max: " + "9" * 5000 + "\n", 3, ""),
    ],
)
def test_an_error_names_the_file_and_the_line(
    tmp_path: Path, content: str | bytes, line: int | None, said: str
) -> None:
    message = refusal(tmp_path, content)
    assert said in message
    assert "config.yaml" in message
    if line is not None:
        assert message.startswith(f"config.yaml:{line}: ")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "line", "hint"),
    [
        ("version: v1\nressources: []\n", 2, "unknown key 'ressources'; did you mean 'resources'?"),
        ("Version: v1\n", 1, "unknown key 'Version'; did you mean 'version'?"),
        ("version: v1\nreclaim:\n  graze: 1s\n", 3, "unknown key 'graze'; did you mean 'grace'?"),
        ("version: v1\nresources:\n- name: a/b\n  type: [a]\n", 4, "'type'; did you mean 'types'?"),
        (
            (
                "version: v1\nresources:\n- name: a/b\n  types: [a]\n- name: a/c\n  types: [a]\n"
                "  parents:\n    numanodes: [0]\n"
            ),
            8,
            "'numanodes'; did you mean 'numaNodes'?",
        ),
        ("version: v1\nreclaim: {zzz: 1}\n", 2, "'zzz'; known here: enabled, grace, interval"),
        ("version: v1\n'odd`key': 1\n", 2, "unknown key 'odd`key'"),
        ("version: v1\n'': 1\n", 2, "unknown key ''"),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest_known_one(
    tmp_path: Path, content: str, line: int, hint: str
) -> None:
    message = refusal(tmp_path, content)
    assert message.startswith(f"config.yaml:{line}: ")
    assert hint in message


def resource(entry: str) -> str:
    return f"version: v1\nresources: [{{name: a/b, types: [a], {entry}}}]\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "version: v1\nreclaim:\n  grace: 1\n",
            "config.yaml:3: reclaim.grace: expected text, got a whole number; write it as in '10s'",
        ),
        (
            "version: v1\nreclaim: {interval: 0.5}\n",
            "config.yaml:2: reclaim.interval: expected text, got a number; write it as in '5s'",
        ),
        (
            "version: v1\nresources: [{name: a/b, types: [7]}]\n",
            "config.yaml:2: resources[0].types[0]: expected text, got a whole number; quotes make it text",
        ),
        (
            "version: v1\nresources: [{name: a/b, types: [[a]]}]\n",
            "config.yaml:2: resources[0].types[0]: expected text, got a list",
        ),
        (
            resource("attributes: {x: 2024-01-01}"),
            "config.yaml:2: resources[0].attributes[...]: expected text, got a date; quotes make it text",
        ),
        (
            resource("attributes: 5"),
            "config.yaml:2: resources[0].attributes: expected a mapping or a list, got a whole number",
        ),
    ],
)
def test_a_value_of_the_wrong_kind_is_told_with_how_to_write_it(
    tmp_path: Path, content: str, said: str
) -> None:
    assert refusal(tmp_path, content) == said


def test_a_kind_of_value_that_has_no_word_is_told_by_its_name(tmp_path: Path) -> None:
    said = refusal(tmp_path, resource("max: !!binary aGk="))
    assert said == "config.yaml:2: resources[0].max: expected a whole number, got 'bytes'"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "version: v1\nreclaim:\n#  grace: 5s\n",
            "config.yaml:2: reclaim: expected a mapping, got nothing; leave it out or give it a value",
        ),
        (
            "version: v1\nresources:\n- name: a/b\n  types:\n  -\n",
            (
                "config.yaml:5: resources[0].types[0]: expected text, got nothing; "
                "leave it out or give it a value"
            ),
        ),
        (
            "version: v1\nresources:\n- name:\n  types: [a]\n",
            "config.yaml:3: resources[0].name: expected text, got nothing; give it a value",
        ),
        (
            resource("placement: "),
            "config.yaml:2: resources[0].placement: expected text, got nothing; known here: pack, spread",
        ),
    ],
)
def test_a_key_without_a_value_is_told_with_what_to_do(tmp_path: Path, content: str, said: str) -> None:
    assert refusal(tmp_path, content) == said


def test_a_file_of_nothing_but_brackets_is_refused_like_any_other(tmp_path: Path) -> None:
    assert "config.yaml" in refusal(tmp_path, "[" * 5000)


def test_text_that_no_file_and_no_message_could_carry_is_refused(tmp_path: Path) -> None:
    content = (
        'version: v1\nresources:\n- name: a/b\n  types: [a]\n  attributes:\n    vgpu_params: "\\ud800"\n'
    )
    assert refusal(tmp_path, content).startswith("config.yaml:6: ")


VOCABULARY = [
    "version",
    "v1",
    "discovery",
    "domain",
    "vfio.dev",
    "name",
    "id",
    "include",
    "exclude",
    "resources",
    "types",
    "parents",
    "addresses",
    "drivers",
    "numaNodes",
    "placement",
    "pack",
    "spread",
    "max",
    "attributes",
    "reclaim",
    "enabled",
    "grace",
    "interval",
    "10s",
    "handover",
    "cdi",
    "true",
    "false",
    "null",
    "~",
    "0",
    "-1",
    "1.5",
    ".inf",
    ".nan",
    "1e400",
    "0x1F",
    "2024-01-01",
    "12:30:00",
    "*",
    "&",
    "!",
    "?",
    "|",
    ">",
    "<<",
    "=",
    "a/b",
    "''",
    "\\ud800",
    "!!str",
    "!!int",
    "!!float",
    "!!bool",
    "!!null",
    "!!binary",
    "!!timestamp",
    "!!set",
    "!!omap",
    "!!pairs",
    "!!map",
    "!!seq",
    "!!merge",
    "!x",
    "!<y>",
]
words = st.sampled_from(VOCABULARY)
pieces = words | st.sampled_from(
    [": ", "\n", "\n  ", "\n- ", "{", "}", "[", "]", ", ", '"', "'", " ", "#", "---\n"]
)
some_values = st.recursive(
    words | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4),
    max_leaves=15,
)


def survives(directory: Path, content: bytes) -> None:
    path = directory / "config.yaml"
    path.write_bytes(content)
    try:
        config.load(path)
    except ConfigError as error:
        assert str(path) in str(error)


@given(st.lists(pieces, max_size=25).map("".join) | st.text(max_size=60))
@example("version: !!timestamp soon")
@example("version: !!bool perhaps")
@example("version: !!int ''")
@example("? [a]\n: b\nversion: v1")
@example("<<: {version: v1}")
@example("<<: [1]")
@example("version: !!set {a}")
@example("{version: v1, resources: !!omap [a: 1]}")
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_whatever_raises_anything_but_a_configuration_error(tmp_path: Path, text: str) -> None:
    survives(tmp_path, text.encode("utf-8", "surrogatepass"))


@given(st.binary(max_size=60))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_whatever_raise_anything_but_a_configuration_error(tmp_path: Path, content: bytes) -> None:
    survives(tmp_path, content)


SECTIONS = ("discovery", "resources", "reclaim", "handover", "version", "more")


@given(st.dictionaries(st.sampled_from(SECTIONS), some_values))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_content_whatever_raises_anything_but_an_error_with_a_line(
    tmp_path: Path, content: dict[str, object]
) -> None:
    path = tmp_path / "config.yaml"
    text = yaml.safe_dump({"version": "v1", **content}, allow_unicode=True)
    path.write_text(text, "utf-8")
    try:
        config.load(path)
    except ConfigError as error:
        place = str(error).removeprefix(f"{path}:").partition(": ")[0]
        assert place.isdecimal(), error
        assert 1 <= int(place) <= text.count("\n") + 1
