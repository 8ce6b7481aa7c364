"""Writes what is made of the chart's and the program's own words, or says what of it is stale.

    python -m tests.chart.generate [--check]

That is the program's part of ``values.schema.json``, the table of values in the chart's README, and the
manifests.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.chart import manifests, valuesschema, valuestable
from tests.chart.helm import CHART, ROOT

_TABLE = re.compile(r"(?<=<!-- made of values.yaml: -->\n).*?(?=<!-- end -->)", re.DOTALL)


def current() -> Iterator[tuple[Path, str]]:
    """The files that are made, wholly or in part, each with the text that it should have."""
    schema = CHART / "values.schema.json"
    yield schema, valuesschema.current(schema.read_text("utf-8"))
    readme = CHART / "README.md"
    table = valuestable.table((CHART / "values.yaml").read_text("utf-8"))
    yield readme, _TABLE.sub(lambda _: f"\n{table}\n", readme.read_text("utf-8"))
    yield from manifests.current()


def stale() -> Iterator[tuple[Path, str]]:
    """The files that have another text than they should, and the latter."""
    return ((path, text) for path, text in current() if not path.exists() or path.read_text("utf-8") != text)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chart.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if something is stale")
    check = parser.parse_args().check
    written = []
    for path, text in stale():  # One by one: what is rendered depends on the schema before it.
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        print(f"{path.relative_to(ROOT)}: {'stale' if check else 'written'}")
        written.append(path)
    if written and check:
        print("`make chart` writes them anew", file=sys.stderr)
    return int(check and bool(written))


if __name__ == "__main__":
    sys.exit(main())
