"""The image's bill of materials."""

from __future__ import annotations

from typing import Any

from tests.image.sbom import completed

PYTHON: dict[str, Any] = {
    "bomFormat": "CycloneDX",
    "components": [{"bom-ref": "a", "name": "grpcio", "type": "library"}],
    "dependencies": [{"ref": "a"}],
}
HEAD = "debian\t12\npython\t3.11.2\n"


def test_it_names_the_interpreter_and_the_distributions_packages_beside_the_locks() -> None:
    bill = completed(PYTHON, f"{HEAD}zlib1g\t1:1.2.13.dfsg-1\tamd64\nlibstdc++6\t12.2.0+1\tamd64\n")
    assert [each.get("purl") for each in bill["components"]] == [
        None,
        "pkg:generic/python@3.11.2",
        "pkg:deb/debian/libstdc%2B%2B6@12.2.0%2B1?arch=amd64&distro=debian-12",
        "pkg:deb/debian/zlib1g@1%3A1.2.13.dfsg-1?arch=amd64&distro=debian-12",
    ]
    assert bill["bomFormat"] == "CycloneDX"
    refs = [each["bom-ref"] for each in bill["components"]]
    assert refs == [each["ref"] for each in bill["dependencies"]]
    assert len(set(refs)) == 4


def test_the_order_in_which_packages_are_listed_makes_no_difference() -> None:
    lines = ["b\t1\tall", "a\t2\tamd64", "c\t3\tall"]
    bills = [completed(PYTHON, HEAD + "\n".join(order)) for order in (lines, lines[::-1])]
    assert bills[0] == bills[1]
