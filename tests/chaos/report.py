"""What came of a run: for tests, for people, and for docs/reliability.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.checker import SECOND, Verdict


@dataclass
class Report:
    """What came of a run."""

    store: str
    seed: int
    verdict: Verdict
    seconds: float
    allowed: int
    unanswered: int
    hits: int
    """Answers that came from a cache in a caller."""
    full: int
    changes: dict[str, int]
    unknown: int
    """Changes that nobody knew the outcome of."""
    manners: dict[str, int]
    faults: dict[str, int]
    waits: dict[str, dict[str, float]]
    """By what they said: how many there were, and ms at the median, the 99th percentile and the most."""
    problems: list[str] = field(default_factory=list)
    """What went wrong with the run itself, or with a replica."""

    def lacking(self, questions: int, changes: int, faults: int) -> list[str]:
        """Say where the run did too little to mean anything: less than these."""
        done = {
            "questions": (self.verdict.checked, questions),
            "changes": (sum(self.changes.values()), changes),
            "faults": (sum(self.faults.values()), faults),
            "ALLOWs": (self.allowed, questions // 10),
            "answers from caches": (self.hits, questions // 10),
            "denials": (self.verdict.checked - self.allowed, questions // 20),
        }
        return [f"only {had} {what}, not {least}" for what, (had, least) in done.items() if had < least]


def spread(times: list[int]) -> dict[str, float]:
    """Return how many *times* (ns) there are, and their spread in ms."""
    times = sorted(times)
    at = {"p50": len(times) // 2, "p99": int(len(times) * 0.99), "most": -1}
    return {"count": len(times), **{name: round(times[place] / 1e6, 1) for name, place in at.items()}}


def told(report: Report) -> str:
    """Return the report for people."""
    verdict = report.verdict
    lines = [
        f"{report.store}, seed {report.seed}, {report.seconds:.0f} s",
        f"  questions  {verdict.checked} checked ({report.allowed} ALLOW, {report.full} fully consistent), "
        f"{report.unanswered} unanswered; {report.hits} answers came from caches in callers",
        f"  changes    {sum(report.changes.values())}, and {report.unknown} of unknown outcome:"
        f" {_counted(report.changes)}",
        f"  faults     {sum(report.faults.values())}: {_counted(report.faults)}",
        *(
            f"  waits      {outcome}: {it['count']:.0f}, {it['p50']} ms median, {it['p99']} p99, {it['most']} most"
            for outcome, it in report.waits.items()
        ),
        f"  window     {verdict.window / 1e6:.1f} ms behind a change that was not waited for; L is {SECOND / 1e6:.0f}",
        f"  violations {len(verdict.violations)}, {verdict.false_allows} of them ALLOWs {verdict.by_kind() or ''}",
        *(f"    {violation}" for violation in verdict.violations[:10]),
        *(f"  problem    {problem}" for problem in report.problems),
    ]
    return "\n".join(lines)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def table(reports: Sequence[Report]) -> str:
    """Return a table, as docs/reliability.md has it."""
    rows = [
        (
            it.store, f"{it.verdict.checked:,}", f"{sum(it.changes.values()):,}", f"{sum(it.faults.values())}",
            f"{len(it.verdict.violations)}", f"{it.verdict.window / 1e6:.0f} ms", f"{it.seconds:.0f} s",
        )
        for it in reports
    ]  # fmt: skip
    head = ("store", "operations", "mutations", "faults", "violations", "largest window", "duration")
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows))
