"""The simulator is a product: what tests need of it, whoever uses it may need too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SIMULATOR = ROOT / "deviceplugin" / "simulator"


def _private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def _defined(files: Iterator[Path]) -> set[str]:
    """The underscored names of methods and attributes that some files define."""
    names = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    names.add(name)
                case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                    names.add(name)
                case _:
                    pass
    return {name for name in names if _private(name)}


def test_tests_reach_into_nothing_of_it_that_is_private() -> None:
    inside = _defined(SIMULATOR.rglob("*.py"))
    # A name that the agent has too may be meant there.
    outside = _defined(
        file for file in (ROOT / "deviceplugin").rglob("*.py") if SIMULATOR not in file.parents
    )
    assert "_admission" in inside - outside
    reached = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {node.attr}"
        for file in sorted((ROOT / "tests").rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in inside - outside
        if not (isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"})
    ]
    assert reached == []
