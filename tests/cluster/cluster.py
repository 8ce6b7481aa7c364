"""The cluster as kubectl shows it, in JSON."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.cluster.commands import Refused, run

_NOT_REACHED = "unable to upgrade connection"
_KUBELET_STARTS = 20.0
"""Seconds until a kubelet that was started reaches its pods, at most."""
_PAUSE = 0.2

Object = dict[str, Any]
"""Anything that the API server knows, as it is written in a manifest."""


class Cluster:
    """Whatever cluster kubectl talks to."""

    def kubectl(self, *arguments: str, given: str = "") -> str:
        """What kubectl prints.

        Raises:
            Refused: it failed.
        """
        return run(("kubectl", *arguments), given=given)

    def get(self, kind: str, name: str, *, namespace: str = "") -> Object | None:
        """An object, or None where there is none."""
        text = self.kubectl("get", kind, name, *_within(namespace), "--ignore-not-found", "-o", "json")
        found: Object | None = json.loads(text) if text.strip() else None
        return found

    def list(self, kind: str, *, namespace: str = "", selector: str = "") -> list[Object]:
        """All objects of a kind; in every namespace if none is named."""
        where = _within(namespace) if namespace else ("--all-namespaces",)
        chosen = ("--selector", selector) if selector else ()
        found: list[Object] = json.loads(self.kubectl("get", kind, *where, *chosen, "-o", "json"))["items"]
        return found

    def create(self, *objects: Object) -> None:
        self.kubectl("create", "-f", "-", given=_manifest(objects))

    def validate(self, *objects: Object) -> None:
        """Have the API server check objects, which it doesn't have yet, as strictly as it can.

        Raises:
            Refused: it found something.
        """
        self.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", given=_manifest(objects))

    def post(self, path: str, body: Object) -> None:
        """Send something to a path of the API, for what kubectl has no command."""
        self.kubectl("create", "--raw", path, "-f", "-", given=json.dumps(body))

    def delete(self, kind: str, name: str, *options: str, namespace: str = "") -> None:
        """Delete an object, if it is there, and don't wait for its end."""
        self.kubectl(
            "delete", kind, name, *_within(namespace), "--ignore-not-found", "--wait=false", *options
        )

    def execute(self, namespace: str, pod: str, *command: str, container: str = "") -> str:
        """What a command prints inside a container, the pod's first by default."""
        which = ("--container", container) if container else ()
        arguments = ("exec", "--namespace", namespace, pod, *which, "--quiet", "--", *command)
        deadline = time.monotonic() + _KUBELET_STARTS
        while True:
            try:
                return self.kubectl(*arguments)
            except Refused as error:
                # The command was not begun: a kubelet that has just started does not know its pods yet.
                if _NOT_REACHED not in str(error) or time.monotonic() >= deadline:
                    raise
            time.sleep(_PAUSE)

    def ask(self, namespace: str, pod: str, port: int, path: str) -> tuple[int, str]:
        """What a pod's HTTP server answers to a GET, through the API server: status and body."""
        with self._proxy() as proxy:
            url = f"{proxy}/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}"
            try:
                with urllib.request.urlopen(url, timeout=20) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read().decode()
            except OSError as error:
                raise Refused(f"{url}: {error}") from error

    @contextmanager
    def _proxy(self) -> Iterator[str]:
        """The API server's address for a client that has no credentials."""
        proxy = subprocess.Popen(("kubectl", "proxy", "--port=0"), stdout=subprocess.PIPE, text=True)
        try:
            assert proxy.stdout is not None
            said = proxy.stdout.readline().split()
            if not said:
                raise Refused("kubectl proxy: did not start")
            yield f"http://{said[-1]}"
        finally:
            proxy.terminate()
            proxy.communicate()


def _within(namespace: str) -> tuple[str, ...]:
    return ("--namespace", namespace) if namespace else ()


def _manifest(objects: tuple[Object, ...]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})


def condition(of: Mapping[str, Any], kind: str) -> Object:
    """A condition of an object's status; an empty one where there is none."""
    conditions: list[Object] = of.get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == kind), {})
