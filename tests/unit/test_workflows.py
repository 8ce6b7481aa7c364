"""The workflows: pinned, with the least permissions, and naming only what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))
EACH = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)


def jobs(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text("utf-8"))["jobs"]
    return found


def test_there_are_those_for_changes_for_releases_and_for_every_week() -> None:
    assert [file.name for file in FILES] == ["audit.yml", "ci.yml", "release.yml"]


@EACH
def test_every_action_is_pinned_by_its_commit_and_says_which_version_that_is(file: Path) -> None:
    uses = re.findall(r"uses: (.*)", file.read_text("utf-8"))
    assert uses
    assert [
        each for each in uses if not re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each)
    ] == []


@EACH
def test_nothing_is_permitted_but_what_a_job_asks_for(file: Path) -> None:
    assert yaml.safe_load(file.read_text("utf-8"))["permissions"] == {}
    for name, job in jobs(file).items():
        assert "permissions" in job, name
        if file.name != "release.yml":
            assert job["permissions"] == {"contents": "read"}
            assert "github.token" not in str(job)
            assert "secrets" not in str(job)


@EACH
def test_every_job_ends_and_every_workflow_gives_way_to_the_next(file: Path) -> None:
    assert all(job["timeout-minutes"] <= 90 for job in jobs(file).values())
    assert "concurrency" in yaml.safe_load(file.read_text("utf-8"))


@EACH
def test_nobody_elses_text_gets_into_a_shell(file: Path) -> None:
    text = file.read_text("utf-8")
    assert "pull_request_target" not in text
    for job in jobs(file).values():
        for step in job["steps"]:
            assert "${{" not in step.get("run", ""), "use env"
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


@EACH
def test_every_make_target_exists(file: Path) -> None:
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for job in jobs(file).values():
        for step in job["steps"]:
            for targets in re.findall(r"^make (.+)$", step.get("run", ""), re.MULTILINE):
                assert set(targets.split()) <= known
