"""What a kubelet objects to in a plugin's registration, before it calls the plugin back."""

from __future__ import annotations

import re
from pathlib import Path

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb

API_VERSION = "v1beta1"
MAX_SOCKET_PATH = 107

_ENDPOINT = re.compile(r"[A-Za-z0-9._-]+")
_PREFIX = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NAME = re.compile(r"(?=.{1,63}$)[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


def objection(request: pb.RegisterRequest, directory: Path) -> str | None:
    """Why a registration is refused, or None.

    The real kubelet has no rule for the endpoint's name; it tries to dial a URI that such a name spoils,
    and gives up after ten seconds. Here it is said at once.
    """
    if request.version != API_VERSION:
        return f"API version {request.version!r} is not supported by the kubelet, which speaks {API_VERSION}"
    if not is_extended_resource(request.resource_name):
        return f"the ResourceName {request.resource_name!r} is invalid"
    if not _ENDPOINT.fullmatch(request.endpoint):
        return f"the endpoint {request.endpoint!r} can't be dialled: only A-Z a-z 0-9 . _ - are safe in it"
    if len(str(directory / request.endpoint).encode()) > MAX_SOCKET_PATH:
        return f"the path of the endpoint {request.endpoint!r} exceeds {MAX_SOCKET_PATH} bytes"
    return None


def is_extended_resource(name: str) -> bool:
    """Whether the kubelet takes a name for that of an extended resource."""
    prefix, slash, rest = name.partition("/")
    if not slash or "kubernetes.io/" in name or name.startswith("requests."):
        return False
    return bool(_PREFIX.fullmatch(prefix) and _NAME.fullmatch(rest))
