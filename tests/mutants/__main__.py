"""Break the agent in every listed way, and see that its tests notice: ``python -m tests.mutants [WORD…]``.

Each mutant is a copy of the project with one edit, on which the tests that it names are run: if they pass,
nobody would notice, and the run fails. Before that they are run on an unbroken copy, where they have to pass.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.listed import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 300.0
"""Seconds: a mutant whose tests hang has been noticed."""
COPIED = ("deviceplugin", "tests", "proto", "docs", "charts", "pyproject.toml", "README.md")


@dataclass(frozen=True)
class Verdict:
    mutant: Mutant
    noticed: bool
    seconds: float
    says: str


def main(words: list[str]) -> int:
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    for mutant in chosen:
        found = (ROOT / mutant.file).read_text("utf-8").count(mutant.find)
        if found != 1:
            print(
                f"{mutant.name}: what it breaks is {found} times in {mutant.file}, and has to be there once"
            )
            return 2
    if (said := unbroken(sorted({test for mutant in chosen for test in mutant.tests}))) is not None:
        print(f"the tests fail on the unbroken project:\n{said}")
        return 2
    with ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 1))) as workers:
        verdicts = []
        for verdict in workers.map(judge, chosen):
            verdicts.append(verdict)
            word = "noticed" if verdict.noticed else "SURVIVED"
            print(f"{word:8}  {verdict.seconds:5.1f} s  {verdict.mutant.name}: {verdict.says}", flush=True)
    survived = [verdict.mutant.name for verdict in verdicts if not verdict.noticed]
    print(f"{len(verdicts) - len(survived)} of {len(verdicts)} mutants were noticed")
    return 1 if survived else 0


def judge(mutant: Mutant) -> Verdict:
    """Run a mutant's tests on a copy that is broken in its way."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        copy = copied(Path(name))
        file = copy / mutant.file
        file.write_text(file.read_text("utf-8").replace(mutant.find, mutant.put), "utf-8")
        compile(file.read_text("utf-8"), mutant.file, "exec")
        failed, says = run(copy, mutant.tests)
    return Verdict(mutant, failed, time.monotonic() - began, says)


def unbroken(tests: list[str]) -> str | None:
    """What the tests say on the project as it is; None if they pass."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        failed, says = run(copied(Path(name)), tests, deadline=10 * DEADLINE)
    return says if failed else None


def copied(directory: Path) -> Path:
    for part in COPIED:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, directory / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, directory / part)
    return directory


def run(copy: Path, tests: list[str] | tuple[str, ...], *, deadline: float = DEADLINE) -> tuple[bool, str]:
    """Whether a test fails in that copy, and which one did first."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    # The copy's own package goes before the one that is installed.
    environment = {
        **os.environ,
        "PYTHONPATH": str(copy),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(copy / ".hypothesis"),
    }
    try:
        ended = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=deadline, check=False
        )
    except subprocess.TimeoutExpired:
        return True, "its tests hang"
    if ended.returncode not in {0, 1}:
        return False, f"pytest ended with {ended.returncode}: {(ended.stdout + ended.stderr)[-400:]}"
    lines = [line for line in ended.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return ended.returncode == 1, (lines or ["all its tests pass"])[0].partition(" - ")[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
