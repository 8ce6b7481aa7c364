"""The image's bill of materials: ``python -m tests.image.sbom PYTHON.json PACKAGES.tsv``, printed.

The Python packages come from the lock, as ``cyclonedx-py`` describes them; the interpreter and what the
distribution brought come from the image, as ``tests/image/build`` lists them. The same input gives the same
bill, to the byte.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote


def completed(bill: dict[str, Any], packages: str) -> dict[str, Any]:
    """A CycloneDX bill of Python packages, and in it what else the image holds.

    Args:
        packages: the distribution and its version, the interpreter and its version, then a package's name,
            version and architecture a line, with tabs between.
    """
    (system, release), (interpreter, version), *lines = (line.split("\t") for line in packages.splitlines())
    others = [_component(interpreter, version, f"pkg:generic/{interpreter}@{quote(version, safe='')}")]
    for name, number, architecture in sorted(lines):
        purl = f"pkg:deb/{system}/{quote(name, safe='')}@{quote(number, safe='')}"
        others.append(_component(name, number, f"{purl}?arch={architecture}&distro={system}-{release}"))
    used = [{"ref": each["bom-ref"]} for each in others]
    return {
        **bill,
        "components": [*bill["components"], *others],
        "dependencies": [*bill["dependencies"], *used],
    }


def _component(name: str, version: str, purl: str) -> dict[str, str]:
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def main() -> None:
    # The tool for bills has an environment of its own; nothing else here needs it.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    bill, packages = map(Path, sys.argv[1:])
    text = json.dumps(completed(json.loads(bill.read_text("utf-8")), packages.read_text("utf-8")), indent=2)
    if (wrong := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)) is not None:
        sys.exit(f"the bill of materials is not CycloneDX: {wrong}")
    print(text)


if __name__ == "__main__":
    main()
