"""The links of the Markdown documents, as GitHub reads them: files, and the anchors of headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^(`{3,})[^\n]*\n.*?^\1 *$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.*?) *#*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Link:
    """A link to something of the project, from a document."""

    document: Path
    target: str

    @property
    def file(self) -> Path:
        path = self.target.partition("#")[0]
        return (self.document.parent / path).resolve() if path else self.document

    @property
    def anchor(self) -> str:
        return self.target.partition("#")[2]

    def __str__(self) -> str:
        return f"{self.document.name}: {self.target}"


def links(document: Path) -> Iterator[Link]:
    """The document's links, but for those to other sites."""
    text = _CODE.sub("code", _FENCE.sub("", document.read_text("utf-8")))
    for target in _LINK.findall(text):
        if "://" not in target and not target.startswith("mailto:"):
            yield Link(document, target)


def anchors(document: Path) -> frozenset[str]:
    """What a link may have behind ``#``."""
    found: list[str] = []
    for heading in _HEADING.findall(_FENCE.sub("", document.read_text("utf-8"))):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found.append(slug if slug not in found else f"{slug}-{found.count(slug)}")
    return frozenset(found)


def broken(link: Link) -> str | None:
    """What is wrong with a link; None if it leads somewhere."""
    if not link.file.exists():
        return f"{link}: there is no such file"
    if link.anchor and link.anchor not in anchors(link.file):
        return f"{link}: {link.file.name} has no such heading"
    return None
