"""Reading the tables of our Markdown files."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def table(file: str, first: str) -> list[list[str]]:
    """The rows of the table in docs/*file* whose first column is headed *first*; cells without backticks."""
    lines = (DOCS / file).read_text("utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if re.match(rf"\| {re.escape(first)} \|", line))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().replace("`", "") for cell in line.strip("|").split("|")])
    return rows


def words(cell: str) -> set[str]:
    """What a cell lists, separated by commas."""
    return {word.strip() for word in cell.split(",")} - {""}
