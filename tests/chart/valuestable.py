"""The table of the chart's values, made of the comments in ``values.yaml``.

A comment that begins with ``# --`` explains the key below it, and all that is in it. Every value has one
or is part of one that has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

_KEY = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z]+):")


@dataclass(frozen=True, slots=True)
class Value:
    """One value of the chart: its path, as in ``image.tag``, its default and what it is for."""

    path: str
    default: Any
    meaning: str


def values(text: str) -> tuple[Value, ...]:
    """Read the explained values.

    Raises:
        ValueError: a value has no explanation.
    """
    defaults = yaml.safe_load(text)
    explained = dict(_explanations(text))
    for path in _leaves(defaults):
        if not any(path == known or path.startswith(f"{known}.") for known in explained):
            raise ValueError(f"values.yaml: {path} has no comment that begins with '# --'")
    return tuple(Value(path, _at(defaults, path), meaning) for path, meaning in explained.items())


def table(text: str) -> str:
    """The table in Markdown."""
    lines = ["| value | default | meaning |", "| --- | --- | --- |"]
    for value in values(text):
        default = json.dumps(value.default, ensure_ascii=False)
        lines.append(f"| `{value.path}` | `{default}` | {value.meaning} |")
    return "\n".join(lines) + "\n"


def _explanations(text: str) -> Iterator[tuple[str, str]]:
    """Paths and what the comments above them say."""
    within: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("# -- "):
            comment = [line.lstrip().removeprefix("# -- ")]
        elif line.lstrip().startswith("#") and comment:
            comment.append(line.lstrip("# "))
        elif found := _KEY.match(line):
            depth = len(found["indent"])
            within = [*(entry for entry in within if entry[0] < depth), (depth, found["key"])]
            if comment:
                yield ".".join(key for _, key in within), " ".join(comment)
            comment = []
        else:
            comment = []


def _leaves(tree: Any, *above: str) -> Iterator[str]:
    """The paths of all values that are not sections."""
    if isinstance(tree, dict) and tree:
        for key, branch in tree.items():
            yield from _leaves(branch, *above, key)
    else:
        yield ".".join(above)


def _at(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree[key]
    return tree
