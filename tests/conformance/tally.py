"""A plugin of pytest for `make conformance`: how many tests of each system passed and failed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

NAMES = {name.lower(): name for name in ("Faction", "Invicti", "Fegura", "FactoryThread")} | {"aiia": "AIIA"}
OTHERS = "decision tables"


def system_of(path: str) -> str:
    """Return the system that a test file is about: tests/conformance/test_faction_roles.py is Faction's."""
    word = Path(path).stem.removeprefix("test_").partition("_")[0]
    return NAMES.get(word, OTHERS)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    passed, failed = (_counted(terminalreporter, *words) for words in (("passed",), ("failed", "error")))
    terminalreporter.section("conformance")
    for name in (*NAMES.values(), OTHERS):
        terminalreporter.write_line(f"{name:<16} {passed[name]} passed, {failed[name]} failed")
    terminalreporter.write_line(f"{'total':<16} {passed.total()} passed, {failed.total()} failed")


def _counted(reporter: pytest.TerminalReporter, *words: str) -> Counter[str]:
    return Counter(
        system_of(report.nodeid.partition("::")[0])
        for word in words
        for report in reporter.stats.get(word, ())
        if word != "passed" or report.when == "call"
    )
