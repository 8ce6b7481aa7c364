"""The demo: a story that is checked as it is told, so that its end is proof of all of it."""

from __future__ import annotations

import importlib.util
import os
import pty
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deviceplugin.simulator.demo.demo import _is_live

LIMIT = 60
"""Seconds; it takes about ten."""
END = "All of this was checked as it happened."
MAIN = "import sys; sys.argv = ['mdev-device-plugin', 'demo']; from deviceplugin.cli import main; main()"


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Where the demo puts its files, short enough for sockets; nothing may be left in it."""
    with tempfile.TemporaryDirectory(prefix="mdev-", dir="/tmp") as directory:
        yield Path(directory)
        assert list(Path(directory).iterdir()) == []


def demo(temporary: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *(arguments or ("-m", "deviceplugin", "demo", "--plain"))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )


def processes_below(temporary: Path) -> list[str]:
    """The command lines that name this directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if os.fsencode(temporary) in line:
            found.append(line.replace(b"\0", b" ").decode())
    return found


def test_the_story_comes_true(temporary: Path) -> None:
    told, errors = demo(temporary).communicate(timeout=LIMIT)
    assert errors == ""
    assert told.rstrip().splitlines()[-1].startswith(END)
    for sentence in (
        "MDEV_PCI_RESOURCE_VFIO_DEV_NVIDIA-232=6d646576-",
        "| /dev/vfio/0 (mrw)",
        "still held by the VM that had it before",
        "device removed: kubelet calm, not listed twice",
        "A new agent offers the same slots under the same IDs",
        "SIGTERM: the agent ended with 0.",
    ):
        assert sentence in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_story_leaves_nothing_behind(temporary: Path, number: signal.Signals) -> None:
    process = demo(temporary)
    assert process.stdout is not None
    while "Its VM has attached the device" not in (line := process.stdout.readline()):
        assert line
    assert len(processes_below(temporary)) == 2
    process.send_signal(number)
    _, errors = process.communicate(timeout=LIMIT)
    assert (process.returncode, errors.strip()) == (130, "mdev-device-plugin: interrupted")
    assert processes_below(temporary) == []


def test_a_story_that_does_not_come_true_says_so_and_fails(temporary: Path) -> None:
    spoilt = (
        "from deviceplugin.simulator.demo import processes, stage\n"
        "processes.PATIENCE = stage.PATIENCE = 3\n"
        "stage.CONFIG = stage.CONFIG.replace('grace: 1s', 'enabled: false')\n"
    )
    process = demo(temporary, "-c", spoilt + MAIN)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert errors.startswith(
        "mdev-device-plugin: the demo went wrong: the agent did not log 'device not removed'"
    )
    assert errors.count("\n") == 1
    assert processes_below(temporary) == []


def test_on_a_terminal_the_node_is_seen_below_the_story(temporary: Path) -> None:
    pytest.importorskip("rich")
    hasty = (
        "from deviceplugin.simulator.demo import screen as s\n"
        "s._TITLE = s._LINE = s._QUOTE = s._PER_CHARACTER = 0\n"
    )
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", hasty + MAIN],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TMPDIR": str(temporary), "TERM": "xterm", "COLUMNS": "100", "LINES": "40"},
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:
        pass  # So a terminal ends whose last user is gone.
    finally:
        os.close(ours)
    assert process.wait(LIMIT) == 0
    text = shown.decode()
    assert END in text
    for part in ("RESOURCE", "■", "agent running", "agent not running", "training", "6. All pods end."):
        assert part in text


def test_without_rich_a_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert not _is_live()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    assert _is_live()
