"""The node that the histories play on, and the configurations that its agents get."""

from __future__ import annotations

NODE = """
description: two cards with a pool each, one that counts instances, one with virtual functions
models:
  serial:
    driver: serial
    pools: {ports: 4}
    attributes: {vendor/speed: {access: rw, initial: "slow"}}
    types:
    - {id: s-1, name: One port, takes: {ports: 1}}
    - {id: s-2, name: Two ports, takes: {ports: 2}}
  display:
    driver: display
    instances: 2
    types: [{id: d-vga, name: vga}, {id: d-xga, name: xga}]
  gpu:
    driver: gpu
    bus: pci
    vendor: 0x10de
    device: 0x2236
    vfs: 3
    mixes: size
    pools: {memory: 4}
    types:
    - {id: g-1, name: GPU-1, description: max_instance=4, takes: {memory: 1}, max: 4}
    - {id: g-2, name: GPU-2, description: max_instance=2, takes: {memory: 2}, max: 2}
cards:
- {model: serial, address: serial0}
- {model: serial, address: serial1}
- {model: display, address: display0}
- {model: gpu, address: "0000:3b:00.0", numa: 1}
"""

PARENTS = ("serial0", "serial1", "display0", "0000:3b:00.4", "0000:3b:00.5", "0000:3b:00.6")
TYPES = {
    "serial0": ("s-1", "s-2"),
    "serial1": ("s-1", "s-2"),
    "display0": ("d-vga", "d-xga"),
    "0000:3b:00.4": ("g-1", "g-2"),
}

_ALL = tuple(f"vfio.dev/{kind}" for kind in ("s-1", "s-2", "d-vga", "d-xga", "g-1", "g-2"))
_FAST = "{name: x.dev/any-serial, types: [s-2, s-1], attributes: {vendor/speed: fast}}"

CONFIGURATIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("", _ALL),
    (f"resources: [{_FAST}]", (*_ALL, "x.dev/any-serial")),
    ("discovery: {domain: other.dev}", tuple(name.replace("vfio.dev", "other.dev") for name in _ALL)),
    (f"discovery: {{include: []}}\nresources: [{_FAST}]", ("x.dev/any-serial",)),
    (
        "resources: [{name: vfio.dev/s-1, types: [d-vga], max: 1}, {name: x.dev/gpu, types: [g-2, g-1]}]",
        (*_ALL, "x.dev/gpu"),
    ),
)
"""What an agent reads, and the resources that it offers then."""


def types_of(configuration: int, resource: str) -> tuple[tuple[str, ...], int | None]:
    """The types that satisfy a resource, and its quota."""
    if resource == "x.dev/any-serial":
        return ("s-2", "s-1"), None
    if resource == "x.dev/gpu":
        return ("g-2", "g-1"), None
    if configuration == len(CONFIGURATIONS) - 1 and resource == "vfio.dev/s-1":
        return ("d-vga",), 1
    return (resource.rpartition("/")[2],), None
