"""The documents: every link leads somewhere, and what they list of the program is what it has."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from deviceplugin.cli import COMMANDS
from deviceplugin.cli.run import command as run
from deviceplugin.reclaim import HeldBack
from tests.documents.links import Link, anchors, broken, links

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "charts/*/*.md", "manifests/**/*.md")
    for path in ROOT.glob(pattern)
)
OPERATIONS = ROOT / "docs/operations.md"
EACH = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
LOUD = {"warning", "error", "exception"}


def section(document: Path, title: str) -> str:
    """What stands under a heading, up to the next one as high."""
    text = document.read_text("utf-8")
    begun = re.search(rf"^(#+) {re.escape(title)}\n", text, re.MULTILINE)
    assert begun, f"{document.name} has no '{title}'"
    rest = text[begun.end() :]
    return re.split(rf"^#{{1,{len(begun[1])}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def first_column(text: str) -> str:
    return "\n".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| "))


def sources() -> Iterator[Path]:
    for path in (ROOT / "deviceplugin").rglob("*.py"):
        if not {"simulator", "api"} & set(path.parts):
            yield path


def loud_events() -> set[str]:
    """What the agent logs at the levels that want attention, where the text is in its place."""
    found = set()
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LOUD
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "log"
                and isinstance(node.args[0], ast.Constant)
                and node.args[0].value != "%s"
                and not (node.func.attr == "exception" and path.name != "run.py")
            ):
                found.add(re.sub(r"%s", "…", str(node.args[0].value)))
    return found


@EACH
def test_every_link_leads_to_a_file_and_a_heading_that_is_there(document: Path) -> None:
    assert [wrong for link in links(document) if (wrong := broken(link))] == []


def test_the_documents_are_linked_from_the_readme() -> None:
    linked = {link.file for link in links(ROOT / "README.md")}
    assert {path for path in DOCUMENTS if path.name != "README.md"} - linked == set()


@pytest.mark.parametrize("target", ["nowhere.md", "docs/cli.md#nowhere", "#nowhere", "docs/nowhere.svg"])
def test_a_link_that_leads_nowhere_is_found(target: str) -> None:
    assert broken(Link(ROOT / "README.md", target))


def test_anchors_are_those_that_github_makes(tmp_path: Path) -> None:
    document = tmp_path / "a.md"
    document.write_text(
        "# What's `left`, and why\n## [A link](b.md) here\n## Twice\n## Twice\n```\n# no heading\n```\n"
    )
    assert anchors(document) == {"whats-left-and-why", "a-link-here", "twice", "twice-1"}


def test_links_in_code_are_none_and_pictures_are(tmp_path: Path) -> None:
    document = tmp_path / "a.md"
    document.write_text(
        "`[a](b)` ![shown](c.svg)\n```\n[d](e)\n```\n[f](g.md#h), [i](https://example.com/)\n"
    )
    assert [link.target for link in links(document)] == ["c.svg", "g.md#h"]


def test_whoever_is_on_call_finds_every_event_that_wants_attention() -> None:
    listed = set(re.findall(r"`([^`]+)`", first_column(section(OPERATIONS, "What the log says"))))
    events = loud_events() - {"an exception that nobody could be told of", "a thread ended with an exception"}
    assert listed - {"event"} == events


def test_whoever_is_on_call_finds_what_a_pod_says_in_the_program_s_words() -> None:
    program = "".join(re.sub(r'"\s+f?"', "", path.read_text("utf-8")) for path in sources())
    fragments = re.findall(
        r"^\| `([^`]+)`(?: or `([^`]+)`)?", section(OPERATIONS, "What a pod says"), re.MULTILINE
    )
    said = {text for pair in fragments for text in pair if text} - {"no healthy devices present"}
    assert said
    assert [text for text in said if text not in program] == []


def test_whoever_is_on_call_finds_every_reason_that_keeps_a_device() -> None:
    listed = re.findall(r"`([^`]+)`", first_column(section(OPERATIONS, "Why a device is not removed")))
    assert sorted(listed) == sorted(reason.value for reason in HeldBack)


def test_the_flags_of_run_are_all_there_with_their_variables() -> None:
    table = section(ROOT / "docs/configuration.md", "Flags and environment variables of `run`")
    for option in run.params:
        (flag, *_) = option.secondary_opts or option.opts
        (line,) = [line for line in table.splitlines() if line.startswith((f"| `{flag}`", f"| `{flag} "))]
        variables = [option.envvar] if isinstance(option.envvar, str) else list(option.envvar or ())
        assert variables
        assert [name for name in variables if f"`{name}" not in line] == []


def test_every_command_has_its_line() -> None:
    table = first_column((ROOT / "docs/cli.md").read_text("utf-8"))
    assert [name for name in COMMANDS if f"`{name}`" not in table] == []


def test_every_make_target_is_in_the_contributors_table() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    listed = set(
        re.findall(r"`make ([a-z-]+)`", first_column(section(ROOT / "CONTRIBUTING.md", "Make targets")))
    )
    assert listed == targets - {"help"}


def test_the_files_that_the_architecture_names_are_there() -> None:
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    named = set(re.findall(r"(?<![\w/])([a-z_]+(?:/[a-z_]+)*\.py|(?:[a-z_]+/)+)(?![\w.])", text)) - {
        "deviceplugin/"
    }
    assert len(named) > 20
    assert [
        name for name in named if not (ROOT / "deviceplugin" / name).exists() and not (ROOT / name).exists()
    ] == []
