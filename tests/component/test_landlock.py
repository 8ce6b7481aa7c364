"""What a confined agent can't write, and that it works all the same."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from deviceplugin.cli import confinement
from deviceplugin.cli.confinement import Confinement
from deviceplugin.host import landlock
from deviceplugin.host.paths import HostPaths
from deviceplugin.kubelet.paths import KubeletPaths

TRY = """
import json, os, sys
from pathlib import Path
from deviceplugin.cli.confinement import Confinement
from deviceplugin.host.paths import HostPaths
from deviceplugin.kubelet.paths import KubeletPaths
root = Path(sys.argv[1])
confinement = Confinement(HostPaths(root), KubeletPaths(root / "k"), root / "cdi")
confinement.begin()
assert confinement.holds
def tried(what):
    try:
        what()
    except PermissionError:
        return "refused"
    return "done"
def write(path):
    os.close(os.open(root / path, os.O_WRONLY))
plugins = root / "k/device-plugins"
print(json.dumps({
    "an attribute": tried(lambda: write("sys/devices/card/create")),
    "a group": tried(lambda: write("dev/vfio/7")),
    "a socket made": tried(lambda: (plugins / "mine.sock").write_text("")),
    "a socket removed": tried((plugins / "old.sock").unlink),
    "a specification renamed": tried(lambda: (root / "cdi/a.tmp").rename(root / "cdi/a.json")),
    "the rest of sysfs": tried(lambda: write("sys/kernel/uevent_helper")),
    "the rest of dev": tried(lambda: write("dev/vda")),
    "proc": tried(lambda: write("proc/core_pattern")),
    "the kubelet's other files": tried(lambda: write("k/pods")),
    "a device node": tried(lambda: os.mkfifo(root / "dev/new")),
    "a file removed": tried((root / "dev/vda").unlink),
    "a read": tried((root / "proc/core_pattern").read_text),
    "privileges": Path("/proc/self/status").read_text().partition("NoNewPrivs:")[2].split()[0],
}))
"""

pytestmark = pytest.mark.skipif(not landlock.version(), reason="this machine's kernel has no Landlock")


@pytest.fixture
def root() -> Iterator[Path]:
    """A node's files, or what stands for them."""
    root = Path(tempfile.mkdtemp(prefix="mdev-", dir="/tmp"))
    for name in (
        "sys/devices/card/create",
        "sys/kernel/uevent_helper",
        "dev/vfio/7",
        "dev/vda",
        "proc/core_pattern",
        "k/device-plugins/old.sock",
        "k/pods",
        "cdi/a.tmp",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    yield root
    shutil.rmtree(root)


async def test_it_writes_where_it_has_business_and_nowhere_else(root: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", TRY, str(root), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    said, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    assert json.loads(said) == {
        "an attribute": "done",
        "a group": "done",
        "a socket made": "done",
        "a socket removed": "done",
        "a specification renamed": "done",
        "the rest of sysfs": "refused",
        "the rest of dev": "refused",
        "proc": "refused",
        "the kubelet's other files": "refused",
        "a device node": "refused",
        "a file removed": "refused",
        "a read": "done",
        "privileges": "1",
    }


@asynccontextmanager
async def agent(root: Path, *extra: str) -> AsyncIterator[Path]:
    """An agent on this machine's own node, without a kubelet; gives its log."""
    log = root / "log"
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "deviceplugin", "run", "--kubelet-root", str(root / "k"), *extra),
            stderr=file,
        )
    try:
        yield log
    finally:
        process.terminate()
        assert await process.wait() == 0


async def until_said(log: Path, text: str) -> dict[str, object]:
    async with asyncio.timeout(20):
        while True:
            for line in log.read_text().splitlines():
                if text in line:
                    found: dict[str, object] = json.loads(line)
                    return found
            await asyncio.sleep(0.02)


async def test_the_agent_on_a_real_node_is_confined_and_says_so(root: Path) -> None:
    async with agent(root) as log:
        said = await until_said(log, "confined by Landlock")
        assert said["event"] == "confined by Landlock"
        assert "/sys/devices" in str(said["writes"])


async def test_it_can_be_switched_off(root: Path) -> None:
    async with agent(root, "--no-landlock") as log:
        await until_said(log, "no mediated device type yet")
        assert "Landlock" not in log.read_text()


async def test_a_directory_of_groups_that_comes_later_ends_the_agent(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confinement, "INTERVAL", 0.01)
    monkeypatch.setattr(landlock, "confine", lambda **_: True)  # Not this process.
    shutil.rmtree(root / "dev/vfio")
    confined = Confinement(HostPaths(root), KubeletPaths(root / "k"), None)
    confined.begin()
    void = asyncio.create_task(confined.void())
    await asyncio.sleep(0.1)
    assert not void.done()
    (root / "dev/vfio").mkdir()
    await asyncio.wait_for(void, 10)


async def test_a_kubelets_directory_that_is_made_anew_ends_the_agent_with_a_code(root: Path) -> None:
    log = root / "log"
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "deviceplugin", "run", "--kubelet-root", str(root / "k")), stderr=file
        )
    await until_said(log, "confined by Landlock")
    (root / "k/device-plugins").rename(root / "k/old")
    (root / "k/device-plugins").mkdir()
    async with asyncio.timeout(30):
        assert await process.wait() == 1
    await until_said(log, "a directory was made after the agent was confined")


async def test_a_kernel_without_landlock_confines_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 0)
    confined = Confinement(HostPaths(root), KubeletPaths(root / "k"), None)
    confined.begin()
    assert not confined.holds
