"""A container of the image that `make image` built, with a root file system that nothing can be written to.

IMAGE and ENGINE name the image and the engine, as they do for ``tests/image/build``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from deviceplugin import __version__

DEADLINE = 60.0
# What an engine does for a container with a read-only root, for Buildah, which has no option for it.
READ_ONLY = """
set -eu
root=$1; shift
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
for directory in tmp run; do mount -t tmpfs tmpfs "$root/$directory"; done
exec chroot "$root" "$@"
"""


class Container(Protocol):
    def run(self, *command: str, stdin: str = "") -> str:
        """What a command says on standard output; it has to succeed."""

    def config(self) -> dict[str, Any]:
        """The image's configuration, in OCI's terms."""


def said(*command: str, stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}: {done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class OfEngine:
    engine: str
    image: str

    def run(self, *command: str, stdin: str = "") -> str:
        kept = ("--read-only", "--tmpfs=/tmp", "--tmpfs=/run", "--network=none", "--cap-add=NET_ADMIN")
        options = ("--rm", "--interactive", *kept)
        return said(
            self.engine, "run", *options, "--entrypoint", command[0], self.image, *command[1:], stdin=stdin
        )

    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(said(self.engine, "image", "inspect", self.image))[0]["Config"]
        return found


@dataclass(frozen=True)
class OfBuildah:
    image: str
    root: Path

    def run(self, *command: str, stdin: str = "") -> str:
        environment = ("env", "--ignore-environment", *self.config()["Env"])
        return said(
            *("unshare", "--mount", "--propagation", "private"),
            *(*environment, "/bin/sh", "-c", READ_ONLY, "sh", str(self.root), *command),
            stdin=stdin,
        )

    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(said("buildah", "inspect", "--type", "image", self.image))
        described: dict[str, Any] = found["OCIv1"]["config"]
        return described


def works(engine: str) -> bool:
    if shutil.which(engine) is None:
        return False
    asked = subprocess.run([engine, "version"], capture_output=True, timeout=DEADLINE, check=False)
    return asked.returncode == 0


@pytest.fixture(scope="session")
def container() -> Iterator[Container]:
    image = os.environ.get("IMAGE") or f"localhost/mdev-device-plugin:{__version__}"
    wanted = os.environ.get("ENGINE")
    engine = wanted or next((each for each in ("buildah", "podman", "docker") if works(each)), None)
    assert engine, "looking into the image takes the engine that built it: buildah, podman or docker"
    if engine != "buildah":
        yield OfEngine(engine, image)
        return
    assert os.geteuid() == 0, "looking into an image with buildah takes root: set ENGINE=podman, or be root"
    name = said("buildah", "from", "--pull-never", image).strip()
    try:
        yield OfBuildah(image, Path(said("buildah", "mount", name).strip()))
    finally:
        said("buildah", "rm", name)
