"""Links between our files lead somewhere, headings included."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)]*))?\)")


def headings(file: Path) -> set[str]:
    """The headings of a file, as links spell them."""
    found = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(file: Path) -> None:
    for path, heading in LINK.findall(file.read_text("utf-8")):
        if "://" in path:
            continue
        target = file.parent / path if path else file
        assert target.exists(), path
        assert not heading or heading in headings(target), f"{path}#{heading}"
